"""How a running stack does, in one look: its parts are asked, its books are read.

A part that does not answer is shown as that; nothing is waited for longer than ASK_S.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Group, RenderableType
from rich.table import Table

from cluster.errors import MainspringError
from serve.books import Books
from serve.budgets import usd_of
from serve.directory import Online, Replica
from serve.scaling import NAME as SCALER

ASK_S: Final = 5.0
_RUNS: Final = ("open", "waiting", "parked", "paused")

Ask = Callable[..., Any]
"""`ask(actor, method, *arguments)`: what a named actor answers; a MainspringError when it does
not."""


@dataclass(frozen=True)
class Spent:
    """A budget: what it is of, and how much of it is gone, USD."""

    kind: str
    subject: str
    period: str
    limit_usd: float
    spent_usd: float


@dataclass
class Status:
    """What is known now. `silent` names the parts that did not answer, with the reason."""

    url: str
    engines: list[Replica] = field(default_factory=list)
    scaling: list[dict[str, Any]] = field(default_factory=list)
    online: Online = field(default_factory=Online)
    runs: dict[str, int] = field(default_factory=dict)
    turns_waiting: int = 0
    approvals: int = 0
    batches: dict[str, Any] = field(default_factory=dict)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    budgets: list[Spent] = field(default_factory=list)
    silent: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """For scripts."""
        shown = asdict(self)
        if shown["online"]["ago_s"] == float("inf"):
            shown["online"]["ago_s"] = None
        return shown


def look(
    url: str, tenant: str, ask: Ask, orchestrators: Iterable[str], books: Books,
    nodes: list[dict[str, Any]], elastic: bool = False,
) -> Status:  # fmt: skip
    """Ask everybody; the scaler where models are `elastic`. `nodes` are the cluster's, each with
    `alive` and its `resources`."""
    found = Status(url, nodes=nodes)

    def told(actor: str, method: str, *args: Any) -> Any:
        try:
            return ask(actor, method, *args)
        except MainspringError as error:
            found.silent[actor] = str(error)
            return None

    found.engines = told("directory", "snapshot") or []
    found.scaling = (told(SCALER, "state") or []) if elastic else []
    found.online = told("directory", "online") or Online()
    found.batches = told("bulk", "state") or {}
    names = list(orchestrators)
    text = told(names[0], "metrics")
    if text is not None:
        found.runs, found.turns_waiting = _counted(text.decode())
    found.approvals = len(told(names[0], "approvals", tenant) or [])
    found.budgets = [
        Spent(b.kind, b.subject, b.period, usd_of(now.limit), usd_of(now.spent))
        for b, now in books.standing(tenant)
    ]
    return found


def shown(status: Status) -> RenderableType:
    """For people."""
    online = status.online
    lines = Table.grid(padding=(0, 2))
    runs = ", ".join(f"{count} {name}" for name, count in sorted(status.runs.items()) if count)
    lines.add_row("gateway", f"{status.url}/v1")
    lines.add_row(
        "online", f"{online.in_work} in work, first token within {1000 * online.ttft_s:.0f} ms"
    )
    lines.add_row("runs", f"{runs or 'none'}; {status.turns_waiting} turns wait for a slot")
    lines.add_row("approvals", f"{status.approvals} wait for a person")
    lines.add_row("batches", _batches(status.batches))
    for step in status.scaling:
        replicas = f"{step['ready']} of {step['target']} replicas"
        lines.add_row("scaling", f"{step['application']}: {replicas}; {step['reason']}")
    lines.add_row("nodes", "; ".join(map(_node, status.nodes)) or "none")
    for budget in status.budgets:
        what = f"{budget.kind} {budget.subject} a {budget.period}"
        lines.add_row("budget", f"{what}: ${budget.spent_usd:.4f} of ${budget.limit_usd:.2f}")
    for part, why in status.silent.items():
        lines.add_row("[bold]silent[/bold]", f"{part}: {why}")
    engines = Table("engine", "model", "running", "waiting", "KV", box=None)
    for one in status.engines:
        counts = (str(one.running), str(one.waiting), f"{one.kv_usage:.0%}")
        engines.add_row(one.id, one.model, *counts)
    return Group(engines, "", lines)


def _counted(text: str) -> tuple[dict[str, int], int]:
    """Runs by status that are not over, and turns that wait."""
    runs: dict[str, int] = {}
    waiting = 0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "mainspring_runs" and sample.labels["status"] in _RUNS:
                runs[sample.labels["status"]] = int(sample.value)
            if sample.name == "mainspring_turns_waiting":
                waiting += int(sample.value)
    return runs, waiting


def _batches(state: Mapping[str, Any]) -> str:
    if not state:
        return "nobody works on them"
    if not state["batches"]:
        return "none"
    return (
        f"{state['batches']} open, {state['under_way']} lines of {state['limit']}: {state['why']}"
    )


def _node(node: Mapping[str, Any]) -> str:
    amounts = node["resources"]
    parts = [f"{amounts.get('CPU', 0):g} CPU", f"{amounts.get('GPU', 0):g} GPU"]
    return f"{node['address']} {'' if node['alive'] else 'DEAD '}({', '.join(parts)})"
