"""Tickets as threads: what customer, agents and people write, over days.

A thread is the ticket's own text and its messages in the order of `seq`; nothing in it changes, and
new messages come behind. So the vault of a thread up to a message is a pure function of the file,
as that of a ticket alone is, and a run that answers an older message finds the same placeholders
again. What people write waits as a draft for the effect that sends it: the journal holds the
draft's id and no word of it.

status   open | replied | escalated (waits for a person) | held (a person has it) | assigned |
         closed; a customer's message opens again what is not with a person
author   customer | agent | person (both go to the customer) | note (a person's, for who comes next)
"""

import hashlib
import sqlite3
from typing import Any, Final, Literal

from agents.desk_file import MAX_BODY_CHARS, DeskFile
from agents.desks import Row
from agents.macros import Macro
from agents.pii import Vault
from cluster.errors import Conflict, InvalidInput, NotFound

Author = Literal["customer", "agent", "person", "note"]
STATUSES: Final = ("open", "replied", "escalated", "held", "assigned", "closed")
WITH_PEOPLE: Final = ("escalated", "held", "assigned")
"""While a ticket is one of these no agent answers it."""
BEFORE: Final = 8
"""How many of a thread's earlier messages whoever answers is shown."""
MAX_MESSAGES: Final = 1_000


