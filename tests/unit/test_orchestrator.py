"""Whatever dies in between: each effect is done once, each run ends once."""

import asyncio
from functools import partial
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError, RayActorError

from agents.driver import MAX_LOSSES
from agents.effects import Step
from agents.events import PhaseDone, RunEnded, RunOptions, StepDecided, TurnFailed
from agents.host import Workflow
from agents.policy import Policy
from agents.state import RunState, fold
from agents.turn import Turn
from agents.workflows import support
from agents.workflows.answering import Parts
from cluster.errors import (
    ConfigError,
    Conflict,
    InvalidInput,
    NotFound,
    Overloaded,
    StaleEpoch,
    Unavailable,
)
from tests.fakes import (
    POLICY,
    ListRecaller,
    ScriptedChat,
    ScriptedClassifier,
    support_section,
    ticket,
)
from tests.traced import REFUND_DRAFT, REFUND_PLAN, TICKET
from tests.world import Crash, HostLost, World, Worlds

ATTEMPTS = RunOptions().attempts
EFFECTS = {
    "read": "read_ticket", "1:lookup_order": "lookup_order", "2:order-of-refund": "lookup_order",
    "2:refund": "refund", "reply": "reply",
}  # fmt: skip
WORK = [
    *(f"phase_done {phase}" for phase in ("intent", "recall", "plan", "draft", "grounding")),
    "run_ended",
]
HOST_POINTS = [
    f"{side} orchestrator {what}"
    for what in ("agent", "read", *(f"act {s}" for s in EFFECTS), *(f"append {w}" for w in WORK))
    for side in ("before", "after")
]
CONNECTOR_POINTS = [
    f"{side} connector {tool}"
    for tool in ("read_ticket", "lookup_order", "refund", "reply")
    for side in ("before", "after")
]
JOURNAL_POINTS = [
    f"{side} {what}"
    for what in (
        "create", "claim",
        *(f"append step_decided {s}+effect_started {s}" for s in EFFECTS),
        *(f"append effect_done {s}" for s in EFFECTS),
        *(f"append {w}" for w in WORK),
    )
    for side in ("before", "after")
]  # fmt: skip
WORK_POINTS = ["before host work", "after host work"]
ALL_POINTS = [*HOST_POINTS, *CONNECTOR_POINTS, *JOURNAL_POINTS, *WORK_POINTS]


def _parts(plan: str | Exception = REFUND_PLAN, draft: str | Exception = REFUND_DRAFT) -> Parts:
    chat = ScriptedChat({"planner": [plan], "routine": [draft]})
    classifier = ScriptedClassifier(intent="damaged_item")
    memory = ListRecaller([("policy:damage", "Damaged items are paid back or sent again.")])
    return Parts(chat, classifier, memory, support_section(), "planner", "routine", 5.0)


@pytest.fixture
def usual_work() -> Workflow:
    return partial(support.work, parts=_parts())


def _assert_replied_once(world: World, run_id: str, state: RunState) -> None:
    assert state.ended is not None
    assert (state.ended.decision, state.ended.reason) == (
        "replied",
        "every fact of the reply stands in the evidence",
    )
    counts = world.connector.counts()
    done = {name: counts[name] for name in ("outbox", "refunds", "escalations", "refunded_cents")}
    assert done == {"outbox": 1, "refunds": 1, "escalations": 0, "refunded_cents": 1850}
    events = world.journal.read(run_id)
    assert [type(e.payload) for e in events].count(RunEnded) == 1
    assert world.journal.verify(run_id) == len(events)
    assert fold(run_id, events) == state
    assert state.open_effects == {}


async def test_a_ticket_is_worked_to_its_end_through_every_named_point(worlds: Worlds) -> None:
    world = worlds.make()
    run_id = await world.submit("k", TICKET)
    (state,) = await world.ended(run_id)
    await world.until(lambda: "after host work" in world.trace)
    _assert_replied_once(world, run_id, state)
    # The tables below crash at every point that there is.
    assert set(world.trace) == set(ALL_POINTS)


