"""The shipped help-desk: customers, orders, tickets and what was done to them, in one SQLite file.

It stands in for a shop's own systems, behind the support connector. Two promises:

- **Once.** Each effect has a key and is made in one transaction with its row in `effects`. The
  same key again returns the stored receipt with `"repeated": True`; the same key with other
  arguments is a Conflict. A commit is on disk before the call returns (WAL, synchronous=FULL).
- **Nothing personal leaves.** A ticket is only read in its redacted view. Its vault (see
  `agents/pii.py`) is a pure function of the ticket's raw text and the customer's account, neither
  of which ever changes, so it is built anew where it is needed and stays in this process. A reply
  arrives with placeholders and is rendered here, on its way to the outbox.

Money is in integer cents, times are seconds since the epoch (UTC), days are ISO dates.
"""

from typing import Final

from agents.desk_acts import DeskActs
from agents.desk_file import money
from agents.desks import Receipt, Row
from agents.references import references_in
from cluster.errors import Conflict, InvalidInput, NotFound

ERASED: Final = "(erased)"
"""What stands in place of words that were taken away."""
REFUND_DAYS: Final = 5
"""Working days until a refund arrives."""


class HelpDesk(DeskActs):
    """What is done at the desk; safe to share between threads of one process."""

    # --- effects, each done once for its key

    def reply(self, key: str, ticket: str, text: str, message: str = "") -> Receipt:
        """Send `text`, as the answer to a further `message` if one is named. It may hold the
        personal placeholders of the thread up to there, and no other references: the caller has put
        order ids, amounts and dates back. Raises InvalidInput otherwise; Conflict when a person has
        the ticket by now."""

        def act(row: Row) -> Receipt:
            if row["status"] == "held":
                raise Conflict(f"ticket {ticket}", "a person has it")
            vault = self.vault(ticket, message)[0] if message else self.vault_of_ticket(ticket)
            rendered = vault.render(text)
            if not rendered.strip() or (left := references_in(rendered)):
                shown = sorted(left) if rendered.strip() else text
                raise InvalidInput("text", shown, "words, and references of this ticket only")
            self._db.execute("insert into outbox values (?,?,?)", (key, ticket, rendered))
            self._add_message(key, ticket, "agent", "", rendered)
            self._set_status(ticket, "replied")
            return {"chars": len(rendered)}

        payload = {"text": text, "message": message} if message else {"text": text}
        return self._once(key, "reply", ticket, payload, act)

    def refund(self, key: str, ticket: str, order: str, amount_cents: int) -> Receipt:
        """Refund part of an order of the ticket's customer. The receipt holds amount,
        amount_cents, order, days.

        Raises Conflict when the order isn't this customer's or the amount exceeds what is left.
        """
        if amount_cents <= 0:
            raise InvalidInput("amount_cents", amount_cents, "a positive number of cents")
        wanted = order.strip().upper()

        def act(row: Row) -> Receipt:
            found = self._own_order(row["customer"], wanted)
            if found is None:
                raise Conflict(f"refund for order {wanted}", "not an order of this customer")
            left = found["total_cents"] - found["refunded_cents"]
            amount = money(amount_cents, found["currency"])
            if amount_cents > left:
                most = money(left, found["currency"])
                raise Conflict(f"refund for order {wanted}", f"{amount} is over the {most} left")
            self._db.execute(
                "update orders set refunded_cents = refunded_cents + ? where id = ?",
                (amount_cents, wanted),
            )
            values = (key, ticket, wanted, amount_cents)
            self._db.execute("insert into refunds values (?,?,?,?)", values)
            made = {"amount": amount, "amount_cents": amount_cents, "order": wanted}
            return {**made, "days": REFUND_DAYS}

        payload = {"order": wanted, "amount_cents": amount_cents}
        return self._once(key, "refund", ticket, payload, act)

    def escalate(self, key: str, ticket: str, reason: str, summary: str) -> Receipt:
        """Hand the ticket to a person. `summary` is redacted text; it is kept as it comes."""

        def act(row: Row) -> Receipt:
            values = (key, ticket, reason, summary)
            self._db.execute("insert into escalations values (?,?,?,?)", values)
            if row["status"] != "held":
                self._set_status(ticket, "escalated")
            return {"reason": reason}

        return self._once(key, "escalate", ticket, {"reason": reason, "summary": summary}, act)

    def assign(self, key: str, ticket: str, queue: str) -> Receipt:
        """Put the ticket into a queue of people; the last assignment holds."""

        def act(row: Row) -> Receipt:
            self._db.execute("insert into queues values (?,?,?)", (key, ticket, queue))
            self._set_status(ticket, "assigned")
            return {"queue": queue}

        return self._once(key, "assign", ticket, {"queue": queue}, act)

    def withdraw(self, key: str, ticket: str, of: str) -> Receipt:
        """Take back the assignment or hand-over that was done under the key `of`; the ticket is
        open again. NotFound when there is none."""

        def act(row: Row) -> Receipt:
            gone = [
                self._db.execute(f"delete from {table} where key = ? and ticket = ?", (of, ticket))
                for table in ("queues", "escalations")
            ]
            if not any(g.rowcount for g in gone):
                raise NotFound("assignment or hand-over", of)
            self._set_status(ticket, "open")
            return {"of": of}

        return self._once(key, "withdraw", ticket, {"of": of}, act)

    # --- what is taken away

    def erase(self, customer: str) -> Row:
        """Take away what is personal of a customer: the account, the words of tickets and replies.
        What was done, ordered and paid stays, and so do the references, which bring nothing back
        any more. Says how many `tickets` and `replies` were emptied. NotFound for a stranger."""
        mine = "ticket in (select id from tickets where customer = ?)"
        with self.transaction():
            self._row("customers", "customer", customer)
            self._db.execute(
                "update customers set name='', email='', phone='', address='' where id = ?",
                (customer,),
            )
            tickets = self._db.execute(
                "update tickets set subject='', body=? where customer = ?", (ERASED, customer)
            )
            replies = self._db.execute(f"update outbox set text=? where {mine}", (ERASED, customer))
            for table in ("messages", "ratings"):
                self._db.execute(f"update {table} set text=? where {mine}", (ERASED, customer))
            self._db.execute(f"delete from drafts where {mine}", (customer,))
        # The old words also stand in pages that are free by now, and in the log.
        with self._lock:
            self._db.execute("vacuum")
            self._db.execute("pragma wal_checkpoint(truncate)")
        return {"customer": customer, "tickets": tickets.rowcount, "replies": replies.rowcount}

    # --- what was done, for people and tests (raw: not for models or logs)

    def sent(self, ticket: str) -> str | None:
        """The last reply that went out, as the customer reads it."""
        with self._lock:
            found = self._db.execute(
                "select text from outbox where ticket = ? order by rowid desc limit 1", (ticket,)
            ).fetchone()
        return None if found is None else str(found["text"])

    def counts(self) -> dict[str, int]:
        """Rows by table, and refunded_cents of all refunds made here."""
        tables = (
            "customers orders tickets effects outbox refunds escalations queues messages ratings"
        ).split()
        with self._lock:
            rows = {t: self._number(f"select count(*) from {t}") for t in tables}
            money_out = self._number("select coalesce(sum(amount_cents), 0) from refunds")
        return {**rows, "refunded_cents": money_out}
