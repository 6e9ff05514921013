"""The shop's own records in one SQLite file, and what is done to them, each once for its key.

They stand for themselves where the shop is local. Where its products are at Shopify or its payments
at Stripe, what was changed here goes there too, before it is committed (`outside.py`).
"""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from agents.desks import Receipt, SqliteDesk
from agents.packs import DESK_FILE
from agents.workflows.shop.outside import Outside, outside_of
from agents.workflows.shop.schema import SCHEMA
from cluster.errors import Conflict, DataError, InvalidInput, NotFound
from cluster.ids import Clock

SEED: Final = Path(__file__).parent / "seed.json"
WINDOW_DAYS: Final = 30
ALL_TIME: Final = ""
"""The traffic of no experiment: what the storefront counted at the usual price."""
CONTROL: Final = "control"
CANDIDATE: Final = "candidate"
AFTER: Final = {"unopened": "restocked", "opened": "second", "damaged": "scrapped"}
"""The state of a unit that came back, by its condition."""
_QUEUED: Final = 100
_PRODUCT: Final = (
    *("sku", "title", "attributes", "price_cents", "cost_cents", "floor_cents"),
    *("ceiling_cents", "currency", "stock"),
)


class ShopDesk(SqliteDesk):
    """`agents.packs.Desk` over the shop's records."""

    def __init__(self, folder: Path, clock: Clock, seed: Path | None = SEED) -> None:
        super().__init__(folder / DESK_FILE, clock, SCHEMA)
        self._outside: Outside = outside_of(folder)
        if seed is not None:
            self.seed(seed)

    def seed(self, file: Path) -> None:
        """Load products, sold units and traffic; what is there already stays as it is. A unit was
        delivered so many days ago when it is loaded. DataError for a file that is no seed."""
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            with self.transaction() as db:
                for p in data["products"]:
                    product = {**p, "attributes": json.dumps(p["attributes"])}
                    db.execute(_INSERT, [product[name] for name in _PRODUCT])
                for u in data["units"]:
                    delivered = self._today() - timedelta(days=u["days_ago"])
                    day = delivered.isoformat()
                    unit = [u["order"], u["unit"], u["sku"], u["paid_cents"], day, ""]
                    db.execute(_INSERT_UNIT, unit)
                for t in data["traffic"]:
                    row = [t["sku"], ALL_TIME, CONTROL, t["visitors"], t["buyers"]]
                    db.execute(_INSERT_TRAFFIC, row)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(str(file), f"not a shop's seed ({error!r})") from None

    def perform(self, tool: str, key: str, subject: str, args: dict[str, Any]) -> Receipt:
        """See `agents.packs.Desk`."""
        reads: dict[str, Callable[[], Receipt]] = {
            "queue": self._queue,
            "look": lambda: self._look(subject),
            "unit": lambda: self._unit(subject, args["order"], args["unit"]),
        }
        if tool in reads:
            return reads[tool]()
        writes: dict[str, Callable[[], Receipt]] = {
            "put": lambda: self._put(subject, args["product"]),
            "count": lambda: self._count(subject, args["experiment"], args["traffic"]),
            "describe": lambda: self._describe(subject, args["text"]),
            "start": lambda: self._start(key, subject, args),
            "sell": lambda: self._sell(key, subject, args),
            "adopt": lambda: self._end(subject, args["experiment"], "adopted", ""),
            "roll_back": lambda: self._roll_back(subject, args),
            "label": lambda: self._label(key, subject, args),
            "refund": lambda: self._refund(key, subject, args),
            "restock": lambda: self._restock(key, subject, args),
        }
        if tool not in writes:
            raise InvalidInput("tool", tool, f"one of {sorted((*reads, *writes))}")
        return self.once(key, tool, subject, args, writes[tool])

    # --- reading

    def _queue(self) -> Receipt:
        """What is open: products without copy, and experiments to be looked at."""
        bare = self.all("select sku from products where copy = '' order by sku limit ?", _QUEUED)
        running = self.all(
            "select sku from experiments where state = 'running' order by sku limit ?", _QUEUED
        )
        return {"copy": [r["sku"] for r in bare], "look": [r["sku"] for r in running]}

    def _look(self, sku: str) -> Receipt:
        product = self._product(sku)
        running = self._running(sku)
        counted = self.all("select * from traffic where sku = ?", sku)
        arms = {
            row["arm"] if row["experiment"] else "usual": {
                k: row[k] for k in ("visitors", "buyers")
            }
            for row in counted
            if row["experiment"] in (ALL_TIME, running["key"] if running else ALL_TIME)
        }
        return {**product, "experiment": running, "traffic": arms}

    def _unit(self, sku: str, order: str, unit: str) -> Receipt:
        found = self.one("select * from units where order_id = ? and unit = ?", order, unit)
        if found is None:
            raise NotFound("unit", f"{unit} of order {order}")
        days = (self._today() - date.fromisoformat(found["delivered"])).days
        trail = self.all(
            "select at, what, key from movements where order_id = ? and unit = ?"
            " order by at, rowid",
            order, unit,
        )  # fmt: skip
        return {
            "order": order, "unit": unit, "sku": found["sku"], "sold": found["sku"] == sku,
            "state": found["state"], "paid_cents": found["paid_cents"], "days": days,
            "window_days": WINDOW_DAYS, "trail": trail,
        }  # fmt: skip

    # --- writing, within `once`

    def _put(self, sku: str, given: dict[str, Any]) -> Receipt:
        row = {**given, "sku": sku, "attributes": json.dumps(given["attributes"])}
        known = self.one("select sku from products where sku = ?", sku) is not None
        if known and self._running(sku):
            raise Conflict(f"product {sku}", "an experiment with its price goes on")
        self._db.execute(_UPSERT, [row[name] for name in _PRODUCT])
        self._outside.product(self._product(sku))
        return {"sku": sku, "new": not known}

    def _count(self, sku: str, experiment: str, traffic: dict[str, Any]) -> Receipt:
        """Traffic is counted since the experiment began, and so never falls."""
        self._require_running(sku, experiment)
        known = self._look(sku)["traffic"]
        nothing = {"visitors": 0, "buyers": 0}
        before = {arm: known.get(arm, nothing) for arm in (CONTROL, CANDIDATE)}
        for arm, counted in traffic.items():
            for name in nothing:
                if counted[name] < before[arm][name]:
                    fewer = f"{counted[name]} are fewer than the {before[arm][name]} before"
                    raise Conflict(f"traffic.{arm}.{name}", fewer)
            row = (sku, experiment, arm, counted["visitors"], counted["buyers"])
            self._db.execute(_COUNT, row)
        return {"before": before, "traffic": {**before, **traffic}}

    def _sell(self, key: str, sku: str, args: dict[str, Any]) -> Receipt:
        """Write down that a unit was sold; there is one less."""
        if self._product(sku)["stock"] < 1:
            raise Conflict(f"product {sku}", "there is none in stock")
        if self.one("select 1 from units where order_id = ? and unit = ?", *_named(args)):
            raise Conflict(f"unit {args['unit']} of order {args['order']}", "it was sold before")
        row = (*_named(args), sku, args["paid_cents"], args["delivered"], args["payment"])
        self._db.execute(_SELL, row)
        self._db.execute("update products set stock = stock - 1 where sku = ?", (sku,))
        stock = self._product(sku)["stock"]
        self._trail(key, args, "was sold")
        self._outside.stock(sku, stock)
        return {"unit": args["unit"], "stock": stock}

    def _describe(self, sku: str, text: str) -> Receipt:
        self._product(sku)
        self._db.execute("update products set copy = ? where sku = ?", (text, sku))
        self._outside.copy(sku, text)
        return {"chars": len(text)}

    def _start(self, key: str, sku: str, args: dict[str, Any]) -> Receipt:
        product = self._product(sku)
        if self._running(sku):
            raise Conflict(f"product {sku}", "an experiment with it goes on already")
        values = (key, sku, product["price_cents"], args["price_cents"], args["needed"])
        self._db.execute(
            "insert into experiments(key, sku, old_cents, new_cents, needed, looks)"
            " values (?,?,?,?,?,?)",
            (*values, args["looks"]),
        )
        return {"experiment": key, "price_cents": args["price_cents"]}

    def _roll_back(self, sku: str, args: dict[str, Any]) -> Receipt:
        key = args.get("experiment") or args["of"]
        return self._end(sku, key, "rolled back", args.get("reason", ""))

    def _end(self, sku: str, key: str, state: str, reason: str) -> Receipt:
        experiment = self._require_running(sku, key)
        self._db.execute(
            "update experiments set state = ?, reason = ? where key = ?", (state, reason, key)
        )
        adopted = state == "adopted"
        price = experiment["new_cents"] if adopted else experiment["old_cents"]
        self._db.execute("update products set price_cents = ? where sku = ?", (price, sku))
        self._outside.price(sku, price)
        return {"experiment": key, "state": state, "price_cents": price}

    def _label(self, key: str, sku: str, args: dict[str, Any]) -> Receipt:
        self._moved(key, sku, args, "sold", "labelled", "a label was made for its return")
        return {"label": f"RMA-{key[:10].upper()}"}

    def _refund(self, key: str, sku: str, args: dict[str, Any]) -> Receipt:
        cents = args["amount_cents"]
        unit = self._unit(sku, args["order"], args["unit"])
        if not 0 < cents <= unit["paid_cents"]:
            raise InvalidInput("amount_cents", cents, f"1 to {unit['paid_cents']}, as was paid")
        self._moved(key, sku, args, "labelled", "refunded", f"{cents} cents were paid back")
        paid = self._outside.refund(key, self._payment(args), cents)
        return {"amount_cents": cents, "unit": args["unit"], "payment": paid}

    def _restock(self, key: str, sku: str, args: dict[str, Any]) -> Receipt:
        state = AFTER.get(args["condition"], AFTER["damaged"])
        self._moved(key, sku, args, "refunded", state, f"came back {args['condition']}")
        column = {"restocked": "stock", "second": "seconds"}.get(state)
        if column:
            self._db.execute(f"update products set {column} = {column} + 1 where sku = ?", (sku,))
        stock = self._product(sku)["stock"]
        if column == "stock":
            self._outside.stock(sku, stock)
        return {"state": state, "stock": stock}

    def _moved(
        self, key: str, sku: str, args: dict[str, Any], before: str, after: str, what: str
    ) -> None:
        """Bring a unit from one state to the next: two who want the same, and one gets it."""
        unit = self._unit(sku, args["order"], args["unit"])
        if not unit["sold"] or unit["state"] != before:
            where = f"unit {args['unit']} of order {args['order']}"
            raise Conflict(where, f"it is {unit['state']} and of {unit['sku']}, not {before}")
        self._db.execute(
            "update units set state = ? where order_id = ? and unit = ?", (after, *_named(args))
        )
        self._trail(key, args, what)

    def _trail(self, key: str, args: dict[str, Any], what: str) -> None:
        row = (*_named(args), self._clock.now(), what, key)
        self._db.execute("insert into movements values (?,?,?,?,?)", row)

    def _payment(self, args: dict[str, Any]) -> str:
        query = "select payment from units where order_id = ? and unit = ?"
        found = self.one(query, *_named(args))
        return str(found["payment"]) if found else ""

    def _product(self, sku: str) -> dict[str, Any]:
        found = self.one("select * from products where sku = ?", sku)
        if found is None:
            raise NotFound("product", sku)
        return {**found, "attributes": json.loads(found["attributes"])}

    def _running(self, sku: str) -> dict[str, Any] | None:
        return self.one("select * from experiments where sku = ? and state = 'running'", sku)

    def _require_running(self, sku: str, key: str) -> dict[str, Any]:
        running = self._running(sku)
        if running is None or running["key"] != key:
            raise Conflict(f"experiment {key}", "it does not go on")
        return running

    def _today(self) -> date:
        return datetime.fromtimestamp(self._clock.now(), UTC).date()


def _named(args: dict[str, Any]) -> tuple[str, str]:
    return args["order"], args["unit"]


_INSERT: Final = (
    f"insert into products({', '.join(_PRODUCT)}) values ({', '.join('?' * len(_PRODUCT))})"
    " on conflict(sku) do nothing"
)
_UPSERT: Final = _INSERT.replace(
    "do nothing", "do update set " + ", ".join(f"{n} = excluded.{n}" for n in _PRODUCT[1:])
)
_SELL: Final = (
    "insert into units(order_id, unit, sku, paid_cents, delivered, payment) values (?,?,?,?,?,?)"
)
_INSERT_UNIT: Final = f"{_SELL} on conflict do nothing"
_INSERT_TRAFFIC: Final = "insert into traffic values (?,?,?,?,?) on conflict do nothing"
_COUNT: Final = (
    "insert into traffic values (?,?,?,?,?) on conflict(sku, experiment, arm)"
    " do update set visitors = excluded.visitors, buyers = excluded.buyers"
)