@pytest.mark.parametrize("point", ALL_POINTS)
async def test_after_a_crash_at_any_point_all_is_done_once(worlds: Worlds, point: str) -> None:
    world = worlds.make()
    world.faults[point] = [Crash()]
    try:
        await world.submit("k", TICKET)
    except Crash:
        assert point.endswith("create")
    await world.until(lambda: world.dead)
    await world.stop()

    world.start()
    run_id = await world.submit("k", TICKET)
    (state,) = await world.ended(run_id)
    _assert_replied_once(world, run_id, state)
    assert len(world.journal.runs()) == 1


@pytest.mark.parametrize("point", HOST_POINTS)
async def test_after_a_host_died_at_any_point_all_is_done_once(worlds: Worlds, point: str) -> None:
    world = worlds.make()
    world.faults[point] = [HostLost()]
    run_id = await world.submit("k", TICKET)
    (state,) = await world.ended(run_id)
    await world.until(lambda: world.faults[point] == [])
    _assert_replied_once(world, run_id, state)
    assert state.failures == 0


@pytest.mark.parametrize(
    ("point", "error", "failures"),
    [
        # A lost connector is asked again by its key, within the same turn.
        *((point, RayActorError(), 0) for point in CONNECTOR_POINTS),
        ("after connector refund", ActorUnavailableError("it restarts", None), 0),
        ("after connector refund", TimeoutError(), 1),
        ("after connector refund", OSError("disk full"), 1),
    ],
)
async def test_after_the_connector_failed_at_any_point_all_is_done_once(
    worlds: Worlds, point: str, error: Exception, failures: int
) -> None:
    world = worlds.make()
    world.faults[point] = [error]
    run_id = await world.submit("k", TICKET)
    (state,) = await world.ended(run_id)
    _assert_replied_once(world, run_id, state)
    assert state.failures == failures
    assert state.epoch == 1 + failures
    assert "before connector lookup" in world.trace


async def test_a_connector_that_stays_away_is_waited_for_and_nothing_is_counted(
    worlds: Worlds,
) -> None:
    world = worlds.make()
    world.faults["before connector refund"] = [RayActorError()]
    world.faults["before connector lookup"] = [RayActorError() for _ in range(15)]
    run_id = await world.submit("k", TICKET)
    (state,) = await world.ended(run_id)
    _assert_replied_once(world, run_id, state)
    assert (state.failures, state.epoch) == (0, 3)


async def test_an_engine_that_still_loads_costs_no_attempt(worlds: Worlds) -> None:
    loading = [Unavailable("planner", "not alive"), Overloaded("planner", "busy")] * ATTEMPTS

    async def work(turn: Turn) -> None:
        if loading:
            raise loading.pop()
        await turn.end("replied", "it answers now", {})

    world = worlds.make(work)
    (state,) = await world.ended(await world.submit("k", TICKET))
    assert state.ended is not None
    assert (state.ended.decision, state.failures) == ("replied", 0)


@pytest.mark.parametrize("point", [p for p in JOURNAL_POINTS if "create" not in p])
async def test_after_the_journal_was_away_at_any_point_all_is_done_once(
    worlds: Worlds, point: str
) -> None:
    world = worlds.make()
    # Away for long enough that the failure can't be journaled either.
    for away in (point, "before append turn_failed"):
        world.faults[away] = [Unavailable("database", "down")]
    (state,) = await world.ended(await world.submit("k", TICKET))
    await world.until(lambda: not world.orchestrator._driver.busy)
    _assert_replied_once(world, state.run_id, state)


async def test_an_end_whose_answer_was_lost_is_known_all_the_same(worlds: Worlds) -> None:
    world = worlds.make()
    world.faults["after append run_ended"] = [Unavailable("database", "connection lost")]
    (state,) = await world.ended(await world.submit("k", TICKET))
    _assert_replied_once(world, state.run_id, state)


