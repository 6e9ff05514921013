"""PURE: how a price experiment is planned, and when it is stopped.

Two arms sell one product side by side, at today's price and at another. What is compared is the
margin that a visitor brings: the arm's margin times its share of buyers. Looks are planned ahead,
at equal steps of the sample. The error that is spent by a share t of the sample follows the
O'Brien-Fleming-like function of Lan and DeMets (Biometrika 70, 1983): 2 - 2 F(z / sqrt t) with F
the normal distribution. Each look may only use what it adds, so that all looks together err at most
as often as planned, whatever their dependence (a union bound: it gives away a little power).

Covered: conversion and margin at two prices. Not covered: buyers who come back, seasons, returns.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

from cluster.errors import InvalidInput

ERROR: Final = 0.05
"""How often an experiment may end with a price that is no better."""
POWER: Final = 0.80
HARM: Final = 0.20
"""How often it may be broken off although the price is no worse: the cheaper mistake."""
LEAST_BUYERS: Final = 10
"""In each arm, below which shares of buyers are not near enough to normal."""

Ending = Literal["go on", "adopt", "roll back"]


@dataclass(frozen=True)
class Arm:
    """What was counted at one price: `margin_cents` is what each buyer leaves."""

    visitors: int
    buyers: int
    margin_cents: int

    @property
    def value(self) -> float:
        """Cents of margin for each visitor."""
        return self.margin_cents * self.buyers / self.visitors if self.visitors else 0.0

    @property
    def variance(self) -> float:
        """Of `value`, in square cents."""
        if not self.visitors:
            return math.inf
        share = self.buyers / self.visitors
        return self.margin_cents**2 * share * (1 - share) / self.visitors


@dataclass(frozen=True)
class Verdict:
    """What a look says, and why; `look` is its number, 0 before the first one is due."""

    ending: Ending
    reason: str
    look: int
    lift: float = 0.0


def visitors_needed(rate: float, margin_cents: int, new_margin_cents: int, lift: float) -> int:
    """Visitors in each arm, so that a margin per visitor higher by the share `lift` is found with
    POWER. `rate` is today's share of buyers.

    InvalidInput for a rate, margin or lift that no experiment can be planned with."""
    if not 0 < rate < 1:
        raise InvalidInput("rate", rate, "a share of buyers above 0 and below 1")
    if margin_cents <= 0 or new_margin_cents <= 0:
        raise InvalidInput("margin_cents", new_margin_cents, "prices above the cost")
    if not 0 < lift <= 10:
        raise InvalidInput("lift", lift, "above 0, and at most 10")
    from scipy.stats import norm  # 60 MB: for who plans, and not for who only sells

    new_rate = min(0.999, rate * margin_cents * (1 + lift) / new_margin_cents)
    spread = margin_cents**2 * rate * (1 - rate)
    spread += new_margin_cents**2 * new_rate * (1 - new_rate)
    z = float(norm.isf(ERROR) + norm.isf(1 - POWER))
    return math.ceil(z**2 * spread / (rate * margin_cents * lift) ** 2)


def look_due(control: Arm, candidate: Arm, needed: int, looks: int) -> int:
    """The number of the latest look that the smaller arm has visitors enough for; 0 for none."""
    have = min(control.visitors, candidate.visitors)
    return min(looks, have * looks // needed)


def verdict(control: Arm, candidate: Arm, needed: int, looks: int, seen: int) -> Verdict:
    """What to do now, after the look number `seen`. A candidate that is shown to be better is
    adopted, one that is shown to be worse rolled back, and so is one that is not shown to be better
    at the last look."""
    look = look_due(control, candidate, needed, looks)
    have = min(control.visitors, candidate.visitors)
    if look <= seen:
        then = math.ceil(needed * (seen + 1) / looks)
        return Verdict("go on", f"{have} of {then} visitors in each arm for the next look", seen)
    last = look == looks
    few = min(control.buyers, candidate.buyers) < LEAST_BUYERS
    if few and not last:
        return Verdict("go on", f"fewer than {LEAST_BUYERS} buyers in an arm", look)
    if few:
        return Verdict("roll back", f"fewer than {LEAST_BUYERS} buyers in an arm at the end", look)
    from scipy.stats import norm

    z = (candidate.value - control.value) / math.sqrt(control.variance + candidate.variance)
    lift = candidate.value / control.value - 1
    told = f"{lift:+.1%} margin a visitor, z {z:.2f} at look {look} of {looks}"
    if norm.sf(z) <= _spent(ERROR, look, seen, looks):
        return Verdict("adopt", f"better: {told}", look, lift)
    if norm.cdf(z) <= _spent(HARM, look, seen, looks):
        return Verdict("roll back", f"worse: {told}", look, lift)
    if last:
        return Verdict("roll back", f"not shown to be better: {told}", look, lift)
    return Verdict("go on", told, look, lift)


def _spent(error: float, look: int, seen: int, looks: int) -> float:
    """The error that the looks after `seen` up to `look` may spend."""
    return _by(error, look / looks) - _by(error, seen / looks)


def _by(error: float, share: float) -> float:
    if share <= 0:
        return 0.0
    from scipy.stats import norm

    return float(2 * norm.sf(norm.isf(error / 2) / math.sqrt(share)))
