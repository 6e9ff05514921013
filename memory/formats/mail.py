"""E-mail (`.eml`, and threads as `.mbox`) becomes passages under subject and sender.

What a reply quotes is told once: quoted text that an earlier message of the thread holds is left
out, other quoted text stands under a title that says that it is quoted. Signatures are left out;
attachments are named and not read. Headers go to the passages' meta, the date to event_at.
"""

import email
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC
from email import policy
from email.message import EmailMessage
from email.utils import parseaddr, parsedate_to_datetime
from typing import Final

from cluster.errors import InvalidInput
from memory.chunking import paragraphs, titled
from memory.formats.html import html
from memory.passages import Block, Passage, Section, packed, renumbered, valid

_FIRST_LINE: Final = re.compile(rb"(?:\A|(?<=\n\n)|(?<=\n\r\n))From [^\n]*\n")
_ESCAPED: Final = re.compile(rb"^>(>*From )", re.MULTILINE)
_PREFIX: Final = re.compile(r"^(?:(?:re|aw|fwd?|wg|sv|antw)\s*(?:\[\d+\])?:\s*)+", re.IGNORECASE)
_WROTE: Final = re.compile(
    r"^(?:On|Am|Le|El|Il|Op) .{4,300}(?:wrote|schrieb|écrit|escribió|scritto|schreef).{0,80}:$"
)
_FORWARDED: Final = re.compile(
    r"^(?:-{2,} ?(?:Original Message|Forwarded message|Ursprüngliche Nachricht) ?-{2,}"
    r"|Begin forwarded message:)$",
    re.IGNORECASE,
)
_QUOTED: Final = re.compile(r"^(?:>\s?)+")
_SIGNATURE: Final = "--"
_META: Final = ("from", "to", "cc", "subject", "date", "message-id", "in-reply-to")
_LONGEST_WROTE: Final = 400  # characters
_LONGEST_META: Final = 500  # characters of one header
_THREAD: Final = 200_000  # characters of a thread in which quoted text is looked for


def eml(content: bytes) -> list[Passage]:
    """Passages of one message, in order."""
    return _Threads().passages(content, 1)


def mbox(content: bytes) -> list[Passage]:
    """Passages of a mailbox's messages, numbered through. Raises InvalidInput for another file."""
    threads = _Threads()
    marks = list(_FIRST_LINE.finditer(content))
    if not content.strip():
        return []
    if not marks:
        raise InvalidInput("mailbox", content[:40], "messages that each start with a 'From ' line")
    ends = [mark.start() for mark in marks[1:]] + [len(content)]
    return renumbered(
        passage
        for number, (mark, end) in enumerate(zip(marks, ends, strict=True), 1)
        for passage in threads.passages(_ESCAPED.sub(rb"\1", content[mark.end() : end]), number)
    )


@dataclass(frozen=True, slots=True)
class _Body:
    own: str
    quoted: str


class _Threads:
    """What the messages so far have said, by subject."""

    def __init__(self) -> None:
        self._said: defaultdict[str, str] = defaultdict(str)

    def passages(self, content: bytes, number: int) -> list[Passage]:
        """Passages of the message that is the file's `number`th."""
        message = email.message_from_bytes(content, policy=policy.default)
        about = _headers(message)
        subject = _PREFIX.sub("", about.get("subject", "")).strip()
        sender = parseaddr(about.get("from", ""))
        body = _split(_text(message))
        name = sender[0] or sender[1]
        said = [Section(titled([subject, name]), _blocks(body.own, number))]
        new = [b for b in _blocks(body.quoted, number) if not self._known(subject, b.text)]
        said.append(Section(titled([subject, f"quoted by {name or 'the sender'}"]), new))
        self._learn(subject, body)
        when = _date(about.get("date", ""))
        return [
            replace(passage, meta=about, event_at=when) for passage in packed(said, unit="message")
        ]

    def _known(self, subject: str, text: str) -> bool:
        return _alike(text) in self._said[subject]

    def _learn(self, subject: str, body: _Body) -> None:
        told = f"{self._said[subject]} {_alike(body.own)} {_alike(body.quoted)}"
        self._said[subject] = told[-_THREAD:]


def _alike(text: str) -> str:
    """The words alone: mail programs break quoted lines anew."""
    return " ".join(text.split()).casefold()


def _blocks(text: str, number: int) -> list[Block]:
    return [Block(block.text, number, number) for block in paragraphs(text)]


def _headers(message: EmailMessage) -> Mapping[str, str]:
    about = {}
    for name in _META:
        if value := _header(message, name):
            about[name.replace("-", "_")] = value
    names = [valid(part.get_filename() or "") for part in message.walk() if part.get_filename()]
    if names:
        about["attachments"] = ", ".join(names)[:_LONGEST_META]
    return about


def _header(message: EmailMessage, name: str) -> str:
    try:
        value = str(message.get(name, ""))
    except (ValueError, TypeError, AttributeError, LookupError):
        return ""  # the header parser fails on some of what spam programs write
    return " ".join(valid(value).split())[:_LONGEST_META]


def _date(text: str) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _text(message: EmailMessage) -> str:
    """The part that is meant to be read, as plain text."""
    part = message.get_body(preferencelist=("plain", "html"))
    if part is None:
        return ""
    payload = part.get_payload(decode=True)
    raw = payload if isinstance(payload, bytes) else b""
    try:
        text = raw.decode(part.get_content_charset() or "utf-8", "replace")
    except LookupError:
        text = raw.decode("utf-8", "replace")
    if part.get_content_subtype() == "html":
        return "\n\n".join(passage.text for passage in html(valid(text)))
    return valid(text)


def _split(text: str) -> _Body:
    """What the sender wrote, and what the message repeats of others."""
    own: list[str] = []
    quoted: list[str] = []
    forwarded = False
    for repeats, line in _whole_attributions(_told(text)):
        if _WROTE.match(line[:_LONGEST_WROTE]):
            line = ""
        if forwarded or repeats:
            quoted.append(line)
        elif _FORWARDED.match(line):
            forwarded = True
        elif line == _SIGNATURE:
            break
        else:
            own.append(line)
            quoted.append("")
    return _Body("\n".join(own), "\n".join(quoted))


def _told(text: str) -> list[tuple[bool, str]]:
    """Each line without its quotation marks, and whether it had any."""
    return [
        (bool(_QUOTED.match(line)), _QUOTED.sub("", line).strip()) for line in text.splitlines()
    ]


def _whole_attributions(lines: list[tuple[bool, str]]) -> Iterator[tuple[bool, str]]:
    """The lines, with an "On ..., NAME wrote:" that was broken in two made whole."""
    skip = False
    for (repeats, line), (too, after) in zip(lines, [*lines[1:], (False, "")], strict=True):
        both = f"{line} {after}"
        broken = repeats == too and not _WROTE.match(line[:_LONGEST_WROTE])
        if skip:
            skip = False
        elif broken and len(both) <= _LONGEST_WROTE and _WROTE.match(both):
            skip = True
            yield repeats, both
        else:
            yield repeats, line