async def test_an_effect_between_start_and_receipt_is_looked_up_and_not_repeated(
    worlds: Worlds,
) -> None:
    world = worlds.make()
    world.faults["after connector refund"] = [Crash()]
    await world.submit("k", TICKET)
    await world.until(lambda: world.dead)
    await world.stop()
    assert world.trace[-1] == "after connector refund"

    world.start()
    world.trace.clear()
    await world.ended(await world.submit("k", TICKET))
    assert "before connector lookup" in world.trace
    assert "before connector refund" not in world.trace


async def test_models_are_not_asked_again_for_what_is_journaled(worlds: Worlds) -> None:
    parts = _parts()
    world = worlds.make(partial(support.work, parts=parts))
    world.faults["after append phase_done draft"] = [Crash()]
    await world.submit("k", TICKET)
    await world.until(lambda: world.dead)
    await world.stop()
    world.start()
    await world.ended(await world.submit("k", TICKET))
    assert isinstance(parts.chat, ScriptedChat)
    assert (parts.chat.calls("planner"), parts.chat.calls("routine")) == (1, 1)


async def test_an_old_epochs_late_write_is_refused(worlds: Worlds) -> None:
    stuck = asyncio.Event()
    turns: list[Turn] = []

    async def work(turn: Turn) -> None:
        turns.append(turn)
        if len(turns) == 1:
            await stuck.wait()
        await turn.end("replied", "done", {})

    world = worlds.make(work, turn_timeout_s=1.0)
    run_id = await world.submit("k", TICKET)
    (state,) = await world.ended(run_id)
    assert state.epoch == 2
    orchestrator, late = world.orchestrator, [RunEnded(decision="late", reason="", result={})]
    for old in (0, 1):
        with pytest.raises((StaleEpoch, Conflict)):
            await orchestrator.append(run_id, old, late)
        with pytest.raises(StaleEpoch):
            await orchestrator.act(run_id, old, "x", "escalate", {"reason": "r", "summary": "s"})
    assert world.connector.counts()["escalations"] == 0


async def test_a_turn_that_takes_too_long_is_broken_off_and_counts_as_failed(
    worlds: Worlds,
) -> None:
    async def work(turn: Turn) -> None:
        await asyncio.sleep(60)

    world = worlds.make(work, turn_timeout_s=0.02)
    run_id = await world.submit("k", TICKET)
    (state,) = await world.ended(run_id)
    assert state.ended is not None
    assert "took longer than 0.02 s" in state.ended.reason


@pytest.mark.parametrize(
    ("error", "code", "attempts"),
    [
        (Unavailable("memory", "down"), "unavailable", ATTEMPTS),
        # What would be answered the same again is not asked again.
        (InvalidInput("plan", 1, "2"), "invalid_value", 1),
        (Conflict("memory", "a record is another one"), "conflict", 1),
        (ZeroDivisionError("by zero"), "internal_error", ATTEMPTS),
        (None, "corrupt_data", ATTEMPTS),
    ],
    ids=["unavailable", "invalid", "conflict", "bug", "no outcome"],
)
async def test_failed_turns_hand_the_run_to_a_person(
    worlds: Worlds, error: Exception | None, code: str, attempts: int
) -> None:
    async def work(turn: Turn) -> None:
        if error is not None:
            raise error

    world = worlds.make(work, patience_s=0)
    run_id = await world.submit("k", TICKET)
    (state,) = await world.ended(run_id)
    assert state.ended is not None
    assert (state.ended.decision, state.failures) == ("escalated", attempts)
    assert state.ended.reason.startswith("failed turns")
    failed = [e.payload for e in world.journal.read(run_id) if isinstance(e.payload, TurnFailed)]
    assert [f.code for f in failed] == [code] * attempts
    assert world.connector.counts()["escalations"] == 1


