"""The shop's tools, and what policy is told of each. Money is cents, times are days."""

from typing import Final

from agents.taint import OWN
from agents.tools import Tool

_PRICE: Final = {
    "floor_cents": "Long", "ceiling_cents": "Long", "cost_cents": "Long", "price_cents": "Long",
}  # fmt: skip
_UNIT: Final = {
    "sold": "Bool",            # the order holds this unit of this product
    "state": "String",         # sold, labelled, refunded, restocked, second, scrapped
    "days": "Long",            # since it was delivered
    "window_days": "Long",     # within which it may come back
    "condition": "String",     # unopened, opened, damaged; unknown before it was looked at
}  # fmt: skip

QUEUE: Final = Tool("shop.queue", (), "read", returns=OWN)
LOOK: Final = Tool("shop.look", (), "read", returns=OWN)
UNIT: Final = Tool("shop.unit", ("order", "unit"), "read", control={}, returns=OWN)
PUT: Final = Tool("shop.put", ("product",), "write", control={}, facts=_PRICE)
COUNT: Final = Tool("shop.count", ("experiment", "traffic"), "write", control={})
SELL: Final = Tool(
    "shop.sell", ("order", "unit", "paid_cents", "delivered", "payment"), "write", control={}
)
DESCRIBE: Final = Tool(
    "shop.describe", ("text",), "write", control={}, facts={"grounded": "Bool", "finding": "String"}
)
START: Final = Tool(
    "shop.start", ("price_cents", "needed", "looks"), "write", undo="shop.roll_back",
    control={"price_cents": ("price_cents",)},
    facts={
        **_PRICE,
        "now_cents": "Long",       # today's price
        "running": "Bool",         # an experiment with this product goes on
        "needed": "Long",          # visitors in each arm
    },
)  # fmt: skip
ADOPT: Final = Tool(
    "shop.adopt", ("experiment",), "write", control={},
    facts={**_PRICE, "ending": "String"},  # what the stop rule said: adopt, roll back, go on
)  # fmt: skip
ROLL_BACK: Final = Tool("shop.roll_back", ("experiment", "reason"), "write", control={})
LABEL: Final = Tool("shop.label", ("order", "unit"), "write", control={}, facts=_UNIT)
REFUND: Final = Tool(
    "shop.refund", ("order", "unit", "amount_cents"), "write", amount="amount_cents",
    control={"order": ("order",), "unit": ("unit",), "amount_cents": ("paid_cents",)},
    facts={**_UNIT, "paid_cents": "Long"},
)  # fmt: skip
RESTOCK: Final = Tool(
    "shop.restock", ("order", "unit", "condition"), "write", control={}, facts=_UNIT
)

TOOLS: Final = (
    QUEUE, LOOK, UNIT, PUT, SELL, COUNT, DESCRIBE, START, ADOPT, ROLL_BACK, LABEL, REFUND, RESTOCK,
)  # fmt: skip
