"""PURE: the dates in a text, in many spellings, as what they mean.

"3 December 2026", "Dec 3rd, 2026", "03.12.2026" and "2026-12-03" are one date. What is said of a
day by its distance ("tomorrow", "in three weeks", "Friday") means nothing without the day on which
it was said: `anchored` writes the day behind it, and without that it is no date. Days are in UTC.

Covered: English, and the month and day names of German, French and Spanish. 3/12/2026 may be a day
in March or in December: it equals only itself. Not covered: dates in words ("the third of May"),
feast days, years alone.
"""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Final

from memory.spelling import NUMBER_WORD, Rule, number

_MONTHS: Final = (
    "jan(?:uary|uar|vier)?|enero", "feb(?:ruary|ruar|rero)?|février|fevrier",
    "mar(?:ch|zo)?|märz|mars", "apr(?:il)?|avril|abril", "may|mai|mayo", "june?|juni|juin|junio",
    "july?|juli|juillet|julio", "aug(?:ust)?|août|aout|agosto", "sept?(?:ember|embre)?|septiembre",
    "o[ck]t(?:ober|obre|ubre)?", "nov(?:ember|embre|iembre)?",
    "de[cz](?:ember|embre)?|décembre|diciembre",
)  # fmt: skip
_NAME: Final = rf"(?P<name>(?:{'|'.join(_MONTHS)})\b)\.?"
_YEAR: Final = r"(?P<year>(?:19|20|21)\d{2})(?!\d)"
_SHORT_YEAR: Final = r"(?P<year>\d{4}|\d{2})(?!\d)"
_DAY: Final = r"(?P<day>\d{1,2})(?!\d)(?:st|nd|rd|th|\.)?"
_FREE: Final = r"(?<![\d.,/-])"  # not in the middle of a longer number
_SPELLINGS: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_FREE}{_YEAR}-(?P<month>\d{{2}})-(?P<day>\d{{2}})(?![\d-])",
        rf"{_FREE}(?P<day>\d{{1,2}})\.\s?(?P<month>\d{{1,2}})\.\s?{_SHORT_YEAR}",
        rf"{_FREE}(?P<first>\d{{1,2}})/(?P<second>\d{{1,2}})/{_SHORT_YEAR}",
        rf"{_FREE}{_DAY}\s(?:of\s|de\s)?{_NAME}(?:,?\s(?:de\s)?{_YEAR})?",
        rf"\b{_NAME}\s{_DAY}(?:,?\s{_YEAR})?",
        rf"{_FREE}(?P<day>\d{{1,2}})\.(?P<month>\d{{1,2}})\.(?!\d)",
    )
)
_WEEKDAY: Final = (
    "(?:mon|tues|wednes|thurs|fri|satur|sun)day|montag|dienstag|mittwoch|donnerstag|freitag|samstag"
    "|sonntag|lundi|mardi|mercredi|jeudi|vendredi|samedi|dimanche|lunes|martes|miércoles|jueves"
    "|viernes|sábado|domingo"
)
_DISTANCES: Final = {
    "day before yesterday": -2, "vorgestern": -2, "yesterday": -1, "last night": -1, "gestern": -1,
    "hier soir": -1, "ayer": -1, "today": 0, "tonight": 0, "this morning": 0, "this afternoon": 0,
    "this evening": 0, "heute": 0, "aujourd'hui": 0, "hoy": 0, "day after tomorrow": 2,
    "übermorgen": 2, "après-demain": 2, "pasado mañana": 2, "tomorrow": 1, "demain": 1,
}  # fmt: skip
UNANCHORED: Final = "unanchored"
_UNITS: Final = {"day": 1, "week": 7}
_NEAR: Final = re.compile(
    rf"\b(?:(?P<word>{'|'.join(_DISTANCES)})"
    rf"|in (?P<ahead>\d{{1,3}}|{NUMBER_WORD}) (?P<unit>day|week)s?(?: time)?"
    rf"|(?P<ago>\d{{1,3}}|{NUMBER_WORD}) (?P<past>day|week)s? ago"
    rf"|(?P<vague>(?:(?:next|last|this|coming|nächsten?|letzten?) )?(?:{_WEEKDAY})"
    r"|(?:(?:by|at) )?(?:the )?end of (?:the |this |next )?(?:week|month|year)"
    r"|(?:next|last|this) (?:week(?:end)?|month|year)|in (?:a|an) (?:day|week|month)"
    rf"|(?:(?:\d{{1,3}}|{NUMBER_WORD}|a) )(?:month|year)s? ago"
    rf"|in (?:\d{{1,3}}|{NUMBER_WORD}) (?:month|year)s?))\b(?P<anchor> \((?:said )?[\d-]{{10}}\))?",
    re.IGNORECASE,
)


