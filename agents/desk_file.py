"""The shop's customers, orders and tickets in one SQLite file, as the help-desk reads them.

Nothing personal leaves: a ticket is only read in its redacted view. Its vault (see `agents/pii.py`)
is a pure function of the ticket's raw text and the customer's account, neither of which ever
changes, so it is built anew where it is needed and stays in this process.

Money is in integer cents, times are seconds since the epoch (UTC), days are ISO dates.
"""

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from agents.desks import Row, SqliteDesk
from agents.helpdesk_schema import SCHEMA
from agents.pii import Detector, Vault
from cluster.errors import Conflict, DataError, InvalidInput, NotFound
from cluster.ids import Clock

MAX_BODY_CHARS: Final = 20_000
_MONTHS: Final = (
    "January February March April May June July August September October November December".split()
)
_DAYS: Final = ("ordered", "shipped", "expected", "delivered")


class DeskFile(SqliteDesk):
    """What the desk knows of customers, orders and tickets."""

    def __init__(self, path: Path, clock: Clock, more: Sequence[Detector] = ()) -> None:
        """`more` find personal data beside our own patterns: the same ones in each process."""
        super().__init__(path, clock, SCHEMA)
        self._more = more

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
            with self.transaction():
                self._insert_all("customers", _CUSTOMER_KEYS, customers)
                self._insert_all("orders", _ORDER_KEYS, orders)
        except sqlite3.IntegrityError as error:
            raise DataError(str(file), str(error)) from None

    def open_ticket(self, id: str, customer: str, subject: str, body: str, received: str) -> Row:
        """Put a ticket on the desk. The same ticket again, whenever it is said to have come,
        changes nothing and is "repeated".

        Raises NotFound for an unknown customer, Conflict when the id holds another ticket.
        """
        if not body.strip() or len(subject) + len(body) > MAX_BODY_CHARS:
            raise InvalidInput("body", body, f"1 to {MAX_BODY_CHARS} characters with the subject")
        ticket = (id, customer, subject, body, received)
        with self.transaction():
            self._row("customers", "customer", customer)
            found = self._db.execute("select * from tickets where id = ?", (id,)).fetchone()
            if found is None:
                self._db.execute("insert into tickets values (?,?,?,?,?,'open')", ticket)
            elif tuple(found)[:4] != ticket[:4]:
                raise Conflict(f"ticket {id}", "this id holds another ticket")
        return {"id": id, "customer": customer, "repeated": found is not None}

    def customer_for(self, email: str, name: str, since: str) -> str:
        """The id of whom that address belongs to; who is new is entered, as a customer `since` that
        day. InvalidInput for what is no address."""
        address = email.strip()
        if "@" not in address[1:-1] or len(address) > 254:
            raise InvalidInput("email", email, "an e-mail address")
        with self.transaction():
            found = self.one("select id from customers where lower(email) = lower(?)", address)
            if found is not None:
                return str(found["id"])
            id = f"C-{hashlib.sha256(address.lower().encode()).hexdigest()[:10]}"
            row = (id, name.strip() or address.partition("@")[0], address, "", "", since)
            self._db.execute("insert into customers values (?,?,?,?,?,?)", row)
        return id

    # --- reading

    def read_ticket(self, id: str) -> Row:
        """The redacted view: id, customer, text, received, status, and `earlier`: the customer's
        last three tickets before this one, newest first, each with id and status.

        Raises NotFound.
        """
        with self._lock:
            ticket, account = self._ticket(id)
            view = self._view(ticket)
        return {**view, "text": self._vault_of(ticket, account)[1]}

    def redact(self, id: str, text: str) -> str:
        """`text` without the personal data of this ticket's customer. Raises NotFound."""
        ticket, account = self._ticket(id)
        return self._vault_of(ticket, account)[0].redact(text, account)

    def vault_of_ticket(self, id: str) -> Vault:
        """That of the ticket's own text. Raises NotFound."""
        return self._vault_of(*self._ticket(id))[0]

    def _ticket(self, id: str) -> tuple[Row, Row]:
        """A ticket, and the account of its customer. Raises NotFound."""
        with self._lock:
            ticket = self._row("tickets", "ticket", id)
            return ticket, self._row("customers", "customer", ticket["customer"])

    def _view(self, ticket: Row) -> Row:
        """What holds of a ticket whichever of its words are read."""
        with self._lock:
            earlier = self._db.execute(
                "select id, status from tickets where customer = ? and"
                " (received, id) < (?, ?) order by received desc, id desc limit 3",
                (ticket["customer"], ticket["received"], ticket["id"]),
            ).fetchall()
        view = {key: ticket[key] for key in ("id", "customer", "received", "status")}
        return {**view, "earlier": [dict(e) for e in earlier]}

    def _vault_of(self, ticket: Row, account: Row) -> tuple[Vault, str]:
        """The vault of a ticket and its redacted text; the same every time."""
        vault = Vault(more=self._more)
        return vault, vault.redact(f"{ticket['subject']}\n{ticket['body']}".strip(), account)

    def customer_of(self, ticket: str) -> str:
        """Whose ticket it is. Raises NotFound."""
        with self._lock:
            return str(self._row("tickets", "ticket", ticket)["customer"])

    def customer(self, id: str) -> Row:
        """Whom the desk knows by that id. Raises NotFound."""
        with self._lock:
            return {"id": str(self._row("customers", "customer", id)["id"])}

    def own(self, customer: str) -> Row:
        """What the desk holds of a customer, as it is (raw: not for models or logs): name, email,
        phone, address. Raises NotFound."""
        with self._lock:
            found = self._row("customers", "customer", customer)
        return {key: str(found[key]) for key in ("name", "email", "phone", "address")}

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
