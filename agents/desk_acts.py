"""What people do at the help-desk: they take tickets, answer, give back, close; and what customers
thought of it. Each is done once for its key, as all effects are."""

from collections.abc import Callable
from typing import Final

from agents.desks import Receipt, Row
from agents.threads import WITH_PEOPLE, Author, Threads
from cluster.errors import Conflict, InvalidInput, NotFound

SCORES: Final = range(1, 6)


class DeskActs(Threads):
    """The acts; who holds a ticket, and who may do what while it is held."""

    def take(self, key: str, ticket: str, by: str) -> Receipt:
        """A person takes the ticket. Conflict while somebody else has it."""

        def act(row: Row) -> Receipt:
            self._require_holder(ticket, by)
            now = self._clock.now()
            self._db.execute("insert or replace into holders values (?,?,?)", (ticket, by, now))
            self._set_status(ticket, "held")
            return {"by": by}

        return self._once(key, "take", ticket, {"by": by}, act)

    def answer(self, key: str, ticket: str, by: str, draft: str) -> Receipt:
        """Send a person's draft to the customer. Conflict while somebody else has the ticket,
        NotFound without the draft."""

        def act(row: Row) -> Receipt:
            held = self._require_holder(ticket, by)
            text = self._sent(draft, key, ticket, "person", by)
            self._db.execute("insert into outbox values (?,?,?)", (key, ticket, text))
            self._set_status(ticket, "held" if held else "replied")
            return {"by": by, "chars": len(text)}

        return self._once(key, "answer", ticket, {"by": by, "draft": draft}, act)

    def give_back(self, key: str, ticket: str, by: str, draft: str = "") -> Receipt:
        """Give the ticket back to the agents, with a note for them if there is a draft. The receipt
        says up to where they have to read if the customer waits for an answer: see `unanswered`."""

        def act(row: Row) -> Receipt:
            if row["status"] not in WITH_PEOPLE:
                raise Conflict(f"ticket {ticket}", f"it is {row['status']}: no person has it")
            if draft:
                self._sent(draft, key, ticket, "note", by)
            self._db.execute("delete from holders where ticket = ?", (ticket,))
            left = self.unanswered(ticket)
            self._set_status(ticket, "open" if left is not None else "replied")
            return {"by": by, "unanswered": left, "customer": row["customer"]}

        return self._once(key, "give_back", ticket, {"by": by, "draft": draft}, act)

    def close_ticket(self, key: str, ticket: str, by: str) -> Receipt:
        """It is done; a further message opens it again."""

        def act(row: Row) -> Receipt:
            self._require_holder(ticket, by)
            self._db.execute("delete from holders where ticket = ?", (ticket,))
            self._set_status(ticket, "closed")
            return {"by": by}

        return self._once(key, "close_ticket", ticket, {"by": by}, act)

    def rate(self, key: str, ticket: str, score: int, draft: str = "") -> Receipt:
        """What the customer thought of the answer, 1 to 5; the last one holds. The receipt says
        whose answer (`of`: agent or person) it was. Conflict before there is one."""
        if score not in SCORES:
            raise InvalidInput("score", score, "1 (bad) to 5 (good)")

        def act(row: Row) -> Receipt:
            last = self.one(
                "select author from messages where ticket = ? and author in ('agent', 'person')"
                " order by seq desc", ticket,
            )  # fmt: skip
            if last is None:
                raise Conflict(f"ticket {ticket}", "nobody has answered it yet")
            text = self._draft(draft, ticket)["text"] if draft else ""
            self._db.execute(
                "insert or replace into ratings values (?,?,?,?)",
                (ticket, score, text, self._clock.now()),
            )
            self._db.execute("delete from drafts where id = ?", (draft,))
            return {"score": score, "of": last["author"]}

        return self._once(key, "rate", ticket, {"score": score, "draft": draft}, act)

    def _sent(self, draft: str, key: str, ticket: str, author: Author, by: str) -> str:
        text = str(self._draft(draft, ticket)["text"])
        self._add_message(key, ticket, author, by, text)
        self._db.execute("delete from drafts where id = ?", (draft,))
        return text

    def _draft(self, id: str, ticket: str) -> Row:
        found = self.one("select * from drafts where id = ? and ticket = ?", id, ticket)
        if found is None:
            raise NotFound("draft", id)
        return found

    def _require_holder(self, ticket: str, by: str) -> bool:
        """Whether `by` has the ticket; else nobody has. Conflict while somebody else has it."""
        held = self.one("select by from holders where ticket = ?", ticket)
        if held is not None and held["by"] != by:
            raise Conflict(f"ticket {ticket}", f"{held['by']} has it")
        return held is not None

    def _once(
        self, key: str, kind: str, ticket: str, payload: Row, act: Callable[[Row], Receipt]
    ) -> Receipt:
        """`SqliteDesk.once` for a ticket, whose row `act` is given."""
        with self._lock:
            row = self._row("tickets", "ticket", ticket)
        return self.once(key, kind, ticket, payload, lambda: {"ticket": ticket, **act(row)})
