"""How a case of evaluation.yaml is tried: a run on a shop of its own, with real policy and desk."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from agents.chat import Chat
from agents.packs import load
from agents.rehearsal import Rehearsal
from agents.state import RunState
from agents.workflows.shop.copy import findings
from agents.workflows.shop.desk import ShopDesk
from cluster.ids import Clock

NAME: Final = "shop"
SKU: Final = "ITEM-1"
_PRODUCT: Final = {
    "sku": SKU, "title": "oak tray", "attributes": {"material": "oak"}, "price_cents": 5000,
    "cost_cents": 2000, "floor_cents": 4000, "ceiling_cents": 6000, "currency": "EUR", "stock": 5,
}  # fmt: skip


@dataclass(frozen=True)
class Told:
    """What a case came to: `wrong` says what was expected instead, "" when it is right."""

    name: str
    task: str
    wrong: str
    invented: int = 0
    composed: bool = False


async def tried(case: dict[str, Any], folder: Path, chat: Chat) -> Told:
    """Do one case in an empty folder."""
    (pack,) = load([NAME]).values()
    desk = _shop(case, folder)
    arrives = case.get("arrives")
    rehearsal = Rehearsal(
        replace(pack, desk=desk), folder, chat=chat, says=case.get("says"),
        signals={"arrived": {"condition": arrives}} if arrives else {},
        autonomy=case.get("autonomy", 2),
    )  # fmt: skip
    run = await rehearsal.run({"subject": SKU, **case["asked"]})
    attributes = {**_PRODUCT, **case.get("product", {})}
    copy = rehearsal.desk.one("select copy from products")["copy"]
    rehearsal.desk.close()
    result = run.ended.result if run.ended else {}
    return Told(
        case["name"], case["asked"]["task"], _wrong(case["expect"], run, rehearsal.done),
        len(findings(copy, attributes["title"], attributes["attributes"])),
        bool(copy) and not result.get("by"),
    )  # fmt: skip


def _shop(case: dict[str, Any], folder: Path) -> Callable[[Path, Clock], ShopDesk]:
    unit = {
        "order": "O-1", "unit": "U-1", "sku": case.get("sold_as", SKU),
        "paid_cents": case.get("paid_cents", 5000), "days_ago": case.get("days", 3),
    }  # fmt: skip
    products = [{**_PRODUCT, **case.get("product", {})}]
    if "sold_as" in case:
        products.append({**_PRODUCT, "sku": case["sold_as"]})
    counted = {"visitors": case.get("visitors", 6000), "buyers": case.get("buyers", 300)}
    seed = folder / "seed.json"
    data = {"products": products, "units": [unit], "traffic": [{"sku": SKU, **counted}]}
    seed.write_text(json.dumps(data), encoding="utf-8")
    return lambda where, clock: ShopDesk(where, clock, seed)


def _wrong(expect: dict[str, Any], run: RunState, done: list[str]) -> str:
    decision = run.ended.decision if run.ended else "waits"
    rules = [d.rule for d in run.decisions.values()]
    got = {"decision": decision, "done": done, "rule": rules[-1] if rules else ""}
    wrong = [f"{name} {got[name]}, not {value}" for name, value in expect.items()
             if got[name] != value]  # fmt: skip
    return "; ".join(wrong)