@pytest.mark.parametrize("point", ["before connector escalate", "after connector escalate"])
async def test_a_failed_hand_over_is_tried_again_and_done_once(worlds: Worlds, point: str) -> None:
    async def work(turn: Turn) -> None:
        raise Unavailable("memory", "down")

    world = worlds.make(work, patience_s=0)
    world.faults[point] = [RayActorError(), RayActorError()]
    run_id = await world.submit("k", TICKET)
    (state,) = await world.ended(run_id)
    assert state.ended is not None
    assert state.ended.decision == "escalated"
    assert world.connector.counts()["escalations"] == 1


async def test_a_run_that_was_handed_over_is_not_worked_again_after_a_crash(
    worlds: Worlds,
) -> None:
    broken = True

    async def work(turn: Turn) -> None:
        if broken:
            raise Unavailable("memory", "down")
        await turn.end("replied", "all is well again", {})

    world = worlds.make(work, patience_s=0)
    world.faults["before append run_ended"] = [Crash()]
    run_id = await world.submit("k", TICKET)
    await world.until(lambda: world.dead)
    await world.stop()
    broken = False
    world.start()
    (state,) = await world.ended(run_id)
    assert state.ended is not None
    assert state.ended.decision == "escalated"
    assert world.connector.counts()["escalations"] == 1


async def test_lost_hosts_are_forgiven_within_a_bound(worlds: Worlds) -> None:
    world = worlds.make()
    world.faults["before orchestrator act read"] = [HostLost() for _ in range(MAX_LOSSES)]
    run_id = await world.submit("k", TICKET)
    (state,) = await world.ended(run_id)
    _assert_replied_once(world, run_id, state)
    assert state.failures == 0
    assert state.epoch == MAX_LOSSES + 1
    assert world.hosts == MAX_LOSSES + 1


async def test_a_run_that_kills_every_host_is_given_to_a_person(worlds: Worlds) -> None:
    world = worlds.make()
    world.faults["before orchestrator act read"] = [HostLost() for _ in range(MAX_LOSSES + 9)]
    run_id = await world.submit("k", TICKET)
    (state,) = await world.ended(run_id)
    assert state.ended is not None
    assert "host lost" in state.ended.reason
    assert (state.ended.decision, state.failures) == ("escalated", ATTEMPTS)
    assert state.epoch == MAX_LOSSES + ATTEMPTS


async def test_more_open_runs_than_the_limit_are_refused_and_later_taken(worlds: Worlds) -> None:
    gate = asyncio.Event()

    async def work(turn: Turn) -> None:
        await gate.wait()
        await turn.end("replied", "done", {})

    world = worlds.make(work, max_open_runs=2, concurrency=1)
    first = [await world.submit(str(i), TICKET) for i in range(2)]
    assert await world.orchestrator.open() == 2
    with pytest.raises(Overloaded) as caught:
        await world.submit("2", TICKET)
    assert caught.value.retry_after_s
    gate.set()
    await world.ended(*first)
    await world.until(lambda: not world.orchestrator._driver.busy)
    await world.ended(await world.submit("2", TICKET))
    assert len(world.journal.runs(status="ended")) == 3


async def test_the_same_key_is_one_run_even_when_asked_for_at_once(worlds: Worlds) -> None:
    world = worlds.make()
    ids = await asyncio.gather(*(world.submit("k", TICKET) for _ in range(5)))
    assert len(set(ids)) == 1
    (state,) = await world.ended(ids[0])
    _assert_replied_once(world, ids[0], state)
    assert await world.submit("k", TICKET) == ids[0]
    assert world.trace.count("before host work") == 1


async def test_turns_of_one_agent_take_turns_and_see_each_others_refunds(worlds: Worlds) -> None:
    """Two refunds of 18.50 EUR to one customer: the second would exceed the cap of 30 EUR."""
    parts = _parts()
    world = worlds.make(partial(support.work, parts=parts), concurrency=4)
    twin = {**ticket(TICKET), "id": "T-twin"}
    world.connector.open_tickets([twin])
    ids = [await world.submit("1", TICKET), await world.submit("2", "T-twin")]
    states = {s.run_id: s for s in await world.ended(*ids)}
    decisions = sorted(s.ended.decision for s in states.values() if s.ended)
    assert decisions == ["escalated", "replied"]
    assert world.connector.counts()["refunded_cents"] == 1850
    assert world.hosts == 1
    agent = await world.orchestrator.agent("default", "support/C-1006")
    assert agent.refunded_cents == 1850
    assert {t.run_id for t in agent.turns} == set(ids)


