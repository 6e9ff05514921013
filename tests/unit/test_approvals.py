"""A person is asked: the run waits, an answer counts once, for what was asked and no longer."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from agents.approvals import Answer, ApprovalRow
from agents.autonomy import by_rate, change
from agents.events import ApprovalReminded, EffectStarted, RunOptions, StepDecided
from agents.evidence import evidence
from agents.host import Workflow
from agents.state import RunState
from agents.turn import Turn
from cluster.errors import Conflict, InvalidInput, NotFound
from cluster.ids import SystemClock
from cluster.settings import AgentsSection, ApprovalsSection, GatewaySection
from serve.cli import app as command_line
from serve.gateway import build_app
from serve.routes.approvals import approval_routes
from tests.fakes import ticket
from tests.unit.test_agent_api import WorldOffice, _empty
from tests.world import Crash, World, Worlds

TICKET, ORDER, ASKED = "T-007", "LO-46880", 4200
TENANT = "default"


async def _intent() -> dict[str, Any]:
    return {"intent": "refund_request", "confidence": 0.95, "out_of_scope": 0.01, "gate": True}


async def pay(turn: Turn, cents: int = ASKED) -> None:
    await turn.phase("intent", _intent)
    await turn.act("read", "read_ticket", {})
    await turn.act("order", "lookup_order", {"order": ORDER})
    paid = await turn.act("pay", "refund", {"order": ORDER, "amount_cents": cents})
    if paid.receipt is None:
        return await turn.end("refused", f"{paid.decision.rule}: {paid.decision.reason}", {})
    given = {"cents": paid.receipt["amount_cents"], "answer": paid.decision.answer}
    return await turn.end("paid", paid.decision.reason, given)


@pytest.fixture
def usual_work() -> Workflow:
    return pay


def _world(worlds: Worlds, **section: Any) -> World:
    given = {"approvals": ApprovalsSection(), **section}
    world = worlds.make(**given)
    world.connector.open_tickets([ticket(TICKET)])
    return world


async def _asked(world: World, key: str = "k", options: RunOptions | None = None) -> ApprovalRow:
    """A run's question, once it waits."""
    given = {"ticket": TICKET, "head": "support"}
    office = world.orchestrator
    run = await office.submit(TENANT, key, "support", "support/C", given, options)
    async with asyncio.timeout(20):
        while True:
            for row in await office.approvals(TENANT):
                if row.run_id == run:
                    return row
            await asyncio.sleep(0.01)


async def _answered(world: World, row: ApprovalRow, said: Answer) -> RunState:
    await world.orchestrator.answer_approval(TENANT, row.id, said)
    (state,) = await world.ended(row.run_id)
    return state


@pytest.mark.parametrize(
    ("said", "decision", "cents"),
    [
        (Answer(True, "ann"), "paid", ASKED),
        (Answer(True, "ann", at_most=3000), "paid", 3000),
        (Answer(True, "ann", at_most=9000), "paid", ASKED),
        (Answer(False, "ann", "not this one"), "refused", 0),
    ],
    ids=["approved", "at most 30", "at most more", "denied"],
)
async def test_the_run_goes_on_with_what_the_person_said(
    worlds: Worlds, said: Answer, decision: str, cents: int
) -> None:
    world = _world(worlds)
    row = await _asked(world)
    assert (row.cents, row.tool, row.answer) == (ASKED, "refund", "open")
    assert (await world.orchestrator.read(row.run_id)).status == "waiting"
    state = await _answered(world, row, said)
    assert state.ended is not None
    assert (state.ended.decision, state.ended.result.get("cents", 0)) == (decision, cents)
    counts = world.connector.counts()
    assert (counts["refunds"], counts["refunded_cents"]) == (int(cents > 0), cents)
    assert await world.orchestrator.approvals(TENANT) == []
    assert world.journal.verify(row.run_id) == state.seq
    if not said.approved:
        assert "ann said no: not this one" in state.ended.reason


