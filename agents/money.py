"""PURE: amounts of money as people write them, in cents."""

import re
from typing import Final

from agents.references import References

_PLAIN: Final = re.compile(r"\d+(?:\.\d{1,2})?")
_FOREIGN: Final = ("$", "£", "usd", "gbp", "dollar", "pound")


def cents(amount: str) -> int | None:
    """The cents of an amount in the desk's currency, such as "24.90 EUR", "€ 24,90" or "12 euros".

    None for another currency and for what can be read in two ways: 1.024 may be a thousand or a
    little over one, and whoever can't tell asks a person.
    """
    digits = "".join(c for c in amount if c.isdigit() or c in ".,").strip(".,").replace(",", ".")
    if any(mark in amount.lower() for mark in _FOREIGN) or not _PLAIN.fullmatch(digits):
        return None
    return round(float(digits) * 100)


def largest_named(text: str) -> int:
    """The largest amount that a text names, in cents; 0 when it names none that can be read."""
    references = References()
    references.rewrite(text)
    named = [cents(references.value(r) or "") for r in references.of_kind("AMOUNT")]
    return max((c for c in named if c is not None), default=0)
