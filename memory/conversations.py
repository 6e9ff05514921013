"""PURE: a conversation as records: who said what, which records stand for it, which of them a
summary would replace, and how a summary's text is read and written.

A conversation is the records of one session, one a message. A summary's text has rows such as
"[2,5] agent: We'll refund it by Friday (said 2026-11-23)." The numbers say which of its record's
parents the row rests on, from 1.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from cluster.errors import InvalidInput
from memory.dates import anchored
from memory.quotes import Cited
from memory.records import MAX_PARENTS, Record
from memory.statements import Line, Statement, sentences, speakers, statements

KIND: Final = "summary"
MAX_CHARS: Final = 100_000
"""Of a conversation's text that one summary reads, the oldest first."""
_WHO: Final = r"[^\W\d_][\w-]{0,31}"
_ROW: Final = re.compile(rf"\[\d+(?:,\d+)*\] (?:(?P<who>{_WHO}): )?(?P<text>.+)")
_BULLET: Final = re.compile(r"^\s*(?:(?:[-*•]|\d{1,2}[.)]|\[[\d, ]{1,40}\])\s+)+")
_SPEAKERS: Final = {"user": "user", "model": "agent"}


@dataclass(frozen=True)
class Talk:
    """What is to be summed up: the records, their lines, which of the records (from 1) each line
    is of, and what the lines say."""

    records: tuple[Record, ...]
    lines: tuple[Line, ...]
    numbers: tuple[int, ...]
    said: list[Statement] = field(compare=False)

    @property
    def names(self) -> tuple[str, ...]:
        return speakers(self.lines)

    @property
    def carried(self) -> list[Statement]:
        """What older summaries say."""
        return [s for s in self.said if self._summed_up(s.line)]

    @property
    def fresh(self) -> list[Line]:
        """The lines that no summary holds yet, with the day behind every word that needs one."""
        lines = [line for n, line in enumerate(self.lines) if not self._summed_up(n)]
        return [Line(li.id, li.who, anchored(li.text, li.at), li.at) for li in lines]

    def _summed_up(self, line: int) -> bool:
        return self.records[self.numbers[line] - 1].kind == KIND


def talk(records: Sequence[Record]) -> Talk:
    """What the records say; a summary's rows are lines of their speakers."""
    lines = [(n, line) for n, record in enumerate(records, 1) for line in _lines(record)]
    said = statements([line for _, line in lines])
    return Talk(tuple(records), tuple(li for _, li in lines), tuple(n for n, _ in lines), said)


def current(records: Sequence[Record]) -> list[Record]:
    """The records that stand for a conversation: its summaries, then the messages that no summary
    covers and those that are pinned, oldest first."""
    covered = {id for r in records if r.kind == KIND for id in r.parents}
    kept = [r for r in dict.fromkeys(records) if r.pinned or r.id not in covered]
    return sorted(kept, key=lambda r: (r.kind != KIND, r.event_at, r.recorded_at, r.number, r.id))


def replaceable(records: Sequence[Record], recent: int) -> list[Record]:
    """The records that a summary would replace: not the pinned ones, not the newest `recent`, and
    not more than one summary may have as parents or read. InvalidInput for records of several
    tenants or sessions."""
    _require_one_session(records)
    free = [r for r in current(records) if not r.pinned]
    chosen: list[Record] = []
    room = MAX_CHARS
    for record in free[: max(0, len(free) - recent)][:MAX_PARENTS]:
        room -= len(record.text)
        if room < 0:
            break
        chosen.append(record)
    return chosen


def who_said(record: Record) -> str:
    """The speaker of a message, in lower case: its meta's "who", else by where it comes from."""
    named = record.meta.get("who", "").strip().lower()
    if re.fullmatch(_WHO, named):
        return named
    return _SPEAKERS.get(record.origin.source_kind, "note")


def rendered(cited: Sequence[Cited], numbers: Sequence[int]) -> str:
    """A summary's text. Sentences of one speaker with the same citation share a row. `numbers` says
    which parent each line of the conversation is of, from 1."""
    rows: list[tuple[str, list[str]]] = []
    for sentence in cited:
        parents = sorted({numbers[line] for line in sentence.lines})
        head = f"[{','.join(map(str, parents))}]" + (f" {sentence.who}:" if sentence.who else "")
        if rows and rows[-1][0] == head and _apart(rows[-1][1][-1], sentence.text):
            rows[-1][1].append(sentence.text)
        else:
            rows.append((head, [sentence.text]))
    return "\n".join(f"{head} {' '.join(texts)}" for head, texts in rows)


def read(text: str, names: tuple[str, ...]) -> list[Statement]:
    """What a summary says, one of ours or a model's: without bullets and citations, each row by the
    speaker of `names` whom it begins with, else by nobody."""
    said: list[Statement] = []
    for number, row in enumerate(text.splitlines()):
        who, _, rest = _BULLET.sub("", row).partition(":")
        known = who.strip().lower() if who.strip().lower() in names else ""
        plain = rest if known else _BULLET.sub("", row)
        said += [Statement(part, known, names, number) for part in sentences(plain)]
    return said


def _lines(record: Record) -> Iterator[Line]:
    if record.kind != KIND:
        yield Line(record.id, who_said(record), record.text, record.event_at)
        return
    for row in record.text.splitlines():
        match = _ROW.fullmatch(row)
        who, text = (match["who"] or "", match["text"]) if match else ("", row)
        if text.strip():
            yield Line(record.id, who.lower(), text, record.event_at)


def _apart(one: str, other: str) -> bool:
    """Whether two sentences on one row are still two when they are read."""
    return list(sentences(f"{one} {other}")) == [one, other]


def _require_one_session(records: Sequence[Record]) -> None:
    for name in ("tenant", "session"):
        several = sorted({getattr(record, name) for record in records})
        if len(several) > 1:
            raise InvalidInput(name, several, f"records of one {name}")
    if records and not records[0].session:
        raise InvalidInput("session", "", "the records of a session")