async def test_the_decision_that_rests_on_an_answer_names_it_where_the_effect_starts(
    worlds: Worlds,
) -> None:
    world = _world(worlds)
    row = await _asked(world)
    state = await _answered(world, row, Answer(True, "ann", at_most=3000))
    events = [e for e in world.journal.read(row.run_id) if getattr(e.payload, "step", "") == "pay"]
    kinds = [e.payload.kind for e in events]
    assert kinds == [
        "step_decided", "approval_asked", "approval_answered", "step_decided", "effect_started",
        "effect_done",
    ]  # fmt: skip
    decided, started = events[3].payload, events[4].payload
    assert isinstance(decided, StepDecided) and isinstance(started, EffectStarted)
    assert (decided.answer, decided.approval) == ("modify", row.id)
    assert decided.changed == {"amount_cents": 3000} and started.args["amount_cents"] == 3000
    assert "append step_decided pay+effect_started pay" in " ".join(world.trace)
    assert state.approvals["pay"].used and not state.approvals["pay"].granted


async def test_of_two_who_answer_the_second_hears_who_was_first(worlds: Worlds) -> None:
    world = _world(worlds)
    row = await _asked(world)
    office = world.orchestrator
    answers = await asyncio.gather(
        office.answer_approval(TENANT, row.id, Answer(True, "ann")),
        office.answer_approval(TENANT, row.id, Answer(False, "bob")),
        return_exceptions=True,
    )
    (done,) = [a for a in answers if isinstance(a, ApprovalRow)]
    (late,) = [a for a in answers if isinstance(a, Conflict)]
    assert f"{done.answered_by} has {done.answer} it first" in str(late)
    await world.ended(row.run_id)
    with pytest.raises(Conflict, match="it first"):
        await office.answer_approval(TENANT, row.id, Answer(True, "eve"))


@pytest.mark.parametrize("point", ["before", "after"])
async def test_a_question_and_its_answer_outlive_a_crash(worlds: Worlds, point: str) -> None:
    world = _world(worlds)
    row = await _asked(world)
    await world.stop()
    world.start()
    world.faults[f"{point} append step_decided pay+effect_started pay"] = [Crash()]
    await world.orchestrator.answer_approval(TENANT, row.id, Answer(True, "ann", at_most=3000))
    await world.until(lambda: world.dead)
    await world.stop()
    world.start()
    (state,) = await world.ended(row.run_id)
    assert state.ended is not None and state.ended.result["cents"] == 3000
    assert world.connector.counts()["refunded_cents"] == 3000


async def test_who_does_not_answer_is_reminded_then_the_next_is_asked_then_it_expires(
    worlds: Worlds,
) -> None:
    world = _world(
        worlds,
        approvals=ApprovalsSection(chain=("desk", "lead"), remind_s=0.1, expires_s=0.35),
    )
    row = await _asked(world)
    (state,) = await world.ended(row.run_id)
    assert state.ended is not None
    assert state.ended.reason.startswith("approval-expired")
    events = [e.payload for e in world.journal.read(row.run_id)]
    told = [(e.number, e.to) for e in events if isinstance(e, ApprovalReminded)]
    assert told[:2] == [(1, "lead"), (2, "lead")]
    assert world.connector.counts()["refunds"] == 0
    with pytest.raises(Conflict):
        await world.orchestrator.answer_approval(TENANT, row.id, Answer(True, "ann"))


