"""PURE: the facts that policy decides on, taken from the journal and never from a model's words."""

from dataclasses import dataclass
from typing import Any

from agents import origins
from agents.money import largest_named
from agents.state import AgentState, RunState
from agents.tools import TOOLS, Tool


@dataclass(frozen=True)
class Thresholds:
    """What counts as sure enough: probabilities from 0 to 1."""

    min_confidence: float
    max_out_of_scope: float


@dataclass(frozen=True)
class Standing:
    """How far a workflow is trusted (its autonomy, 0 to 3), and what a tenant's agents have done
    with a tool that spends: how often in the last hour, whose oldest leaves it at `hour_frees_at`
    (seconds since the epoch), and the cents of the last day."""

    autonomy: int = 0
    hour_count: int = 0
    day_cents: int = 0
    hour_frees_at: int = 0


def facts_for(
    tool: str, args: dict[str, Any], run: RunState, agent: AgentState, thresholds: Thresholds,
    standing: Standing,
) -> dict[str, Any]:  # fmt: skip
    """What the policy's schema lists for `tool`. A missing lookup leaves facts that deny."""
    facts = _common(run, thresholds) | {"tenant": run.tenant, "autonomy": standing.autonomy}
    # Of a tool that nobody declared every argument counts.
    facts |= origins.facts(TOOLS.get(tool) or Tool(tool, (), "write"), args, run)
    if tool == "refund":
        wanted = str(args.get("order", ""))
        order, read = _order(run, wanted), run.receipts.get("read", {})
        asked = str(read.get("text", ""))
        named, thread = largest_named(asked), "\n".join((asked, *_of_customer(read)))
        facts |= {
            "amount_cents": int(args.get("amount_cents", 0)),
            "order_total_cents": int(order.get("total_cents", 0)),
            "order_refunded_cents": int(order.get("refunded_cents", 0)),
            "agent_refunded_cents": agent.refunded_cents + _refunded(run),
            "order_named": bool(wanted) and wanted.casefold() in thread.casefold(),
            "named_cents": named,
            "named_left_cents": max(0, named - _refunded(run, wanted)),
            "order_status": str(order.get("status", "unknown")),
            "drift": _thousandths(run.phases.get("intent", {}).get("drift", 0.0)),
            "hour_count": standing.hour_count,
            "day_cents": standing.day_cents,
            "hour_frees_at": standing.hour_frees_at,
        }
    elif tool in TOOLS and (amount := TOOLS[tool].amount):
        facts[amount] = int(args.get(amount, 0))
    elif tool == "reply":
        checked = run.phases.get("grounding", {})
        found = checked.get("findings", ["the draft was not checked"])
        facts |= {"grounded": not found, "finding": found[0] if found else ""}
        if checked.get("outside"):
            facts["outside"] = True
    elif tool == "assign":
        facts["gate"] = bool(run.phases.get("intent", {}).get("gate", False))
    return facts


def _common(run: RunState, thresholds: Thresholds) -> dict[str, Any]:
    intent = run.phases.get("intent", {})
    return {
        "intent": str(intent.get("intent", "unknown")),
        "confidence": _thousandths(intent.get("confidence", 0.0)),
        "out_of_scope": _thousandths(intent.get("out_of_scope", 1.0)),
        "min_confidence": _thousandths(thresholds.min_confidence),
        "max_out_of_scope": _thousandths(thresholds.max_out_of_scope),
    }


def _order(run: RunState, order: str) -> dict[str, Any]:
    # The latest lookup counts: an earlier one does not know of a refund since.
    for receipt in reversed(run.receipts.values()):
        if receipt.get("kind") == "order" and str(receipt.get("id")).upper() == order.upper():
            return receipt
    return {}


def _of_customer(read: dict[str, Any]) -> list[str]:
    """What the customer has said in the thread before."""
    return [str(m["text"]) for m in read.get("before", ()) if m.get("author") == "customer"]


def _refunded(run: RunState, order: str | None = None) -> int:
    """Cents that this run has given back, for one order or for all."""
    given = [r for r in run.receipts.values() if r.get("kind") == "refund"]
    return sum(
        int(r.get("amount_cents", 0)) for r in given if order is None or r.get("order") == order
    )


def _thousandths(share: float) -> int:
    return round(float(share) * 1000)
