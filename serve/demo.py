"""`mainspring demo`: a queue of support tickets through the whole system, and what it cost.

The shipped queue is `infra/support/tickets.jsonl`. With `data`, questions of Banking77's test
split instead: they have no answers, so each is triaged to its intent's queue or to a person.
A demo that was killed is taken up again where it stood; one that finished starts afresh.
"""

import asyncio
import csv
import gzip
import hashlib
import json
import math
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agents.events import RunOptions
from cluster.errors import InvalidInput
from cluster.settings import Settings, infra_path
from serve.running import DEMO

Ticket = dict[str, str]
_OFFER_S: Final = 60.0


@dataclass(frozen=True)
class Queue:
    """What a demo works on. `head` is the intent head's name, `examples` the file it is trained
    from when it does not ship; `memories` are (kind, path) to ingest, `past` past tickets as
    (source, text, meta)."""

    name: str
    tenant: str
    workflow: str
    head: str
    tickets: list[Ticket]
    memories: list[tuple[str, Path]] = field(default_factory=list)
    past: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    examples: Path | None = None


def shipped_queue(settings: Settings) -> Queue:
    """The 30 tickets of the shipped desk."""
    desk = infra_path("", settings.support.desk)
    tickets = list(_lines(desk / "tickets.jsonl"))
    past = [
        (f"ticket:{p['id']}", p["text"], {"intent": p["intent"], "answer": p["answer"]})
        for p in _lines(desk / "past_tickets.jsonl")
    ]
    return Queue(
        name="shop", tenant=settings.tenant, workflow="support", head="support",
        tickets=tickets, memories=[("policy", desk / "policies")], past=past,
    )  # fmt: skip


def banking_queue(folder: Path, count: int, seed: int) -> Queue:
    """`count` questions of Banking77's test split, drawn with `seed`; ids are its rows from 0.

    `folder` is the data folder or its `banking77`. Raises InvalidInput when it holds no such data
    or fewer questions than asked for.
    """
    base = folder / "banking77" if (folder / "banking77").is_dir() else folder
    test, train = _one_of(base, "test"), _one_of(base, "train")
    rows = list(_rows(test))
    if not 1 <= count <= len(rows):
        raise InvalidInput("tickets", count, f"1 to {len(rows)}, the questions of {test.name}")
    chosen = sorted(random.Random(seed).sample(range(len(rows)), count))
    tickets = [
        {
            "id": str(i), "customer": "C-GUEST", "subject": "", "body": rows[i][0],
            "received": "2026-11-20",
        }
        for i in chosen
    ]  # fmt: skip
    past = [
        (f"ticket:train-{i}", text, {"intent": label})
        for i, (text, label) in enumerate(_rows(train))
    ]
    return Queue(
        name="banking77", tenant="banking77", workflow="triage", head="banking77",
        tickets=tickets, past=past, examples=train,
    )  # fmt: skip


def own_settings(settings: Settings) -> Settings:
    """The demo's settings: its data lie in a folder of their own below the stack's, and its
    workflows are trusted to go by the policy, unless the profile says otherwise."""
    packs = dict.fromkeys(settings.agents.packs_by_name, 2)
    trusted = {"support": 2, "triage": 2, **packs, **settings.agents.autonomy}
    agents = settings.agents.model_copy(update={"autonomy": trusted})
    return settings.model_copy(update={"data_dir": settings.data_dir / DEMO, "agents": agents})