def anchored(text: str, said_at: float) -> str:
    """`text` with the day behind every word that tells a day by its distance from `said_at`
    (seconds since the epoch): "tomorrow (2026-11-24)", "Friday (said 2026-11-23)". Doing it again
    changes nothing."""
    said = datetime.fromtimestamp(said_at, UTC).date()

    def with_day(match: re.Match[str]) -> str:
        if match["anchor"]:
            return match.group()
        days = _distance(match)
        day = _moved(said, days) if days is not None else None
        return f"{match.group()} ({day.isoformat() if day else f'said {said.isoformat()}'})"

    return _NEAR.sub(with_day, text)


def with_year(key: str, said_at: float) -> str:
    """The day that "--12-03" means to who says it at `said_at`: the nearest one."""
    said = datetime.fromtimestamp(said_at, UTC).date()
    around = [_day(said.year + step, int(key[2:4]), int(key[5:7])) for step in (-1, 0, 1)]
    near = [day for day in around if day]
    return min(near, key=lambda day: abs((day - said).days)).isoformat() if near else key


def _near(match: re.Match[str]) -> str:
    words = " ".join(match.group().lower().split())
    if not match["anchor"]:
        return f"{UNANCHORED} {words}"
    return words if "said" in match["anchor"] else match["anchor"][2:-1]


def _key(match: re.Match[str]) -> str | None:
    part = match.groupdict()
    year = _year(part.get("year"))
    if part.get("first"):
        return _either(int(part["first"] or 0), int(part["second"] or 0), year)
    month = _month(part["name"]) if part.get("name") else int(part["month"] or 0)
    day = int(part["day"] or 0)
    # 2024 has a 29th of February: without a year, that is a day too
    if _day(year or 2024, month, day) is None:
        return None
    return f"{year}-{month:02}-{day:02}" if year else f"--{month:02}-{day:02}"


def _either(first: int, second: int, year: int | None) -> str | None:
    """A date with slashes: the month is the number that can be one; when both can, neither is."""
    days = (_day(year or 0, first, second), _day(year or 0, second, first))
    readings = {day.isoformat() for day in days if day}
    if len(readings) > 1:
        return f"{first}/{second}/{year}"
    return readings.pop() if readings else None


def _year(text: str | None) -> int | None:
    if not text:
        return None
    return int(text) + (2000 if len(text) == 2 else 0)


def _month(name: str) -> int:
    low = name.lower()
    return next(n for n, names in enumerate(_MONTHS, 1) if re.fullmatch(names, low))


def _day(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None


def _distance(match: re.Match[str]) -> int | None:
    """Days from the day of saying, or None for what does not name one day."""
    part = match.groupdict()
    if part["word"]:
        return _DISTANCES[" ".join(part["word"].lower().split())]
    if part["ahead"]:
        return int(number(part["ahead"])) * _UNITS[part["unit"].lower()]
    if part["ago"]:
        return -int(number(part["ago"])) * _UNITS[part["past"].lower()]
    return None


def _moved(day: date, days: int) -> date | None:
    try:
        return day + timedelta(days=days)
    except OverflowError:
        return None


RULES: Final = (
    Rule("date", _NEAR, _near),
    *(Rule("date", pattern, _key) for pattern in _SPELLINGS),
)
"""A date's key is the day as 2026-12-03, --12-03 without a year, 3/12/2026 where that may be two
days, the words with the day on which they were said, or, UNANCHORED before them, the bare words."""
