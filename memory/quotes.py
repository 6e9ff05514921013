"""PURE: a summary in the speakers' own words: the sentences that hold the critical facts, and no
others. It needs no model and invents nothing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from memory.probe import Loss, Probe
from memory.statements import Statement

_GIST_WORDS: Final = 3
_GIST_LONGEST: Final = 30
_FIXED_COST: Final = 4  # words that a sentence costs beside its own: citation and speaker


@dataclass(frozen=True, slots=True)
class Cited:
    """A sentence of a summary, said by `who` ("" for the summary itself), and the indices of the
    lines that it rests on."""

    text: str
    who: str
    lines: tuple[int, ...]


def extract(originals: Sequence[Statement], probe: Probe) -> list[Cited]:
    """The sentences that hold all critical facts, in reading order: every promise and rule, then
    those that hold the most of the other values for their length; and what was asked first."""
    chosen = list(probe.bonds)
    if first := _gist(originals):
        chosen.append(first)
    return quoted([*chosen, *_holders(originals, probe.lost(chosen))])


def _holders(originals: Sequence[Statement], lost: Sequence[Loss]) -> list[Statement]:
    """Sentences that together hold the lost values, the one that is worth most first."""
    held = {
        s: {n for n, loss in enumerate(lost) if loss.kept_by(s.keys)} for s in originals if s.values
    }
    chosen: list[Statement] = []
    left = set(range(len(lost)))
    while left:
        best = max(held, key=lambda s: len(held[s] & left) / (_FIXED_COST + len(s.words)))
        chosen.append(best)
        left -= held[best]
    return chosen


def repairs(losses: Sequence[Loss]) -> list[Cited]:
    """The sentences that hold what was lost."""
    return quoted(loss.holder for loss in losses)


def quoted(statements: Iterable[Statement]) -> list[Cited]:
    """Sentences as they were said, each once, in reading order."""
    ordered = sorted(dict.fromkeys(statements), key=lambda s: s.line)
    return [Cited(s.text, s.who, (s.line,)) for s in ordered]


def _gist(originals: Sequence[Statement]) -> Statement | None:
    """What the conversation begins with: its first question, or else its first real sentence."""
    opening = [
        s
        for s in originals
        if originals[0].line == s.line and _GIST_WORDS <= len(s.text.split()) <= _GIST_LONGEST
    ]
    return next((s for s in opening if s.marks[2]), opening[0] if opening else None)
