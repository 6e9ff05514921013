"""PURE: the values in a text that must not be lost or changed: ids, amounts, dates, times, numbers,
addresses.

A value is what it means, not how it is spelt: "EUR 24,90", "24.90 EUR" and "€24.9" are one amount,
"LO-48213" and "lo 48213" one id. Covered: references such as [ORDER_1]; e-mail and web addresses;
phone numbers with + or 0; amounts in the currencies below, also "twenty euros" and "24 euros and
90 cents"; what `memory/dates.py` covers; times of day; ids of letters with digits, or of five and
more digits; numbers with a unit or without. Not covered: numbers in words without a unit, names.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from memory.dates import RULES as DATE_RULES
from memory.dates import with_year
from memory.spelling import DIGITS, NUMBER_WORD, Rule, number, plain, scan

_CURRENCIES: Final = {
    "€": "EUR", "eur": "EUR", "euro": "EUR", "euros": "EUR", "$": "USD", "us$": "USD", "usd": "USD",
    "dollar": "USD", "dollars": "USD", "£": "GBP", "gbp": "GBP", "pound": "GBP", "pounds": "GBP",
    "chf": "CHF", "franken": "CHF", "francs": "CHF", "¥": "JPY", "jpy": "JPY", "yen": "JPY",
    "sek": "SEK", "nok": "NOK", "dkk": "DKK", "pln": "PLN", "czk": "CZK",
}  # fmt: skip
_MULTIPLES: Final = {"k": 1_000, "thousand": 1_000, "m": 1_000_000, "million": 1_000_000}
_AMOUNT: Final = rf"(?P<digits>{DIGITS})(?:\s?(?P<many>k|m|thousand|million)\b)?"
_SIGN: Final = r"(?P<sign>(?<![\w)])[-−])?"
_WORDED: Final = "|".join(sorted((c for c in _CURRENCIES if c[0].isalpha()), key=len, reverse=True))
_CODES: Final = "|".join(sorted({code.lower() for code in _CURRENCIES.values()}))
_MONEY: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_SIGN}(?<!\d)(?<!\d\s)(?:(?P<currency>us\$|[€$£¥])|\b(?P<code>{_CODES})\b)\s?{_AMOUNT}",
        rf"{_SIGN}(?<![\d.,]){_AMOUNT}\s?(?:(?P<currency>us\$|[€$£¥])|(?P<code>{_WORDED})\b)"
        r"(?:\s(?:and\s)?(?P<cents>\d{1,2})\s?(?:cents?|c|pence|p)\b)?",
        rf"\b(?P<digits>{NUMBER_WORD})\s(?P<code>{_WORDED})\b",
    )
)
_UNIT: Final = (
    r"%|percent|(?:working|business|calendar)\s(?:days?)|days?|weeks?|months?|years?|hours?"
    r"|minutes?|mins?|seconds?|cents?|kg|grams?|km|cm|mm|litres?|liters?|pieces?|items?|tage[n]?"
    r"|wochen?|monate?|stunden?"
)
_TIME: Final = re.compile(
    r"(?<![\d:.,])(?P<hour>[01]?\d|2[0-4]):(?P<minute>[0-5]\d)(?::[0-5]\d)?(?![\d:])"
    r"(?:\s?(?P<half>[ap])\.?m\b\.?)?|(?<![\d:.,])(?P<bare>1[0-2]|0?[1-9])\s?(?P<side>[ap])\.?m\b\.?",
    re.IGNORECASE,
)
_CONTACT: Final = re.compile(
    r"[\w.+%-]{1,64}@(?:[\w-]{1,63}\.){1,4}[^\W\d_]{2,24}|\bhttps?://[^\s<>\"')\]]{1,500}[^\s<>\"')\].,;]"
)
_PHONE: Final = re.compile(r"(?<![\w.,/-])(?:\+\d|0\d)(?:[ ()/.-]{0,2}\d){6,14}(?![\w-])")
_REFERENCE: Final = re.compile(r"\[[A-Z]{2,12}_\d{1,5}\]")
_ID: Final = (
    re.compile(r"#\s?[A-Za-z0-9][\w/-]{0,63}"),
    re.compile(r"\b[A-Z]{2,5}[ ]\d{4,}\b"),
    re.compile(r"\b(?=[\w/-]{0,63}[^\W\d_])(?=[\w/-]{0,63}\d)[^\W_][\w/-]{1,63}(?<![/-])"),
    re.compile(r"(?<![\d.,-])\d[\d-]{3,40}\d(?![\d,]|\.\d)"),
)
_ORDINAL: Final = re.compile(r"\d+(?:st|nd|rd|th|s|x)", re.IGNORECASE)
_QUANTITY: Final = re.compile(
    rf"(?<![\w.,])(?P<digits>{DIGITS}|{NUMBER_WORD})(?:\s|-)?(?P<unit>{_UNIT})(?!\w)", re.IGNORECASE
)
_BARE: Final = re.compile(rf"(?<![\d.,])(?P<digits>{DIGITS})|\d+")


@dataclass(frozen=True, slots=True)
class Value:
    """A value at text[start:end], spelt `text`. `key` is what it means; `said_as` are the other
    keys that say as much ("--12-03" is said in full by "2026-12-03"), `supports` what may be said
    of a text that holds it."""

    kind: str
    key: str
    text: str
    start: int
    end: int
    said_as: frozenset[str] = field(default=frozenset(), compare=False)
    supports: frozenset[str] = field(default=frozenset(), compare=False)

    def kept_by(self, keys: frozenset[str]) -> bool:
        """Whether one of `keys` says all that this value says."""
        return self.key in keys or not self.said_as.isdisjoint(keys)

    def __str__(self) -> str:
        return f"{self.kind} {self.text}"


@lru_cache(maxsize=4096)
def values(text: str, said_at: float | None = None) -> tuple[Value, ...]:
    """The values in `text`, in reading order, none inside another. `said_at`, in seconds since the
    epoch, tells the year of a date without one."""
    found = [
        _value(kind, f"{kind}:{key}", text[start:end], start, said_at)
        for kind, start, end, key in scan(text, _RULES)
    ]
    return tuple(sorted(found, key=lambda v: v.start))


def _value(kind: str, key: str, spelt: str, start: int, said_at: float | None) -> Value:
    full = key
    day = key.removeprefix("date:")
    if day.startswith("--") and said_at is not None:
        full = f"date:{with_year(day, said_at)}"
    short = f"date:-{key[9:]}" if re.fullmatch(r"date:\d{4}-\d\d-\d\d", key) else key
    return Value(
        kind,
        key,
        spelt,
        start,
        start + len(spelt),
        frozenset({full}),
        frozenset({key, full, short}),
    )


def _lower(match: re.Match[str]) -> str:
    return match.group().lower()


def _amount(match: re.Match[str]) -> str:
    part = match.groupdict()
    worth = number(part["digits"] or "") * _MULTIPLES.get((part.get("many") or "").lower(), 1)
    worth += number(part.get("cents") or "0") / 100
    currency = _CURRENCIES[(part.get("currency") or part.get("code") or "").lower()]
    return f"{currency} {'-' if part.get('sign') else ''}{plain(worth)}"


def _phone(match: re.Match[str]) -> str:
    digits = re.sub(r"\D", "", match.group())
    return digits[2:] if digits.startswith("00") else digits


def _time(match: re.Match[str]) -> str:
    hour = int(match["hour"] or match["bare"])
    half = (match["half"] or match["side"] or "").lower()
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    return f"{hour:02}:{match['minute'] or '00'}"


def _id(match: re.Match[str]) -> str | None:
    """Upper case, without # and without what stands between letters and digits. "3-day" and "5kg"
    are quantities, "2nd" is a number."""
    text = match.group()
    if _ORDINAL.fullmatch(text) or _QUANTITY.fullmatch(text) or not re.search(r"\d", text):
        return None
    joined = re.sub(r"[\s_/-]+", "-", text.lstrip("# ").upper())
    return re.sub(r"(?<=[^\W\d])-(?=\d)|(?<=\d)-(?=[^\W\d])", "", joined)


def _quantity(match: re.Match[str]) -> str:
    unit = " ".join(match["unit"].lower().split()).rstrip("s").replace("percent", "%")
    return f"{plain(number(match['digits']))} {unit}"


def _number(match: re.Match[str]) -> str:
    return plain(number(match.group()))


# In order of precedence: what an earlier one takes, a later one never sees.
_RULES: Final = (
    Rule("id", _REFERENCE, re.Match.group),
    Rule("contact", _CONTACT, _lower),
    *DATE_RULES,
    *(Rule("amount", pattern, _amount) for pattern in _MONEY),
    Rule("contact", _PHONE, _phone),
    Rule("time", _TIME, _time),
    *(Rule("id", pattern, _id) for pattern in _ID),
    Rule("number", _QUANTITY, _quantity),
    Rule("number", _BARE, _number),
)