async def test_what_an_agent_gave_back_is_known_after_a_restart(worlds: Worlds) -> None:
    world = worlds.make()
    await world.ended(await world.submit("1", TICKET))
    await world.stop()
    world.start()
    world.connector.open_tickets([{**ticket(TICKET), "id": "T-twin"}])
    (state,) = await world.ended(await world.submit("2", "T-twin"))
    assert state.ended is not None
    assert state.ended.decision == "escalated"
    assert world.connector.counts()["refunds"] == 1


class Asked:
    """An open run, held by a workflow that waits, so that a test can ask for effects itself."""

    def __init__(self, world: World, run_id: str) -> None:
        self._world = world
        self.run_id = run_id

    async def act(self, step: str, tool: str, **args: Any) -> Any:
        return await self._world.orchestrator.act(self.run_id, 1, step, tool, args)

    def journaled(self, kind: type) -> list[Any]:
        events = self._world.journal.read(self.run_id)
        return [e.payload for e in events if isinstance(e.payload, kind)]


async def _asked(worlds: Worlds) -> tuple[World, Asked]:
    async def work(turn: Turn) -> None:
        await asyncio.Event().wait()

    world = worlds.make(work)
    run_id = await world.submit("k", TICKET)
    await world.until(lambda: "before host work" in world.trace)
    return world, Asked(world, run_id)


async def test_a_denied_effect_is_journaled_and_never_done(worlds: Worlds) -> None:
    world, asked = await _asked(worlds)
    acted = await asked.act("1", "refund", order="LO-48055", amount_cents=1850)
    assert (acted.decision.answer, acted.receipt) == ("deny", None)
    assert [d.answer for d in asked.journaled(StepDecided)] == ["deny"]
    again = await asked.act("1", "refund", order="LO-48055", amount_cents=1850)
    assert again.decision == acted.decision
    assert len(asked.journaled(StepDecided)) == 1
    assert world.connector.counts()["effects"] == 0


