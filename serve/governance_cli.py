"""What people decide: `mainspring policy` and `mainspring approvals`.

Both work on the journal's own database, whether the stack is running or not.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from agents import autonomy, packs, policy_cases
from agents.approvals import Answer, ApprovalRow, Approvals
from agents.events import ApprovalAnswered, ApprovalAsked, StepDecided
from agents.evidence import evidence
from agents.state import fold
from cluster.errors import InvalidInput
from cluster.ids import SystemClock
from cluster.settings import infra_path, load
from serve.operator_cli import BY, PROFILE, RUN, TENANT, opened, own_run, take_up

console = Console(highlight=False, soft_wrap=True)
APPROVAL = typer.Argument(..., help="The id of an approval, as `approvals list` shows it.")

policy = typer.Typer(no_args_is_help=True, help="What agents may do.")
approvals = typer.Typer(no_args_is_help=True, help="What waits for a person's yes or no.")


@policy.command("test")
def policy_test(
    file: Path = typer.Argument(..., help="Cases in YAML, as infra/policy/support.cases.yaml."),
    profile: str | None = PROFILE,
) -> None:
    """Run a policy's cases. Exit status 1 when one is wrong."""
    cases = policy_cases.read(file)
    beside = file.parent / cases.policy if cases.policy else None
    path = beside or infra_path("policy", load(profile).agents.policy)
    # Beside a pack's workflow lie its own rules, which stand with the others.
    pack = [str(file.parent.resolve())] if (file.parent / "workflow.py").is_file() else []
    tried = list(policy_cases.tried(packs.policy(path, pack), cases))
    wrong = [t for t in tried if t.wrong]
    for case in wrong:
        console.print(f"{case.name}: {case.wrong}: {case.decision.reason}", markup=False)
    name = f"{file.resolve().parent.name} on {path.name}" if pack else path.name
    console.print(f"{len(tried)} cases of {name}, {len(wrong)} wrong", markup=False)
    if wrong:
        raise typer.Exit(1)