def clear_unless_unfinished(own: Settings, queue: Queue) -> bool:
    """Clear away what a finished demo, or one with another queue, left behind. True when an
    unfinished one is taken up instead. Call it only while holding the stack's folder."""
    folder = own.data_dir
    marker = folder / "queue.json"
    mark = {"name": queue.name, "tickets": _digest(queue.tickets)}
    try:
        if json.loads(marker.read_text("utf-8")) == mark:
            return True
    except (FileNotFoundError, ValueError):
        pass
    for name in ("journal.db", "desk.db", "memory.db", "memory-log.db", "memory-exports", "packs"):
        for path in folder.glob(f"{name}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps(mark), encoding="utf-8")
    return False


def finished(own: Settings) -> None:
    """The queue is through: the next demo starts afresh."""
    (own.data_dir / "queue.json").unlink(missing_ok=True)


async def fill(stack: Any, queue: Queue, progress: Callable[[str], None]) -> None:
    """Put the queue's knowledge into memory and its tickets on the desk."""
    from memory.records import Record

    for kind, path in queue.memories:
        report = await stack.memory.ingest.remote(queue.tenant, str(path), kind)
        progress(f"memory: {report.added + report.known} passages of kind {kind}")
    records = [
        Record(
            tenant=queue.tenant, kind="ticket", source=source, text=text, event_at=0.0,
            meta=meta,
        )
        for source, text, meta in queue.past
    ]  # fmt: skip
    for start in range(0, len(records), 500):
        await stack.memory.remember.remote(records[start : start + 500])
        progress(f"memory: {min(start + 500, len(records))} of {len(records)} past tickets")
    await stack.connector.open_tickets.remote(queue.tickets)


async def work(
    stack: Any, queue: Queue, show: Callable[[dict[str, Any]], None]
) -> list[dict[str, Any]]:
    """Submit every ticket and return one report row a ticket, in the queue's order; `show` gets
    each row as its ticket ends."""
    runs: dict[str, Ticket] = {}
    for ticket in queue.tickets:
        given = {"ticket": ticket["id"], "head": queue.head}
        agent = f"{queue.workflow}/{ticket['customer']}"
        if queue.workflow == "triage":
            agent = f"triage/{ticket['id']}"
        key = f"{queue.name}:{ticket['id']}"
        run_id = await stack.orchestrator.submit.remote(
            queue.tenant, key, queue.workflow, agent, given, RunOptions(asks="hand_over")
        )
        runs[run_id] = ticket
    rows: dict[str, dict[str, Any]] = {}
    while len(rows) < len(runs):
        open_runs = [r for r in runs if r not in rows]
        for state in await stack.orchestrator.wait.remote(open_runs, 30.0):
            ticket = runs[state.run_id]
            reply = None
            if state.ended.decision == "replied":
                reply = await stack.connector.sent.remote(ticket["id"])
            rows[state.run_id] = row = _row(ticket, state, reply)
            show(row)
    return [rows[r] for r in runs]


async def offer(stack: Any, queue: Queue, rows: Sequence[dict[str, Any]]) -> Any:
    """Ask a person about one refund that the queue had handed over: its ticket is worked again, and
    this time the step waits. The open approval, or None when no refund was handed over or the run
    came to something else."""
    over = {row["id"] for row in rows if row["reason"].startswith("refund needs a person")}
    # Of a customer who has asked for nothing else, so that what is given back is this alone.
    asked_for = Counter(t["customer"] for t in queue.tickets)
    alone = [t for t in queue.tickets if t["id"] in over and asked_for[t["customer"]] == 1]
    if not alone:
        return None
    ticket = alone[0]
    given = {"ticket": ticket["id"], "head": queue.head}
    agent = f"{queue.workflow}/{ticket['customer']}/asked"
    key = f"{queue.name}:{ticket['id']}:asked"
    run = await stack.orchestrator.submit.remote(
        queue.tenant, key, queue.workflow, agent, given, RunOptions(asks="wait")
    )
    until = asyncio.get_running_loop().time() + _OFFER_S
    while asyncio.get_running_loop().time() < until:
        for approval in await stack.orchestrator.approvals.remote(queue.tenant):
            if approval.run_id == run:
                return approval
        if await stack.orchestrator.wait.remote([run], 0.2):
            return None
    return None


def _row(ticket: Ticket, state: Any, reply: str | None) -> dict[str, Any]:
    result = state.ended.result
    usage: list[dict[str, Any]] = result.get("usage", [])
    models = list(dict.fromkeys(u["model"] for u in usage)) or ["intent-head"]
    claimed = state.claimed_at or state.started_at
    return {
        "id": ticket["id"],
        "intent": result.get("intent"),
        "confidence": round(float(result.get("confidence", 0.0)), 4),
        "model": "+".join(models),
        "evidence": result.get("evidence", []),
        "decision": state.ended.decision,
        "reason": state.ended.reason,
        "plan": result.get("plan", ""),
        "reply": reply,
        "tokens": {
            "prompt": sum(u["prompt_tokens"] for u in usage),
            "completion": sum(u["completion_tokens"] for u in usage),
        },
        "usage": usage,
        "cost_usd": sum(u["cost_usd"] for u in usage),
        "latency_ms": round((state.ended_at - claimed) * 1000, 1),
        "queued_ms": round((claimed - state.started_at) * 1000, 1),
        "run_id": state.run_id,
    }


def totals(rows: Sequence[dict[str, Any]], settings: Settings, seconds: float) -> dict[str, Any]:
    """The sums over all tickets: who was automated, what it cost, what it would have cost with
    every token on the dearest planner."""
    planner = next(m for m in settings.models if m.tier == "planner")
    by_model: dict[str, dict[str, float]] = {}
    alone = 0.0
    for use in (u for row in rows for u in row["usage"]):
        entry = by_model.setdefault(
            use["model"], {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost_usd": 0.0}
        )
        entry["calls"] += 1
        entry["prompt_tokens"] += use["prompt_tokens"]
        entry["completion_tokens"] += use["completion_tokens"]
        entry["cost_usd"] += use["cost_usd"]
        alone += use["prompt_tokens"] / 1e6 * planner.usd_per_mtok_in
        alone += use["completion_tokens"] / 1e6 * planner.usd_per_mtok_out
    reasons: dict[str, int] = {}
    for row in rows:
        if row["decision"] == "escalated":
            reason = str(row["reason"]).partition(":")[0]
            reasons[reason] = reasons.get(reason, 0) + 1
    latencies = sorted(row["latency_ms"] for row in rows)
    automated = sum(row["decision"] in {"replied", "assigned"} for row in rows)
    return {
        "tickets": len(rows),
        "automated": automated,
        "escalated": sum(row["decision"] == "escalated" for row in rows),
        "failed": sum(row["decision"] == "failed" for row in rows),
        "escalated_by_reason": dict(sorted(reasons.items(), key=lambda kv: -kv[1])),
        "by_model": by_model,
        "cost_usd": sum(row["cost_usd"] for row in rows),
        "cost_usd_planner_alone": alone,
        "latency_ms_p50": percentile(latencies, 0.50),
        "latency_ms_p95": percentile(latencies, 0.95),
        "seconds": round(seconds, 2),
    }


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of `ordered` values that at least `share` of them do not exceed."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from (json.loads(line) for line in file if line.strip())


def _one_of(base: Path, split: str) -> Path:
    for name in (f"{split}.csv.gz", f"{split}.csv"):
        if (base / name).is_file():
            return base / name
    raise InvalidInput("data", str(base), f"a folder with {split}.csv.gz (text, category)")


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open("rt")
    with opened as file:
        for row in csv.DictReader(file):
            yield row["text"], row["category"]


def _digest(tickets: Sequence[Ticket]) -> str:
    return hashlib.sha256(json.dumps(tickets, sort_keys=True).encode()).hexdigest()
