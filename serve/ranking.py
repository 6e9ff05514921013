"""PURE: in which order models are tried whose chance of a right answer is predicted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

WORTH: Final = 0.1  # how much more often a dearer model must be right to be taken for its price


@dataclass(frozen=True, slots=True)
class Quality:
    """The predicted chance of a right answer, and the lower end of its 95 % interval."""

    chance: float
    low: float


def ranked(
    models: Sequence[str],
    quality: Mapping[str, Quality],
    usd: Mapping[str, float],
    target: float | None,
) -> tuple[list[str], str]:
    """The models in the order of trying, and why. With a `target`, the cheapest whose lower bound
    reaches it, else the strongest. Without one, the cheapest that is hardly worse than it."""
    strongest = max(models, key=lambda i: (quality[i].chance, -usd[i]))
    cheapest = sorted(models, key=lambda i: (usd[i], -quality[i].chance))
    if target is None:
        best = quality[strongest].chance
        chosen = next(i for i in cheapest if best - quality[i].chance <= WORTH)
        gain = best - min(quality[i].chance for i in models)
        return _led_by([chosen], models, quality), f"predicted gain {gain:.2f}"
    reaching = [i for i in cheapest if quality[i].low >= target]
    if not reaching:
        reason = f"quality {target:g} cannot be promised, {strongest} is the strongest"
        return _led_by([strongest], models, quality), reason
    return _led_by(reaching, models, quality), f"the cheapest that reaches quality {target:g}"


def told(models: Sequence[str], quality: Mapping[str, Quality], usd: Mapping[str, float]) -> str:
    """The plan in words: each model with its predicted quality, where there is one, and price."""
    return ", ".join(f"{i}{_chances(quality.get(i))} {usd[i]:.6f} USD" for i in models)


def _led_by(first: list[str], models: Sequence[str], quality: Mapping[str, Quality]) -> list[str]:
    rest = [i for i in models if i not in first]
    return [*first, *sorted(rest, key=lambda i: -quality[i].chance)]


def _chances(found: Quality | None) -> str:
    return "" if found is None else f" {found.chance:.2f} (at least {found.low:.2f})"