class Threads(DeskFile):
    """What is read of threads, and what comes in."""

    # --- what comes in

    def say(self, ticket: str, id: str, text: str) -> Row:
        """A customer's further message: its `message`, whether it is `repeated`, and whether an
        agent is to answer it (`waits_for`: agent or person). Conflict when the id holds another
        message, or a thread has MAX_MESSAGES."""
        _require_text("text", text)
        with self.transaction():
            row = self._row("tickets", "ticket", ticket)
            found = self.one("select * from messages where id = ?", id)
            if found is not None and (found["ticket"], found["text"]) != (ticket, text):
                raise Conflict(f"message {id}", "this id holds another message")
            status = row["status"]
            if found is None:
                count = self.one("select count(*) n from messages where ticket = ?", ticket)
                if count is not None and count["n"] >= MAX_MESSAGES:
                    raise Conflict(f"ticket {ticket}", f"it has {MAX_MESSAGES} messages already")
                self._add_message(id, ticket, "customer", "", text)
                if status not in WITH_PEOPLE:
                    status = "open"
                    self._set_status(ticket, status)
        waits_for = "person" if status in WITH_PEOPLE else "agent"
        return {
            "ticket": ticket, "message": id, "customer": row["customer"], "waits_for": waits_for,
            "repeated": found is not None,
        }  # fmt: skip

    def draft(self, ticket: str, by: str, text: str = "", macro: Macro | None = None) -> str:
        """Keep what a person wrote, or a macro for this ticket, until an effect sends it; the
        draft's id, which is the same for the same words."""
        with self.transaction():
            row, account = self._ticket(ticket)
            if macro is not None:
                text = macro.filled({
                    "name": account["name"], "ticket": ticket, "by": by,
                    "order": self._order_of(row, account),
                })  # fmt: skip
            _require_text("text", text)
            said = "\x00".join((ticket, by, text)).encode()
            id = f"D-{hashlib.sha256(said).hexdigest()[:16]}"
            self._db.execute(
                "insert or ignore into drafts values (?,?,?,?)", (id, ticket, by, text)
            )
        return id

    # --- what is read

    def thread(self, ticket: str, upto: str = "") -> list[Row]:
        """The messages of a ticket behind its own text, oldest first, raw; up to the one named."""
        with self._lock:
            self._row("tickets", "ticket", ticket)
            rows = self.all("select * from messages where ticket = ? order by seq", ticket)
        if not upto:
            return rows
        place = next((i for i, r in enumerate(rows) if r["id"] == upto), None)
        if place is None:
            raise NotFound("message", upto)
        return rows[: place + 1]

    def vault(self, ticket: str, upto: str = "") -> tuple[Vault, str, list[Row]]:
        """The vault of a thread, and the redacted texts of the ticket and of its messages."""
        with self._lock:
            row, account = self._ticket(ticket)
            messages = self.thread(ticket, upto)
        vault, text = self._vault_of(row, account)
        return vault, text, [{**m, "text": vault.redact(m["text"], account)} for m in messages]

    def read_message(self, ticket: str, upto: str) -> Row:
        """As `read_ticket`, further on: `text` is the customer's last word in the thread up to the
        message `upto`, `before` what was said until then (author and text, the last BEFORE of it),
        `notes` what people have noted since, `opened` the ticket's own text, `message` is
        `upto`."""
        view = self._view(self._ticket(ticket)[0])
        _, text, messages = self.vault(ticket, upto)
        said = [{"author": "customer", "text": text}, *messages]
        last = max(i for i, m in enumerate(said) if m["author"] == "customer")
        earlier = [m for m in said[:last] if m["author"] != "note"][-BEFORE:]
        return {
            **view, "text": said[last]["text"], "message": upto, "opened": text,
            "before": [{"author": m["author"], "text": m["text"]} for m in earlier],
            "notes": [m["text"] for m in said if m["author"] == "note"][-BEFORE:],
        }  # fmt: skip

    def listed(self, status: str = "", after: str = "", limit: int = 50) -> list[Row]:
        """Tickets behind `after`, the last one that was opened first, raw: id, subject, customer,
        name, status, held_by, score, and `last`, when something was said behind its own text
        (seconds since the epoch, or None)."""
        if status and status not in STATUSES:
            raise InvalidInput("status", status, f"one of {list(STATUSES)}")
        place = self.one("select rowid place from tickets where id = ?", after) if after else None
        if after and place is None:
            raise InvalidInput("after", after, "a ticket's id")
        below = place["place"] if place is not None else 1 << 62
        return self.all(
            "select t.id, t.subject, t.customer, c.name, t.status, h.by held_by, t.received,"
            " (select max(at) from messages m where m.ticket = t.id) last, r.score"
            " from tickets t join customers c on c.id = t.customer"
            " left join holders h on h.ticket = t.id left join ratings r on r.ticket = t.id"
            " where t.rowid < ? and (? = '' or t.status = ?) order by t.rowid desc limit ?",
            below, status, status, limit,
        )  # fmt: skip

    def whole(self, ticket: str) -> Row:
        """All that a person who works at a ticket has to know, raw: the ticket, its customer with
        orders and other tickets, the messages, why it was handed over, and who holds it."""
        with self._lock:
            row, customer = self._ticket(ticket)
            messages = self.thread(ticket)
            handed = self.one(
                "select reason, summary from escalations where ticket = ? order by rowid desc",
                ticket,
            )
            holder = self.one("select by, at from holders where ticket = ?", ticket)
            score = self.one("select score, text comment from ratings where ticket = ?", ticket)
            orders = self.all(
                "select id, item, status, total_cents, refunded_cents, currency from orders"
                " where customer = ? order by ordered desc, id", row["customer"],
            )  # fmt: skip
            others = self.all(
                "select id, subject, status, received from tickets where customer = ?"
                " and id != ? order by received desc limit 20", row["customer"], ticket,
            )  # fmt: skip
        said = [{k: m[k] for k in ("id", "author", "by", "text", "at")} for m in messages]
        if handed is not None:
            handed["summary"] = self.vault(ticket)[0].render(handed["summary"])
        return {
            **row, "customer": customer, "messages": said, "escalation": handed, "held": holder,
            "rating": score, "orders": orders, "other_tickets": others,
        }  # fmt: skip

    def unanswered(self, ticket: str) -> str | None:
        """Whether the customer has the last word, notes aside: the id of the thread's last message,
        "" where there is none; else None."""
        messages = self.thread(ticket)
        said = [m["author"] for m in messages if m["author"] != "note"]
        if said and said[-1] != "customer":
            return None
        return str(messages[-1]["id"]) if messages else ""

    # ---

    def _add_message(self, id: str, ticket: str, author: Author, by: str, text: str) -> None:
        values = (id, ticket, author, by, text, self._clock.now())
        try:
            self._db.execute(
                "insert into messages(id, ticket, author, by, text, at) values (?,?,?,?,?,?)",
                values,
            )
        except sqlite3.IntegrityError as error:
            raise Conflict(f"message {id}", str(error)) from None

    def _order_of(self, ticket: Row, account: Row) -> str:
        """The customer's order that the thread names last, or the only one there is."""
        orders = [
            o["id"] for o in self.all("select id from orders where customer = ?", account["id"])
        ]
        said = "\n".join(
            (ticket["subject"], ticket["body"], *(m["text"] for m in self.thread(ticket["id"])))
        )
        places = {said.upper().rfind(o.upper()): o for o in orders}
        last = max(places, default=-1)
        if last >= 0:
            return str(places[last])
        return str(orders[0]) if len(orders) == 1 else ""

    def _set_status(self, ticket: str, status: str) -> None:
        self._db.execute("update tickets set status = ? where id = ?", (status, ticket))


def _require_text(field: str, text: str) -> None:
    if not text.strip() or len(text) > MAX_BODY_CHARS or "\x00" in text:
        was: Any = text if len(text) < 80 else f"{len(text)} characters"
        raise InvalidInput(field, was, f"1 to {MAX_BODY_CHARS} characters")
