"""PURE: how what people write is found and read: rules of patterns, and numbers."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final

from cluster.errors import InvalidInput

_WORDS: Final = {
    word: value
    for value, word in enumerate(
        "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
        "sixteen seventeen eighteen nineteen twenty".split(),
        start=1,
    )
} | {
    "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
    "hundred": 100,
}  # fmt: skip
# the longest first: "seventeen" is not "seven"
NUMBER_WORD: Final = "(?:" + "|".join(sorted(_WORDS, key=len, reverse=True)) + ")"
DIGITS: Final = (
    r"\d{1,3}(?:[.,' \u00a0]\d{3})+(?:[.,]\d{1,2})?(?!\d)|\d{1,15}(?:[.,]\d{1,6})?(?!\d)"
)
"""A number in digits: 24.90, 12,5, 1,024.50, 1.024,50 and 12 000."""
GONE: Final = "\x00"
"""Stands in a text for each character that a rule has taken."""
_GROUPED: Final = re.compile(r"\d{1,3}(?:[.,' \u00a0]\d{3})+")


def number(text: str) -> Decimal:
    """What a number in digits or one of the words of NUMBER_WORD is worth.

    The last of two kinds of separator is the decimal one; a separator before exactly three digits
    groups them. Raises InvalidInput for anything else.
    """
    low = text.strip().lower()
    if low in _WORDS:
        return Decimal(_WORDS[low])
    try:
        return Decimal(_plain(low))
    except InvalidOperation:
        raise InvalidInput("number", text, "digits, or a number word up to a hundred") from None


def plain(value: Decimal) -> str:
    """The shortest digits of `value`: 24.90 and 24.9 are the same."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _plain(text: str) -> str:
    marks = re.findall(r"\D", text)
    if len(set(marks)) == 2:
        whole, _, rest = text.rpartition(marks[-1])
        return re.sub(r"\D", "", whole) + "." + rest
    if _GROUPED.fullmatch(text):
        return re.sub(r"\D", "", text)
    return text.replace(",", ".")


@dataclass(frozen=True, slots=True)
class Rule:
    """What matches `pattern` is a `kind`, and means what `key` makes of the match: nothing at all
    when that is None."""

    kind: str
    pattern: re.Pattern[str]
    key: Callable[[re.Match[str]], str | None]


def scan(text: str, rules: Sequence[Rule]) -> Iterator[tuple[str, int, int, str]]:
    """(kind, start, end, key) of what the rules find; an earlier rule's finds are gone for the
    later ones."""
    for rule in rules:
        parts: list[str] = []
        end = 0
        for match in rule.pattern.finditer(text):
            key = rule.key(match)
            if key is not None:
                yield rule.kind, *match.span(), key
                parts += text[end : match.start()], GONE * (match.end() - match.start())
                end = match.end()
        text = "".join((*parts, text[end:]))