async def test_what_a_run_hands_over_is_not_waited_for(worlds: Worlds) -> None:
    world = _world(worlds)
    given = {"ticket": TICKET}
    options = RunOptions(asks="hand_over")
    run = await world.orchestrator.submit(TENANT, "k", "support", "s", given, options)
    (state,) = await world.ended(run)
    assert state.ended is not None and state.ended.reason.startswith("refund-cap")
    assert await world.orchestrator.approvals(TENANT, True) == []


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Answer(True, " "), InvalidInput, "the name of who says so"),
        (lambda: Answer(True, "ann", at_most=0), InvalidInput, "a positive amount"),
        (lambda: Answer(False, "ann", at_most=5), InvalidInput, "an approval alone"),
    ],
)
def test_an_answer_that_is_none_is_refused(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


async def test_a_question_is_its_tenants_alone(worlds: Worlds) -> None:
    world = _world(worlds)
    row = await _asked(world)
    with pytest.raises(NotFound):
        await world.orchestrator.answer_approval("other", row.id, Answer(True, "eve"))
    assert await world.orchestrator.approvals("other", True) == []


async def test_a_cancelled_runs_question_is_open_no_more(worlds: Worlds) -> None:
    world = _world(worlds)
    row = await _asked(world)
    await world.orchestrator.cancel(row.run_id, "ann")
    await world.ended(row.run_id)
    assert await world.orchestrator.approvals(TENANT) == []


async def test_a_paused_run_takes_the_answer_and_goes_on_when_it_is_resumed(
    worlds: Worlds,
) -> None:
    world = _world(worlds)
    row = await _asked(world)
    await world.orchestrator.pause(row.run_id, "ann")
    await world.orchestrator.answer_approval(TENANT, row.id, Answer(True, "ann"))
    assert (await world.orchestrator.read(row.run_id)).status == "paused"
    await world.orchestrator.resume(row.run_id, "ann")
    (state,) = await world.ended(row.run_id)
    assert state.ended is not None and state.ended.decision == "paid"


async def test_level_0_proposes_and_a_recorded_change_raises_it(
    worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.autonomy._FRESH_S", 0.0)
    world = worlds.make(partial(pay, cents=500), approvals=ApprovalsSection(), autonomy={})
    world.connector.open_tickets([ticket(TICKET)])
    row = await _asked(world)
    state = await world.orchestrator.read(row.run_id)
    assert state.approvals["pay"].asked.rules == ("asks-before-money", "proposes-only")
    await _answered(world, row, Answer(True, "ann"))
    made = change(world.journal, SystemClock(), TENANT, "support", 2, "ann", "40 of 40 approved")
    given = {"ticket": TICKET}
    run = await world.orchestrator.submit(TENANT, "k2", "support", "support/D", given)
    (state,) = await world.ended(run)
    assert state.ended is not None and state.ended.result == {"cents": 500, "answer": "allow"}
    assert world.journal.verify(made) == 2
    assert world.journal.row(made).workflow == "autonomy"


async def test_a_step_over_its_rate_waits_until_the_rate_frees(
    worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.meters.HOUR_S", 2.5)
    world = worlds.make(partial(pay, cents=10))
    world.connector.open_tickets([ticket(TICKET)])
    with world.journal.connection() as connection:
        for number in range(60):
            connection.exec_driver_sql(
                "INSERT INTO spending VALUES (?, 's', 'default', 'refund', ?, 1)",
                (f"r{number}", SystemClock().now()),
            )
    given = {"ticket": TICKET}
    run = await world.orchestrator.submit(TENANT, "k", "support", "support/C", given)
    async with asyncio.timeout(20):
        while (await world.orchestrator.read(run)).status != "waiting":
            await asyncio.sleep(0.01)
    (state,) = await world.ended(run)
    answers = [
        e.payload.answer
        for e in world.journal.read(run)
        if isinstance(e.payload, StepDecided) and e.payload.step == "pay"
    ]
    assert answers[0] == "wait" and answers[-1] == "allow"
    assert state.ended is not None and state.ended.decision == "paid"


async def test_the_evidence_shows_arguments_rules_facts_and_what_was_found(worlds: Worlds) -> None:
    world = _world(worlds)
    row = await _asked(world)
    _, run = await world.orchestrator.approval(TENANT, row.id)
    shown = evidence(run, "pay")
    assert shown["arguments"] == {"order": ORDER, "amount_cents": ASKED}
    assert (shown["rules"], shown["facts"]["amount_cents"]) == (["refund-cap"], ASKED)
    assert shown["receipts"]["order"]["id"] == ORDER
    with pytest.raises(NotFound):
        evidence(run, "read")


async def test_over_http_it_is_listed_shown_narrowed_and_answered_once(worlds: Worlds) -> None:
    world = _world(worlds)
    row = await _asked(world)
    office = WorldOffice(world)
    app = build_app(
        GatewaySection(), *_empty(), office=office,
        extra_routes=(partial(approval_routes, office),),
    )  # fmt: skip
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://g") as client:
        (listed,) = (await client.get("/v1/approvals")).json()["data"]
        assert (listed["id"], listed["amount_cents"]) == (row.id, ASKED)
        shown = (await client.get(f"/v1/approvals/{row.id}")).json()
        assert shown["evidence"]["rules"] == ["refund-cap"]
        bad = await client.post(
            f"/v1/approvals/{row.id}/approve", json={"by": "ann", "at_most_cents": -1}
        )
        assert bad.status_code == 400
        done = await client.post(
            f"/v1/approvals/{row.id}/approve", json={"by": "ann", "at_most_cents": 3000}
        )
        assert (done.status_code, done.json()["state"]) == (200, "narrowed")
        late = await client.post(f"/v1/approvals/{row.id}/deny", json={"by": "bob"})
        assert late.status_code == 409 and "ann" in late.json()["error"]["message"]
        assert (await client.get("/v1/approvals/appr_none")).status_code == 404
        assert (await client.get("/v1/approvals?state=new")).status_code == 400
    (state,) = await world.ended(row.run_id)
    assert state.ended is not None and state.ended.result["cents"] == 3000


async def test_on_the_command_line_it_is_listed_narrowed_and_explained(
    worlds: Worlds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAINSPRING_DATA_DIR", str(tmp_path))
    world = _world(worlds)
    row = await _asked(world)

    async def told(*words: str) -> str:
        runner = partial(CliRunner().invoke, command_line, list(words))
        result = await asyncio.to_thread(runner)
        return result.output + str(result.exception or "")

    assert row.id in await told("approvals", "list")
    assert "refund-cap" in await told("approvals", "show", row.id)
    assert "an amount such as" in await told(
        "approvals", "approve", row.id, "--by", "ann", "--at-most", "some"
    )
    done = await told("approvals", "approve", row.id, "--by", "ann", "--at-most", "30.00")
    assert "narrowed by ann, at most 30.00 EUR" in done
    assert "ann has approved it first" in await told("approvals", "deny", row.id, "--by", "bob")
    await world.orchestrator.look_again(row.run_id)
    await world.ended(row.run_id)
    explained = await told("policy", "explain", row.run_id, "pay")
    assert "ask by rule refund-cap" in explained and f"rests on {row.id}" in explained
    assert "1 narrowed" in await told("policy", "autonomy", "support")
    assert "a step that was decided on" in await told("policy", "explain", row.run_id, "none")


@pytest.mark.parametrize(
    ("level", "counts", "right"),
    [
        (1, {}, 1),
        (1, {"approved": 19}, 1),
        (1, {"approved": 20, "open": 9}, 2),
        (1, {"approved": 19, "narrowed": 1}, 2),
        (1, {"approved": 18, "denied": 2}, 1),
        (1, {"approved": 16, "denied": 2, "narrowed": 2}, 0),
        (0, {"denied": 40}, 0),
        (3, {"approved": 40}, 3),
    ],
)
def test_a_level_follows_how_often_people_overrode(
    level: int, counts: dict[str, int], right: int
) -> None:
    assert by_rate(level, counts)[0] == right


@pytest.mark.parametrize("level", [-1, 4])
def test_a_level_that_is_none_is_refused(level: int) -> None:
    with pytest.raises(ValueError, match="autonomy"):
        AgentsSection(autonomy={"support": level})
