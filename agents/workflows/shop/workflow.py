"""Shop operations by unit of stock: copy, prices, returns. What it may do, policy.cedar says.

    round   what is open -> a run for each unit of stock, beside each other
    copy    look -> write from the attributes -> describe
    price   look -> plan the sample -> start                 (guard rails are policy's)
    look    look -> count -> stop rule -> adopt | roll back | go on
    return  unit -> label -> (arrived) -> refund -> restock

Runs about one unit of stock are one agent's, so they are done one after the other.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from agents.packs import Pack, PackParts
from agents.state import RunState
from agents.turn import Acted, Child, Turn
from agents.workflows.cases import why
from agents.workflows.shop import copy, inputs, pricing
from agents.workflows.shop.desk import CANDIDATE, CONTROL, ShopDesk
from agents.workflows.shop.tools import TOOLS
from cluster.errors import InvalidInput

ARRIVED: Final = "arrived"
ARRIVES_WITHIN_S: Final = 30 * 86_400.0
UNKNOWN: Final = "unknown"
_MOST_OF_A_ROUND: Final = 50


class _Stopped(Exception):
    """A step was not done; the run ends as its `decision` and `reason` say."""

    def __init__(self, decision: str, reason: str) -> None:
        super().__init__(decision, reason)
        self.decision, self.reason = decision, reason


async def work(turn: Turn, asked: Any, parts: PackParts) -> None:
    """Do the task that was asked for."""
    tasks: dict[type, Callable[[Turn, Any, PackParts], Awaitable[None]]] = {
        inputs.Round: _round, inputs.Put: _put, inputs.Sale: _sale, inputs.Copy: _copy,
        inputs.Price: _price, inputs.Look: _look, inputs.Return: _return,
    }  # fmt: skip
    try:
        await tasks[type(asked)](turn, asked, parts)
    except _Stopped as stopped:
        await turn.end(stopped.decision, stopped.reason, {"usage": []})


async def _do(turn: Turn, step: str, tool: str, args: dict[str, Any]) -> dict[str, Any]:
    """The receipt of a step; _Stopped when policy, a person or the desk says no."""
    acted: Acted = await turn.act(step, f"shop.{tool}", args)
    if acted.receipt is None:
        raise _Stopped("refused" if acted.refusal else "denied", f"{tool}: {why(acted)}")
    return acted.receipt


async def _round(turn: Turn, asked: inputs.Round, parts: PackParts) -> None:
    queue = await _do(turn, "queue", "queue", {})
    wanted = [(task, sku) for task in ("copy", "look") for sku in queue[task]]
    children = [
        Child("shop", {"task": task, "subject": sku}, agent=f"shop/{sku}")
        for task, sku in wanted[:_MOST_OF_A_ROUND]
    ]
    ended = await turn.children("work", children) if children else []
    rows = [
        {"task": task, "subject": sku, "run": e["run"], "decision": e["decision"],
         "reason": e["reason"], "usd": sum(u.get("cost_usd", 0.0) for u in _usage(e))}
        for (task, sku), e in zip(wanted, ended or [], strict=False)
    ]  # fmt: skip
    left = len(wanted) - len(children)
    reason = f"{len(rows)} done" + (f", {left} left for the next round" if left else "")
    await turn.end("done", reason, {"done": rows, "left": left, "usage": []})


def _usage(ended: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list((ended["result"] or {}).get("usage", []))


async def _put(turn: Turn, asked: inputs.Put, parts: PackParts) -> None:
    product = asked.model_dump(exclude={"task", "subject"})
    made = await _do(turn, "put", "put", {"product": product})
    await turn.end("added" if made["new"] else "changed", "", {"sku": made["sku"], "usage": []})


async def _sale(turn: Turn, asked: inputs.Sale, parts: PackParts) -> None:
    args = asked.model_dump(mode="json", exclude={"task", "subject"})
    sold = await _do(turn, "sell", "sell", args)
    await turn.end("sold", f"{sold['stock']} left", {"stock": sold["stock"], "usage": []})


async def _copy(turn: Turn, asked: inputs.Copy, parts: PackParts) -> None:
    product = await _do(turn, "look", "look", {})

    async def write() -> dict[str, Any]:
        return await copy.write(
            parts, turn.run.run_id, product["title"], product["attributes"], asked.tone
        )

    written = await turn.phase("copy", write)
    await _do(turn, "describe", "describe", {"text": written["text"]})
    by = written["by"] or "the attributes alone"
    await turn.end("written", f"lead by {by}", written)


async def _price(turn: Turn, asked: inputs.Price, parts: PackParts) -> None:
    product = await _do(turn, "look", "look", {})
    usual = product["traffic"].get("usual", {"visitors": 0, "buyers": 0})
    if not usual["buyers"]:
        reason = "nobody is known to have bought it: without a rate no sample can be planned"
        return await turn.end("refused", reason, {"usage": []})
    cost, now = product["cost_cents"], product["price_cents"]
    rate = usual["buyers"] / usual["visitors"]
    try:
        needed = pricing.visitors_needed(
            rate, now - cost, asked.price_cents - cost, asked.least_lift
        )
    except InvalidInput as error:
        return await turn.end("refused", str(error), {"usage": []})
    args = {"price_cents": asked.price_cents, "needed": needed, "looks": asked.looks}
    started = await _do(turn, "start", "start", args)
    reason = f"{started['price_cents']} against {now} cents, {needed} visitors in each arm"
    result = {**args, "price_cents": started["price_cents"], "now_cents": now, "usage": []}
    return await turn.end("started", reason, result)


async def _look(turn: Turn, asked: inputs.Look, parts: PackParts) -> None:
    product = await _do(turn, "look", "look", {})
    experiment = product["experiment"]
    if experiment is None:
        return await turn.end("refused", "no price of it is being tried", {"usage": []})
    counts = before = product["traffic"]
    if asked.traffic is not None:
        args = {"experiment": experiment["key"], "traffic": asked.traffic.model_dump()}
        counted = await _do(turn, "count", "count", args)
        counts, before = counted["traffic"], counted["before"]

    async def judge() -> dict[str, Any]:
        return vars(_verdict(product, counts, before))

    said = await turn.phase("verdict", judge)
    named = {"experiment": experiment["key"]}
    if said["ending"] == "adopt":
        await _do(turn, "adopt", "adopt", named)
        return await turn.end("adopted", said["reason"], {**said, "usage": []})
    if said["ending"] == "roll back":
        await _do(turn, "roll-back", "roll_back", {**named, "reason": said["reason"]})
        return await turn.end("rolled_back", said["reason"], {**said, "usage": []})
    return await turn.end("goes_on", said["reason"], {**said, "usage": []})


def _verdict(
    product: Mapping[str, Any], counts: Mapping[str, Any], before: Mapping[str, Any]
) -> pricing.Verdict:
    experiment, cost = product["experiment"], product["cost_cents"]

    def arms(counted: Mapping[str, Any]) -> tuple[pricing.Arm, pricing.Arm]:
        none = {"visitors": 0, "buyers": 0}
        return (
            pricing.Arm(**counted.get(CONTROL, none), margin_cents=experiment["old_cents"] - cost),
            pricing.Arm(
                **counted.get(CANDIDATE, none), margin_cents=experiment["new_cents"] - cost
            ),
        )

    planned = (experiment["needed"], experiment["looks"])
    seen = pricing.look_due(*arms(before), *planned)
    return pricing.verdict(*arms(counts), *planned, seen)


async def _return(turn: Turn, asked: inputs.Return, parts: PackParts) -> None:
    named = {"order": asked.order, "unit": asked.unit}
    await _do(turn, "unit", "unit", named)
    label = await _do(turn, "label", "label", named)
    if asked.condition is None:
        told = await turn.signal("arrived", ARRIVED, ARRIVES_WITHIN_S)
        if told is None:
            return await turn.end("lapsed", "it did not come back in time", {"usage": []})
    # Policy decides on what the shop's records say by now.
    unit = await _do(turn, "unit:labelled", "unit", named)
    condition = _condition(turn.run)
    refund = await _do(turn, "refund", "refund", {**named, "amount_cents": unit["paid_cents"]})
    await _do(turn, "unit:refunded", "unit", named)
    back = await _do(turn, "restock", "restock", {**named, "condition": condition})
    trail = (await _do(turn, "unit:restocked", "unit", named))["trail"]
    result = {
        "label": label["label"], "amount_cents": refund["amount_cents"], "state": back["state"],
        "stock": back["stock"], "trail": trail, "usage": [],
    }  # fmt: skip
    return await turn.end("returned", f"{refund['amount_cents']} cents paid back", result)


def _condition(run: RunState) -> str:
    """As the caller said, or who unpacked it."""
    told = (run.waited.get("arrived") or {}).get("value") or {}
    said = str(run.input.get("condition") or told.get("condition"))
    return said if said in ("unopened", "opened", "damaged") else UNKNOWN


def facts(tool: str, args: Mapping[str, Any], run: RunState) -> dict[str, Any]:
    """What policy is told of a step beside the common facts; see `tools.py`."""
    if tool == "put":
        return {name: int(args["product"][name]) for name in _PRICES}
    if tool == "describe":
        found = run.phases.get("copy", {}).get("findings", ["the copy was not checked"])
        return {"grounded": not found, "finding": found[0] if found else ""}
    if tool in ("start", "adopt"):
        return _price_facts(tool, args, _last(run, "look"), run)
    if tool in ("label", "refund", "restock"):
        unit = _last(run, "unit")
        told = {
            "sold": bool(unit.get("sold", False)), "state": str(unit.get("state", UNKNOWN)),
            "days": int(unit.get("days", 0)), "window_days": int(unit.get("window_days", 0)),
            "condition": _condition(run),
        }  # fmt: skip
        return told | ({"paid_cents": int(unit.get("paid_cents", 0))} if tool == "refund" else {})
    return {}


_PRICES: Final = ("floor_cents", "ceiling_cents", "cost_cents", "price_cents")


def _price_facts(
    tool: str, args: Mapping[str, Any], product: Mapping[str, Any], run: RunState
) -> dict[str, Any]:
    told = {name: int(product.get(name, 0)) for name in _PRICES}
    experiment = product.get("experiment") or {}
    if tool == "adopt":
        ending = str(run.phases.get("verdict", {}).get("ending", "go on"))
        return told | {"price_cents": int(experiment.get("new_cents", 0)), "ending": ending}
    return told | {
        "price_cents": int(args["price_cents"]), "now_cents": told["price_cents"],
        "running": bool(experiment), "needed": int(args["needed"]),
    }  # fmt: skip


def _last(run: RunState, kind: str) -> dict[str, Any]:
    found = [r for r in run.receipts.values() if r.get("kind") == kind]
    return found[-1] if found else {}


PACK: Final = Pack(
    name="shop",
    title="Shop operations: copy, prices, returns",
    input=inputs.Asked,
    tools=TOOLS,
    work=work,
    desk=ShopDesk,
    facts=facts,
)
