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

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from agents.helpdesk_schema import SCHEMA
from agents.pii import Vault
from agents.references import references_in
from cluster.errors import Conflict, DataError, InvalidInput, NotFound
from cluster.ids import Clock

Row = dict[str, Any]
Receipt = dict[str, Any]

REFUND_DAYS: Final = 5
"""Working days until a refund arrives."""
MAX_BODY_CHARS: Final = 20_000
_MONTHS: Final = (
    "January February March April May June July August September October November December".split()
)
_DAYS: Final = ("ordered", "shipped", "expected", "delivered")


class HelpDesk:
    """One file, one connection, one lock: safe to share between threads of one process."""

    def __init__(self, path: Path, clock: Clock) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._clock = clock
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        for pragma in ("journal_mode=wal", "synchronous=full", "foreign_keys=on"):
            self._db.execute(f"pragma {pragma}")
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    # --- what stands on the desk

    def seed(self, folder: Path) -> None:
        """Load `desk.json` (customers and orders); what is there already stays as it is.

        Raises DataError when the file is missing or not what it should be.
        """
        file = folder / "desk.json"
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            customers = [[c[key] for key in _CUSTOMER_KEYS] for c in data["customers"]]
            filled = [{**_ORDER_DEFAULTS, **o} for o in data["orders"]]
            orders = [[o[key] for key in _ORDER_KEYS] for o in filled]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(str(file), f"not a desk's seed ({error!r})") from None
        try:
            with self._transaction():
                self._insert_all("customers", _CUSTOMER_KEYS, customers)
                self._insert_all("orders", _ORDER_KEYS, orders)
        except sqlite3.IntegrityError as error:
            raise DataError(str(file), str(error)) from None

    def open_ticket(self, id: str, customer: str, subject: str, body: str, received: str) -> Row:
        """Put a ticket on the desk. The same ticket again changes nothing and is "repeated".

        Raises NotFound for an unknown customer, Conflict when the id holds another ticket.
        """
        if not body.strip() or len(subject) + len(body) > MAX_BODY_CHARS:
            raise InvalidInput("body", body, f"1 to {MAX_BODY_CHARS} characters with the subject")
        ticket = (id, customer, subject, body, received)
        with self._transaction():
            self._row("customers", "customer", customer)
            found = self._db.execute("select * from tickets where id = ?", (id,)).fetchone()
            if found is None:
                self._db.execute("insert into tickets values (?,?,?,?,?,'open')", ticket)
            elif tuple(found)[:5] != ticket:
                raise Conflict(f"ticket {id}", "this id holds another ticket")
        return {"id": id, "customer": customer, "repeated": found is not None}

    # --- reading

    def read_ticket(self, id: str) -> Row:
        """The redacted view: id, customer, text, received, status, and `earlier`: the customer's
        last three tickets before this one, newest first, each with id and status.

        Raises NotFound.
        """
        with self._lock:
            ticket = self._row("tickets", "ticket", id)
            account = self._row("customers", "customer", ticket["customer"])
            earlier = self._db.execute(
                "select id, status from tickets where customer = ? and"
                " (received, id) < (?, ?) order by received desc, id desc limit 3",
                (ticket["customer"], ticket["received"], id),
            ).fetchall()
        view = {key: ticket[key] for key in ("id", "customer", "received", "status")}
        return {**view, "text": _vault(ticket, account)[1], "earlier": [dict(e) for e in earlier]}

    def redact(self, id: str, text: str) -> str:
        """`text` without the personal data of this ticket's customer. Raises NotFound."""
        with self._lock:
            ticket = self._row("tickets", "ticket", id)
            account = self._row("customers", "customer", ticket["customer"])
        return _vault(ticket, account)[0].redact(text, account)

    def customer_of(self, ticket: str) -> str:
        """Whose ticket it is. Raises NotFound."""
        with self._lock:
            return str(self._row("tickets", "ticket", ticket)["customer"])

    def account(self, customer: str) -> Row:
        """For `prompts.account_text`: name (a placeholder), since, orders (newest first)."""
        with self._lock:
            found = self._row("customers", "customer", customer)
            orders = self._db.execute(
                "select id from orders where customer = ? order by ordered desc, id", (customer,)
            ).fetchall()
        ids = [o["id"] for o in orders]
        return {"name": "[NAME_1]", "since": day(found["since"]), "orders": ids}

    def order(self, customer: str, order_id: str) -> Row:
        """For `prompts.order_text`, with values as text, and total_cents, refunded_cents.

        Raises NotFound when there is no such order or it is another customer's: the error is the
        same, so nobody learns which ids exist.
        """
        wanted = order_id.strip().upper()
        with self._lock:
            found = self._own_order(customer, wanted)
        if found is None:
            raise NotFound("order", wanted)
        order: Row = {"id": found["id"], "status": found["status"], "item": found["item"]}
        order["total"] = money(found["total_cents"], found["currency"])
        order |= {key: day(found[key]) for key in _DAYS if found[key]}
        if found["tracking"]:
            order["tracking"] = found["tracking"]
        if found["refunded_cents"]:
            order["refunded"] = money(found["refunded_cents"], found["currency"])
        return order | {k: found[k] for k in ("total_cents", "refunded_cents", "currency")}

    # --- effects, each done once for its key

    def reply(self, key: str, ticket: str, text: str) -> Receipt:
        """Send `text`. It may hold this ticket's personal placeholders and no other references:
        the caller has put order ids, amounts and dates back. Raises InvalidInput otherwise."""

        def act(row: Row) -> Receipt:
            account = self._row("customers", "customer", row["customer"])
            rendered = _vault(row, account)[0].render(text)
            if not rendered.strip() or (left := references_in(rendered)):
                shown = sorted(left) if rendered.strip() else text
                raise InvalidInput("text", shown, "words, and references of this ticket only")
            self._db.execute("insert into outbox values (?,?,?)", (key, ticket, rendered))
            self._set_status(ticket, "replied")
            return {"chars": len(rendered)}

        return self._once(key, "reply", ticket, {"text": text}, act)

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

    def lookup(self, key: str) -> Receipt | None:
        """The receipt of an effect that was done, or None. Answers an effect left open."""
        with self._lock:
            found = self._db.execute("select receipt from effects where key = ?", (key,)).fetchone()
        return None if found is None else json.loads(found["receipt"])

    # --- what was done, for people and tests (raw: not for models or logs)

    def sent(self, ticket: str) -> str | None:
        """The last reply that went out, as the customer reads it."""
        with self._lock:
            found = self._db.execute(
                "select text from outbox where ticket = ? order by rowid desc limit 1", (ticket,)
            ).fetchone()
        return None if found is None else str(found["text"])

    def effects(self, ticket: str | None = None) -> list[Receipt]:
        """The receipts of a ticket's effects, or of all, in the order they were done."""
        with self._lock:
            found = self._db.execute(
                "select receipt from effects where ? is null or ticket = ? order by rowid",
                (ticket, ticket),
            ).fetchall()
        return [json.loads(f["receipt"]) for f in found]

    def counts(self) -> dict[str, int]:
        """Rows by table, and refunded_cents of all refunds made here."""
        tables = "customers orders tickets effects outbox refunds escalations queues".split()
        with self._lock:
            rows = {t: self._number(f"select count(*) from {t}") for t in tables}
            money_out = self._number("select coalesce(sum(amount_cents), 0) from refunds")
        return {**rows, "refunded_cents": money_out}

    # --- inside

    def _once(
        self, key: str, kind: str, ticket: str, payload: Row, act: Callable[[Row], Receipt]
    ) -> Receipt:
        if not key:
            raise InvalidInput("key", key, "the effect's idempotency key")
        said = json.dumps(payload, sort_keys=True, ensure_ascii=False)
        with self._transaction():
            done = self._db.execute("select * from effects where key = ?", (key,)).fetchone()
            if done is not None:
                if (done["kind"], done["ticket"], done["payload"]) != (kind, ticket, said):
                    raise Conflict(f"key {key!r}", "was used for another effect")
                return {**json.loads(done["receipt"]), "repeated": True}
            row = self._row("tickets", "ticket", ticket)
            now = self._clock.now()
            # The effect's row comes first: the rows that act writes refer to it.
            self._db.execute(
                "insert into effects values (?,?,?,?,'',?)", (key, kind, ticket, said, now)
            )
            base = {"key": key, "kind": kind, "ticket": ticket, "done_at": now}
            receipt = {**base, **act(row), "repeated": False}
            stored = json.dumps(receipt, ensure_ascii=False)
            self._db.execute("update effects set receipt = ? where key = ?", (stored, key))
        return receipt

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("begin immediate")
            try:
                yield
            except BaseException:
                self._db.execute("rollback")
                raise
            self._db.execute("commit")

    def _row(self, table: str, kind: str, id: str) -> Row:
        found = self._db.execute(f"select * from {table} where id = ?", (id,)).fetchone()
        if found is None:
            raise NotFound(kind, id)
        return dict(found)

    def _own_order(self, customer: str, order_id: str) -> Row | None:
        found = self._db.execute(
            "select * from orders where id = ? and customer = ?", (order_id, customer)
        ).fetchone()
        return None if found is None else dict(found)

    def _set_status(self, ticket: str, status: str) -> None:
        self._db.execute("update tickets set status = ? where id = ?", (status, ticket))

    def _insert_all(self, table: str, keys: tuple[str, ...], rows: list[list[Any]]) -> None:
        marks = ",".join("?" * len(keys))
        self._db.executemany(
            f"insert into {table}({','.join(keys)}) values ({marks}) on conflict(id) do nothing",
            rows,
        )

    def _number(self, query: str) -> int:
        return int(self._db.execute(query).fetchone()[0])


_CUSTOMER_KEYS: Final = ("id", "name", "email", "phone", "address", "since")
_ORDER_KEYS: Final = (
    *("id", "customer", "item", "total_cents", "currency", "status"),
    *(*_DAYS, "tracking", "refunded_cents"),
)
_ORDER_DEFAULTS: Final = {**dict.fromkeys((*_DAYS, "tracking")), "refunded_cents": 0}


def money(cents: int, currency: str) -> str:
    """1234, "EUR" -> "12.34 EUR"."""
    return f"{cents // 100}.{cents % 100:02d} {currency}"


def day(iso: str) -> str:
    """ "2026-05-12" -> "12 May 2026", whatever the locale."""
    year, month, number = iso.split("-")
    return f"{int(number)} {_MONTHS[int(month) - 1]} {year}"


def _vault(ticket: Row, account: Row) -> tuple[Vault, str]:
    """The vault of a ticket and its redacted text; the same every time."""
    vault = Vault()
    return vault, vault.redact(f"{ticket['subject']}\n{ticket['body']}".strip(), account)
