"""Values travel by reference: models see [ORDER_1], never the value behind it.

Text from outside is rewritten before any model or log sees it. What is personal (names, e-mail
addresses, phone and card numbers, bank accounts, national numbers, IP and postal addresses) is
replaced by the help-desk connector, which alone can put it back (`agents/pii.py`). Every other
value that could be copied wrong (order ids, tracking ids, amounts, dates, plain numbers) is
replaced here. One value has one reference within a conversation, so a reference in a plan or a
draft means exactly that value: it can be missing, but it can't be misspelt.

Covered: the patterns below. Not covered: numbers written as words, ids of an unknown shape.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

PERSONAL: Final = ("NAME", "EMAIL", "PHONE", "CARD", "IBAN", "ID", "IP", "ADDRESS")
VALUES: Final = ("ORDER", "TRACKING", "AMOUNT", "DATE", "NUMBER")

REFERENCE: Final = re.compile(rf"\[({'|'.join(PERSONAL + VALUES)})_([1-9][0-9]{{0,4}})\]")

_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sep(?:t(?:ember)?)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
# 24.90, 12,5 and 1,024.50; an amount is taken whole or not at all, never its last digits.
_MONEY = r"(?:\d{1,3}(?:[.,]\d{3})+(?:[.,]\d{1,2})?|\d{1,6}(?:[.,]\d{1,2})?)"
# In order of precedence: what an earlier pattern takes, a later one never sees.
_PATTERNS: Final[tuple[tuple[str, re.Pattern[str]], ...]] = (
    ("ORDER", re.compile(r"\b[A-Z]{2}-\d{5}\b", re.IGNORECASE)),
    ("TRACKING", re.compile(r"\b[A-Z]{2}\d{9}[A-Z]{2}\b", re.IGNORECASE)),
    (
        "AMOUNT",
        re.compile(
            rf"(?:(?:€|\$|£|\bEUR|\bUSD|\bGBP)\s?{_MONEY}(?![.,]?\d)"
            rf"|(?<![.,])\b{_MONEY}\s?"
            r"(?:€|\$|£|EUR\b|USD\b|GBP\b|euros?\b|dollars?\b|pounds?\b))",
            re.IGNORECASE,
        ),
    ),
    (
        "DATE",
        re.compile(
            rf"\b(?:\d{{4}}-\d{{2}}-\d{{2}}|\d{{1,2}}[./]\d{{1,2}}[./]\d{{2,4}}"
            rf"|\d{{1,2}}(?:st|nd|rd|th)?\.? {_MONTH}(?: \d{{4}})?"
            rf"|{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?(?:,? \d{{4}})?)\b",
            re.IGNORECASE,
        ),
    ),
    ("NUMBER", re.compile(r"\d+(?:[.,:]\d+)*")),
)


class References:
    """The references of one conversation: value to reference and back.

    Numbering follows first appearance, so the same texts in the same order give the same
    references: a turn that is resumed after a crash sees what the first attempt saw.
    """

    def __init__(self) -> None:
        self._by_value: dict[tuple[str, str], str] = {}
        self._by_reference: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    @classmethod
    def holding(cls, known: Mapping[str, str]) -> "References":
        """References that hold `known`, reference to value; what is new is numbered behind it."""
        made = cls()
        for reference, value in known.items():
            kind, number = reference[1:-1].split("_")
            made._by_value[(kind, _normal(kind, value))] = reference
            made._by_reference[reference] = value
            made._counts[kind] = max(made._counts.get(kind, 0), int(number))
        return made

    def refer(self, kind: str, value: str) -> str:
        """The reference of `value`, made on first sight."""
        key = (kind, _normal(kind, value))
        if key not in self._by_value:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            reference = f"[{kind}_{self._counts[kind]}]"
            self._by_value[key] = reference
            self._by_reference[reference] = value
        return self._by_value[key]

    def rewrite(self, text: str) -> str:
        """`text` with every value replaced by its reference; references in it stay as they are."""
        parts: list[str] = []
        end = 0
        for match in REFERENCE.finditer(text):
            parts.append(self._rewrite_plain(text[end : match.start()]))
            parts.append(match.group())
            end = match.end()
        parts.append(self._rewrite_plain(text[end:]))
        return "".join(parts)

    def render(self, text: str) -> str:
        """`text` with the references that are known here replaced by their values."""
        return REFERENCE.sub(lambda m: self._by_reference.get(m.group(), m.group()), text)

    def value(self, reference: str) -> str | None:
        """The value behind `reference`, or None when it is not one of this conversation's."""
        return self._by_reference.get(reference)

    def of_kind(self, kind: str) -> list[str]:
        """The references of one kind, in order of first appearance."""
        return [r for r in self._by_reference if r.startswith(f"[{kind}_")]

    def items(self) -> Iterable[tuple[str, str]]:
        """(reference, value) pairs in order of first appearance."""
        return self._by_reference.items()

    def _rewrite_plain(self, text: str) -> str:
        for kind, pattern in _PATTERNS:
            pieces: list[str] = []
            end = 0
            for match in pattern.finditer(text):
                if _inside_reference(text, match.start()):
                    continue
                pieces.append(text[end : match.start()])
                pieces.append(self.refer(kind, match.group()))
                end = match.end()
            pieces.append(text[end:])
            text = "".join(pieces)
        return text


def references_in(text: str) -> set[str]:
    """All references that stand in `text`."""
    return {m.group() for m in REFERENCE.finditer(text)}


def _inside_reference(text: str, position: int) -> bool:
    opening = text.rfind("[", 0, position)
    if opening < 0:
        return False
    match = REFERENCE.match(text, opening)
    return match is not None and match.end() > position


def _normal(kind: str, value: str) -> str:
    return value.upper() if kind in {"ORDER", "TRACKING"} else value.strip().lower()
