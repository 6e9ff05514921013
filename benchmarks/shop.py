"""What the shop's workflow does with its evaluation set: `make bench-shop`.

Each case of `agents/workflows/shop/evaluation.yaml` is one run on a shop of its own: real policy,
real desk, and the routine model of a live stack (`--url`, or one that is started here; `--no-model`
leaves the model out). What is counted: runs that did the right writes in order and ended as they
must, and copy with a value that is in no attribute.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import yaml
from rich.progress import track

from agents.chat import Chat, HttpChat
from agents.packs import load
from agents.rehearsal import Rehearsal, Script
from agents.state import RunState
from agents.workflows.shop.copy import findings
from agents.workflows.shop.desk import ShopDesk
from benchmarks.report import Figure, write
from benchmarks.stacks import stack
from cluster.ids import Clock

NAME: Final = "shop"
SKU: Final = "ITEM-1"
RIGHT, INVENTED = 0.95, 0.005
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


def cases() -> list[dict[str, Any]]:
    """The evaluation set."""
    (pack,) = load([NAME]).values()
    found = yaml.safe_load((pack.folder / "evaluation.yaml").read_text("utf-8"))
    return list(found["cases"])


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


async def _all(chat: Chat) -> list[Told]:
    told: list[Told] = []
    for case in track(cases(), "cases"):
        with tempfile.TemporaryDirectory() as folder:
            told.append(await tried(case, Path(folder), chat))
    return told


@contextmanager
def _chat(given: argparse.Namespace) -> Iterator[Chat]:
    if given.no_model:
        yield Script([])
    elif given.url:
        yield HttpChat(f"{given.url}/v1")
    else:
        with tempfile.TemporaryDirectory() as folder, stack(Path(folder)) as running:
            yield HttpChat(f"{running.url}/v1")


def main() -> int:
    """Try every case, and tell."""
    parser = argparse.ArgumentParser(prog="make bench-shop", description=__doc__)
    parser.add_argument("--url", default="", help="a running stack's address, without /v1")
    parser.add_argument("--no-model", action="store_true", help="leave the model out")
    given = parser.parse_args()
    with _chat(given) as chat:
        told = asyncio.run(_all(chat))
    for one in told:
        if one.wrong or one.invented:
            print(f"{one.task}: {one.name}: {one.wrong or 'a value that is in no attribute'}")
    copies = [one for one in told if one.task == "copy"]
    count = len(told)
    figures = [
        Figure("plans right", sum(not t.wrong for t in told) / count, RIGHT, "at least", count),
        Figure("copy with a value of its own", sum(bool(t.invented) for t in copies) / len(copies),
               INVENTED, "at most", len(copies)),
        Figure("copy without the model's lead", sum(t.composed for t in copies) / len(copies),
               count=len(copies)),
    ]  # fmt: skip
    model = "no model" if given.no_model else "the routine model"
    return write("shop", figures, load=f"{count} runs one after the other, {model}")


if __name__ == "__main__":
    sys.exit(main())