@policy.command("explain")
def policy_explain(
    run: str = RUN,
    step: str = typer.Argument(..., help="A step of it, as `runs show` names it."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Say which rule decided on a step, and why, from the journal."""
    settings = load(profile)
    with opened(settings) as journal:
        own_run(journal, run, tenant or settings.tenant)
        events = journal.verified(run)
    said = [e for e in events if getattr(e.payload, "step", None) == step]
    if not any(isinstance(e.payload, StepDecided) for e in said):
        steps = ", ".join(fold(run, events).decisions) or "none"
        raise InvalidInput("step", step, f"a step that was decided on: {steps}")
    for event in said:
        for line in _explained(event.payload):
            console.print(f"{_when(event.at)}  {line}", markup=False)


@policy.command("autonomy")
def policy_autonomy(
    workflow: str = typer.Argument(..., help="Whose level."),
    level: int | None = typer.Argument(None, help="0 proposes, to 3; left out: show it."),
    by: str = typer.Option("", help="Who says so."),
    why: str = typer.Option("", help="Why; kept in the journal."),
    by_rate: bool = typer.Option(
        False, "--by-rate", help="Raise or lower it by how often people overrode it since then."
    ),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Show or change how far a workflow is trusted. A running stack follows within seconds."""
    settings = load(profile)
    owner = tenant or settings.tenant
    begin = settings.agents.autonomy
    with opened(settings) as journal:
        set_to, since = autonomy.changed_to(journal, owner, workflow)
        now = begin.get(workflow, begin.get(autonomy.EVERY, 0)) if set_to is None else set_to
        counts = Approvals(journal, SystemClock()).counted(owner, since).get(workflow, {})
        if by_rate:
            level, why = autonomy.by_rate(now, counts)
            console.print(why)
        if level is not None and level != now:
            autonomy.change(journal, SystemClock(), owner, workflow, level, by, why)
            now = level
    told = ", ".join(f"{count} {answer}" for answer, count in counts.items()) or "none"
    console.print(f"{workflow}: level {now}, {autonomy.shown(now)}; questions: {told}")


@policy.command("rotate")
def policy_rotate(profile: str | None = PROFILE) -> None:
    """Sign intents with a new key from now on; what the old one signed is refused at once."""
    from agents.guarding import KEYS
    from agents.intent_keys import rotate

    number = rotate(load(profile).data_dir.resolve() / KEYS)
    console.print(f"intents are signed by key {number}")


@approvals.command("list")
def approvals_list(
    everything: bool = typer.Option(False, "--all", help="Those that are answered as well."),
    limit: int = typer.Option(50, min=1),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """List what waits for a person, the newest first."""
    settings = load(profile)
    table = Table(box=None)
    for name in ("approval", "step", "tool", "EUR", "state", "expires (UTC)"):
        table.add_column(name, no_wrap=name == "approval")
    with opened(settings) as journal:
        found = Approvals(journal, SystemClock())
        for row in found.listed(tenant or settings.tenant, everything, limit):
            table.add_row(
                row.id, row.step, row.tool, _money(row.cents), _state(row),
                _when(row.expires_at),
            )  # fmt: skip
    console.print(table)


@approvals.command("show")
def approvals_show(
    id: str = APPROVAL, tenant: str | None = TENANT, profile: str | None = PROFILE
) -> None:
    """Show a question with the evidence that the run has found."""
    settings = load(profile)
    with opened(settings) as journal:
        row, run = Approvals(journal, SystemClock()).found(id, tenant or settings.tenant)
    told = {**vars(row), "evidence": evidence(run, row.step)}
    console.print_json(json.dumps(told, default=str))


@approvals.command("approve")
def approvals_approve(
    id: str = APPROVAL,
    by: str = BY,
    at_most: str | None = typer.Option(None, help="Not more than so much, as 30.00."),
    note: str = typer.Option("", help="Why; kept in the journal."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Allow a step, or less of it. The run goes on."""
    _answer(id, Answer(True, by, note, _cents(at_most)), tenant, profile)


@approvals.command("deny")
def approvals_deny(
    id: str = APPROVAL,
    by: str = BY,
    note: str = typer.Option("", help="Why; kept in the journal."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Forbid a step. The run goes on without it."""
    _answer(id, Answer(False, by, note), tenant, profile)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.add_typer(policy, name="policy")
    app.add_typer(approvals, name="approvals")


def _answer(id: str, said: Answer, tenant: str | None, profile: str | None) -> None:
    settings = load(profile)
    with opened(settings) as journal:
        row = Approvals(journal, SystemClock()).answer(id, said, tenant or settings.tenant)
    limit = "" if row.at_most is None else f", at most {_money(row.at_most)} EUR"
    console.print(f"{id}: {row.answer} by {row.answered_by}{limit}", markup=False)
    take_up(settings, row.run_id)


def _explained(payload: Any) -> list[str]:
    match payload:
        case StepDecided():
            facts = ", ".join(f"{k} {v}" for k, v in payload.facts.items()) or "none kept"
            lines = [f"{payload.tool}: {payload.answer} by rule {payload.rule}", payload.reason]
            if payload.changed:
                lines.append(f"changed: {json.dumps(payload.changed)}")
            if payload.approval:
                lines.append(f"rests on {payload.approval}")
            return [*lines, f"facts: {facts}"]
        case ApprovalAsked():
            rules = ", ".join(payload.rules)
            return [f"{payload.approval} asks {payload.to}, for {rules}"]
        case ApprovalAnswered():
            limit = "" if payload.at_most is None else f", at most {_money(payload.at_most)} EUR"
            said = "approved" if payload.approved else "denied"
            return [f"{said} by {payload.by}{limit}", *([payload.note] if payload.note else [])]
    return [str(payload.kind)]


def _cents(amount: str | None) -> int | None:
    from agents.money import cents

    if amount is None:
        return None
    found = cents(amount)
    if found is None or found <= 0:
        raise InvalidInput("at-most", amount, "an amount such as 30.00")
    return found


def _money(value: int | None) -> str:
    return "-" if value is None else f"{value / 100:.2f}"


def _state(row: ApprovalRow) -> str:
    return f"{row.answer} by {row.answered_by}" if row.answered_by else row.answer


def _when(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"
