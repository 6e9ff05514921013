"""Tickets as other systems give them away: CSV, a mailbox (mbox), Zendesk's JSON export.

Files are read a ticket at a time. What is wrong with one is said by its place; the others go on.

CSV      id, email (or customer), subject, body, received; name where there is one
mbox     a message is a ticket; its sender the customer
Zendesk  {"tickets": [...], "users": [...]}, a list of tickets, or a ticket a line; a ticket has id,
         subject, description, created_at and requester_id (looked up in users) or requester
"""

import hashlib
import json
import mailbox
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from email.utils import parseaddr, parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, Literal

from cluster.errors import InvalidInput, NotFound
from serve.bulk.tables import rows

Form = Literal["csv", "mbox", "zendesk"]
FORMS: Final[dict[str, Form]] = {
    ".csv": "csv", ".mbox": "mbox", ".json": "zendesk", ".jsonl": "zendesk",
}  # fmt: skip
MOST_CHARS: Final = 20_000
_CUT: Final = "\n[...]"
_MOST_JSON: Final = 1_000_000_000


@dataclass(frozen=True)
class Ticket:
    """A ticket; its customer by the desk's id or by an e-mail address. `received` is an ISO day."""

    id: str
    customer: str
    email: str
    name: str
    subject: str
    body: str
    received: str


@dataclass(frozen=True)
class Wrong:
    """What can't be taken over: where it stands in the file, and why."""

    where: str
    why: str


def form_of(path: Path) -> Form:
    """By the file's name. InvalidInput for one that says nothing."""
    form = FORMS.get(path.suffix.lower())
    if form is None:
        raise InvalidInput(
            "file", path.name, f"a name that ends in one of {list(FORMS)}, or --form"
        )
    return form


def tickets(path: Path, form: Form) -> Iterator[Ticket | Wrong]:
    """The file's tickets in order. NotFound without the file, InvalidInput for another form."""
    if not path.is_file():
        raise NotFound("file", str(path))
    read = {"csv": _csv, "mbox": _mbox, "zendesk": _zendesk}[form]
    yield from read(path)


def _csv(path: Path) -> Iterator[Ticket | Wrong]:
    for number, row in enumerate(rows(path), 1):
        told = {str(k).strip().lower(): v for k, v in row.items()}
        yield _made(f"row {number}", {
            "id": told.get("id"), "customer": told.get("customer"), "email": told.get("email"),
            "name": told.get("name"), "subject": told.get("subject"),
            "body": told.get("body") or told.get("description"),
            "received": told.get("received") or told.get("created_at"),
        })  # fmt: skip


def _mbox(path: Path) -> Iterator[Ticket | Wrong]:
    with path.open("rb") as file:
        if file.read(5) != b"From ":
            raise InvalidInput("file", path.name, "a mailbox, whose messages start with From")
    box = mailbox.mbox(path, factory=None, create=False)
    parser = BytesParser(policy=policy.default)
    try:
        for number, key in enumerate(box.iterkeys(), 1):
            message = parser.parsebytes(box.get_bytes(key))
            assert isinstance(message, EmailMessage)
            yield _of_message(f"message {number}", message)
    finally:
        box.close()


def _of_message(where: str, message: EmailMessage) -> Ticket | Wrong:
    name, address = parseaddr(str(message.get("from", "")))
    named = str(message.get("message-id", "")) or str(message.get("date", "")) + address
    part = message.get_body(preferencelist=("plain",))
    try:
        body = part.get_content() if part is not None else ""
        received = parsedate_to_datetime(str(message["date"])).date().isoformat()
    except (LookupError, ValueError, TypeError) as error:
        return Wrong(where, f"no readable message ({error})")
    return _made(where, {
        "id": f"M-{hashlib.sha256(named.encode()).hexdigest()[:12]}", "email": address,
        "name": name, "subject": str(message.get("subject", "")), "body": body,
        "received": received,
    })  # fmt: skip


def _zendesk(path: Path) -> Iterator[Ticket | Wrong]:
    users: dict[str, Mapping[str, Any]] = {}
    found: Iterator[Any]
    if path.suffix.lower() == ".jsonl":
        found = rows(path)
    else:
        if path.stat().st_size > _MOST_JSON:
            raise InvalidInput(
                "file", path.name, "under 1 GB; a ticket a line (.jsonl) may be more"
            )
        try:
            told = json.loads(path.read_text("utf-8"))
        except (ValueError, RecursionError) as error:
            raise InvalidInput("file", path.name, f"JSON ({error})") from None
        listed = told.get("tickets") if isinstance(told, dict) else told
        if not isinstance(listed, list):
            raise InvalidInput("file", path.name, "Zendesk's export: tickets, and users")
        if isinstance(told, dict):
            users = {str(u.get("id")): u for u in told.get("users") or [] if isinstance(u, dict)}
        found = iter(listed)
    for number, given in enumerate(found, 1):
        where = f"ticket {number}"
        if not isinstance(given, dict):
            yield Wrong(where, "not an object")
            continue
        asker = given.get("requester")
        if not isinstance(asker, Mapping):
            asker = users.get(str(given.get("requester_id")), {})
        yield _made(where, {
            "id": f"Z-{given['id']}" if given.get("id") else None, "email": asker.get("email"),
            "name": asker.get("name"), "subject": given.get("subject"),
            "body": given.get("description"), "received": given.get("created_at"),
        })  # fmt: skip


def _made(where: str, told: Mapping[str, Any]) -> Ticket | Wrong:
    text = {name: str(v).strip() for name, v in told.items() if v is not None}
    if not (text.get("email") or text.get("customer")):
        return Wrong(where, "nobody is named: an email or a customer")
    if not text.get("id"):
        return Wrong(where, "it has no id")
    if not text.get("body"):
        return Wrong(where, "it says nothing")
    try:
        received = _day(told.get("received"))
    except ValueError:
        return Wrong(where, f"received is {text.get('received', '')!r}; expected a day, 2026-11-20")
    room = MOST_CHARS - len(text.get("subject", "")[:500])
    body = text["body"].replace("\x00", " ")
    body = body if len(body) <= room else body[: room - len(_CUT)] + _CUT
    subject = text.get("subject", "")[:500].replace("\x00", " ")
    who = (text.get("customer", ""), text.get("email", ""), text.get("name", "")[:200])
    return Ticket(text["id"][:80], *who, subject, body, received)


def _day(value: Any) -> str:
    if isinstance(value, datetime):
        return value.date().isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if value in (None, ""):
        return datetime.now(UTC).date().isoformat()
    return datetime.fromisoformat(str(value).strip()).date().isoformat()