async def test_a_policy_that_was_changed_decides_once_it_is_read(
    worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = POLICY.read_text("utf-8") + (
        '@id("closed")\n@reason("nothing is looked up today")\n'
        'forbid(principal, action == Action::"lookup_order", resource);\n'
    )
    files: dict[str, str] = {"policy": POLICY.read_text("utf-8")}

    def read(_: World) -> Policy:
        return Policy(files["policy"], POLICY.with_suffix(".cedarschema").read_text("utf-8"), "x")

    monkeypatch.setattr(World, "load_policy", read)
    world, asked = await _asked(worlds)
    files["policy"] = text
    assert (await asked.act("1", "lookup_order", order="LO-48055")).decision.answer == "allow"
    await world.orchestrator.read_policy()
    closed = await asked.act("2", "lookup_order", order="LO-48055")
    assert (closed.decision.answer, closed.decision.rule) == ("deny", "closed")
    files["policy"] = "permit("
    with pytest.raises(ConfigError):
        await world.orchestrator.read_policy()
    assert (await asked.act("3", "lookup_order", order="LO-48055")).decision.rule == "closed"


async def test_another_persons_order_is_not_found_and_can_not_be_refunded(worlds: Worlds) -> None:
    world, asked = await _asked(worlds)
    intent = {"intent": "refund_request", "confidence": 0.99, "out_of_scope": 0.0}
    done = PhaseDone(phase="intent", result=intent, seconds=0.0)
    await world.orchestrator.append(asked.run_id, 1, [done])
    looked = await asked.act("1", "lookup_order", order="LO-44120")
    assert looked.refusal is not None
    assert looked.refusal[0] == "not_found"
    acted = await asked.act("2", "refund", order="LO-44120", amount_cents=100)
    assert acted.decision.answer == "deny"
    assert world.connector.counts()["refunds"] == 0


async def test_what_the_desk_refuses_is_a_refusal_and_stays_one(worlds: Worlds) -> None:
    _, asked = await _asked(worlds)
    first = await asked.act("1", "lookup_order", order="LO-99999")
    again = await asked.act("1", "lookup_order", order="LO-99999")
    assert first.receipt is None
    assert first == again


async def test_a_reply_that_the_desk_cannot_render_is_a_refusal(worlds: Worlds) -> None:
    """A past answer may hold an [IBAN_7] that this ticket has not: no turn fails for it."""
    world, asked = await _asked(worlds)
    phases = {
        "intent": {"intent": "damaged_item", "confidence": 0.99, "out_of_scope": 0.0},
        "grounding": {"findings": []},
    }
    done = [PhaseDone(phase=p, result=r, seconds=0.0) for p, r in phases.items()]
    await world.orchestrator.append(asked.run_id, 1, done)
    acted = await asked.act("reply", "reply", text="Hello [IBAN_7]")
    assert acted.refusal is not None
    assert acted.refusal[0] == "invalid_value"
    assert world.connector.counts()["outbox"] == 0


async def test_a_step_that_was_decided_can_not_become_another(worlds: Worlds) -> None:
    world, asked = await _asked(worlds)
    await asked.act("1", "lookup_order", order="LO-48055")
    for tool, args in (("lookup_account", {}), ("lookup_order", {"order": "LO-44120"})):
        with pytest.raises(Conflict):
            await asked.act("1", tool, **args)
    assert world.trace.count("before connector lookup_order") == 1


async def test_waiting_returns_when_one_more_run_ends(worlds: Worlds) -> None:
    gates = {"T-001": asyncio.Event(), "T-002": asyncio.Event()}

    async def work(turn: Turn) -> None:
        await gates[str(turn.run.input["ticket"])].wait()
        await turn.end("replied", "done", {})

    world = worlds.make(work)
    ids = [await world.submit(t, t, agent=t) for t in gates]
    assert await world.orchestrator.wait(ids, 0.01) == []
    waiting = asyncio.create_task(world.orchestrator.wait(ids, 10.0))
    gates["T-002"].set()
    assert [s.run_id for s in await waiting] == [ids[1]]
    gates["T-001"].set()
    assert {s.run_id for s in await world.ended(*ids)} == set(ids)


async def test_an_unknown_run_is_not_found(worlds: Worlds) -> None:
    orchestrator = worlds.make().orchestrator
    for call in (orchestrator.read, orchestrator.verify):
        with pytest.raises(NotFound):
            await call("run_9")


async def test_an_unknown_workflow_is_given_to_a_person(worlds: Worlds) -> None:
    world = worlds.make()
    given = {"ticket": TICKET}
    run_id = await world.orchestrator.submit("default", "k", "juggling", "a", given)
    (state,) = await world.ended(run_id)
    assert state.ended is not None
    assert "'juggling'" in state.ended.reason


def _key(run: str, *step: Any) -> str:
    return Step(*step).key(run)


def test_an_effects_key_is_that_of_its_call_and_of_no_other() -> None:
    key = _key("r", "1", "refund", {"order": "LO-1", "amount_cents": 5})
    assert key == _key("r", "1", "refund", {"amount_cents": 5, "order": "LO-1"})
    others = [
        _key("r2", "1", "refund", {"order": "LO-1", "amount_cents": 5}),
        _key("r", "2", "refund", {"order": "LO-1", "amount_cents": 5}),
        _key("r", "1", "reply", {"order": "LO-1", "amount_cents": 5}),
        _key("r", "1", "refund", {"order": "LO-1", "amount_cents": 6}),
    ]
    assert len({key, *others}) == 5
