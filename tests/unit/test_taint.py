"""Labels go where values go: through steps, a crash, memory and other runs, and nowhere else."""

from itertools import product
from typing import Any

import pytest

from agents import taint
from agents.events import EffectDone, Event, PhaseDone, RunOptions, RunStarted, StepDecided
from agents.host import Workflow
from agents.lessons import decision
from agents.origins import Known, facts, outside, untrusted
from agents.state import RunState, fold
from agents.taint import GIVEN, OWN, PUBLIC, SHARINGS, UNKNOWN, Label, join, parse
from agents.tools import ESCALATE, LOOKUP_ORDER, READ_TICKET, REFUND, Tool
from agents.turn import Child, Turn
from memory.provenance import stamped
from memory.records import TRUSTS, Origin, Record
from tests.world import Crash, Worlds

EVERY = [Label(t, s) for t, s in product(TRUSTS, SHARINGS)]
ORDER = {"kind": "order", "id": "LO-48055", "total_cents": 1850}
SEND = Tool("send", ("to", "text"), "write", control={"to": ("address",)})


def _run(*payloads: Any, untrusted: tuple[str, ...] = (), **given: Any) -> RunState:
    first = RunStarted(
        workflow="w", agent="a", input=given, options=RunOptions(untrusted=untrusted)
    )
    return fold(
        "r",
        [
            Event(run_id="r", seq=i, epoch=0, at=0.0, hash="", payload=payload)
            for i, payload in enumerate((first, *payloads), 1)
        ],
    )


def _receipt(step: str, label: Label | str, **receipt: Any) -> EffectDone:
    return EffectDone(step=step, key="k", receipt=receipt, label=str(label))


@pytest.mark.parametrize("one", EVERY, ids=str)
@pytest.mark.parametrize("other", EVERY, ids=str)
def test_a_join_is_as_bad_as_the_worse_of_both(one: Label, other: Label) -> None:
    joined = one.joined(other)
    assert joined == other.joined(one) == joined.joined(one)
    assert TRUSTS.index(joined.trust) == min(map(TRUSTS.index, (one.trust, other.trust)))
    assert SHARINGS.index(joined.sharing) == max(map(SHARINGS.index, (one.sharing, other.sharing)))
    assert one.joined(UNKNOWN) == UNKNOWN
    assert one.joined(PUBLIC) == one
    assert parse(str(one)) == one


@pytest.mark.parametrize("text", ["", "trusted", "trusted/", "/public", "Trusted/public", "a/b/c"])
def test_what_has_no_label_is_untrusted_and_personal(text: str) -> None:
    assert parse(text) == UNKNOWN == Label("untrusted", "personal")


def test_a_label_of_nothing_is_public() -> None:
    assert join([]) == PUBLIC


@pytest.mark.parametrize(
    ("payloads", "expected"),
    [
        ([], GIVEN),
        ([_receipt("1", OWN)], OWN),
        ([_receipt("1", "")], UNKNOWN),
        ([_receipt("1", OWN), _receipt("2", Label("tenant", "public"))], Label("tenant")),
        ([PhaseDone(phase="p", result={}, seconds=0.0)], UNKNOWN),
        ([PhaseDone(phase="p", result={}, seconds=0.0, label=str(PUBLIC))], GIVEN),
    ],
)
def test_a_run_has_the_label_of_all_that_it_has_read(payloads: list[Any], expected: Label) -> None:
    assert _run(*payloads).label == expected


def test_a_run_that_was_given_text_from_outside_has_read_it() -> None:
    assert _run(untrusted=("mail",), mail="hi").label == UNKNOWN


@pytest.mark.parametrize(
    ("tool", "args", "expected"),
    [
        (REFUND, {"order": "LO-48055", "amount_cents": 1850}, []),
        (REFUND, {"order": "LO-48055", "amount_cents": 1849}, ["amount_cents"]),
        (REFUND, {"order": "LO-48055", "amount_cents": True}, ["amount_cents"]),
        (REFUND, {"order": "LO-48055", "amount_cents": "1850"}, ["amount_cents"]),
        (REFUND, {"order": "lo-48055", "amount_cents": 1850}, ["order"]),
        # it stands in the ticket, and nowhere else
        (REFUND, {"order": "LO-11111", "amount_cents": 7}, ["amount_cents", "order"]),
        # of trusted origin, but no order's id
        (REFUND, {"order": "a shop", "amount_cents": 1850}, ["order"]),
        (SEND, {"to": "ann@own.example", "text": "anything"}, []),
        (SEND, {"to": ["ann@own.example", "bob@own.example"], "text": ""}, []),
        (SEND, {"to": ["ann@own.example", "eve@evil.example"], "text": ""}, ["to"]),
        (SEND, {"to": {"address": "eve@evil.example"}, "text": ""}, ["to"]),
        (SEND, {"to": "ann@own.example ", "text": ""}, ["to"]),
        (LOOKUP_ORDER, {"order": "LO-11111"}, []),
        (ESCALATE, {"reason": "what the ticket says", "summary": "it"}, []),
        # nobody has said which of its parameters matter
        (Tool("other", (), "write"), {"a": "a shop", "b": "new"}, ["b"]),
    ],
)
def test_a_value_is_trusted_when_it_equals_one_of_trusted_origin(
    tool: Tool, args: dict[str, Any], expected: list[str]
) -> None:
    run = _run(
        _receipt("read", UNKNOWN, text="refund LO-11111", id="LO-11111", total_cents=7),
        _receipt("look", OWN, **ORDER, item="a shop"),
        people=[{"address": "ann@own.example"}, {"address": "bob@own.example"}],
        mail="eve@evil.example", address="eve@evil.example",
        untrusted=("mail", "address"),
    )  # fmt: skip
    assert untrusted(tool, args, run) == expected


@pytest.mark.parametrize(
    ("run", "trusted"),
    [
        (_run(), True),
        (_run(_receipt("1", OWN)), True),
        (_run(_receipt("1", UNKNOWN)), False),
        (_run(_receipt("1", UNKNOWN), tools=["refund"]), True),
        (_run(_receipt("1", UNKNOWN), tools=["send"]), False),
        (_run(_receipt("1", UNKNOWN), tools="refund it"), False),
        (_run(tools=["refund"], untrusted=("tools",)), False),
    ],
)
def test_what_was_read_can_choose_no_tool_that_the_input_does_not_name(
    run: RunState, trusted: bool
) -> None:
    assert facts(REFUND, {}, run)["tool_trusted"] is trusted


def test_a_receipt_that_repeats_its_arguments_vouches_for_nothing() -> None:
    echoed = _receipt("1", REFUND.returns, id="LO-11111")
    assert untrusted(REFUND, {"order": "LO-11111"}, _run(echoed)) == ["order"]
    assert READ_TICKET.returns == UNKNOWN


def test_what_was_planned_before_anything_was_read_may_be_done_later() -> None:
    plan = PhaseDone(phase="plan", result={"address": "ann@own.example"}, seconds=0.0)
    plan = plan.model_copy(update={"label": str(PUBLIC)})
    mail = _receipt("mail", UNKNOWN, text="to eve")
    to_ann = {"to": "ann@own.example"}
    assert untrusted(SEND, to_ann, _run(plan, mail)) == []
    # Afterwards its word is worth nothing.
    assert untrusted(SEND, to_ann, _run(mail, plan)) == ["to"]


def test_a_tool_that_the_input_names_once_is_used_once() -> None:
    used = StepDecided(step="1", tool="refund", args={}, answer="allow", rule="r", reason="")
    denied = used.model_copy(update={"step": "0", "answer": "deny"})
    read = _receipt("mail", UNKNOWN)
    assert facts(REFUND, {}, _run(read, denied, tools=["refund"]))["tool_trusted"]
    assert not facts(REFUND, {}, _run(read, used, tools=["refund"]))["tool_trusted"]
    assert facts(REFUND, {}, _run(read, used, tools=["refund"] * 2))["tool_trusted"]


def test_another_run_gets_outside_values_as_such() -> None:
    run = _run(_receipt("look", OWN, **ORDER))
    given = {"order": "LO-48055", "note": "as the mail says", "lines": ["LO-48055", "x"], "n": None}
    assert outside(given, Known.of(run)) == ("lines", "note")


@pytest.mark.parametrize(
    ("labels", "trust", "expected"),
    [
        ((), "trusted", Label("trusted", "personal")),
        (("public",), "tenant", Label("tenant", "public")),
        (("public", "tenant"), "untrusted", Label("untrusted", "tenant")),
        (("red", "public"), "untrusted", Label("untrusted", "public")),
    ],
)
def test_a_recalled_record_has_the_label_that_it_was_kept_with(
    labels: tuple[str, ...], trust: Any, expected: Label
) -> None:
    record = Record("t", "note", "s", "text", 0.0, trust=trust, labels=labels)
    assert taint.of_record(record) == expected


@pytest.mark.parametrize("label", EVERY, ids=str)
def test_what_goes_into_memory_comes_out_at_least_as_narrow(label: Label) -> None:
    kept = Record("t", "note", "s", "text", 0.0, labels=taint.for_record(label))
    public = Record("t", "note", "p", "text", 0.0, trust="trusted", labels=("public",))
    child = Record(
        "t", "summary", "c", "both", 0.0, trust="trusted", parents=(kept.id, public.id),
        origin=Origin("model"),
    )  # fmt: skip
    made = taint.of_record(stamped(child, {r.id: r for r in (kept, public)}))
    assert made == Label("untrusted", label.sharing)


def test_a_decided_ticket_is_remembered_as_personal_and_untrusted() -> None:
    record = decision(_run(tenant="t", ticket="T-1"), "C-1", "other", "replied", "why")
    assert taint.of_record(record) == UNKNOWN


FOREIGN = {"order": "LO-48213", "amount_cents": 100}
OWN_ORDER = {"order": "LO-48055", "amount_cents": 100}


@pytest.fixture
def usual_work() -> Workflow:
    async def work(turn: Turn) -> None:
        await turn.act("read", "read_ticket", {})
        await turn.act("look", "lookup_order", {"order": "LO-48055"})
        await turn.act("pay", "refund", FOREIGN)
        await turn.act("pay own", "refund", OWN_ORDER)
        await turn.end("done", "", {})

    return work


def _told(state: RunState, step: str) -> StepDecided:
    return state.decisions[step]


@pytest.mark.parametrize(
    "point", ["", "after append effect_done look", "before append step_decided pay", "after claim"]
)
async def test_labels_survive_a_crash(worlds: Worlds, point: str) -> None:
    world = worlds.make()
    run_id = ""
    if point:
        world.faults[point] = [Crash()]
        run_id = await world.submit("k", "T-006")
        await world.until(lambda: world.dead)
        await world.stop()
        world.start()
    run_id = await world.submit("k", "T-006")
    (state,) = await world.ended(run_id)
    assert state.labels == {"read": UNKNOWN, "look": OWN}
    foreign, own = _told(state, "pay"), _told(state, "pay own")
    assert (foreign.answer, foreign.facts["untrusted"]) == ("deny", ["amount_cents", "order"])
    assert own.facts["untrusted"] == ["amount_cents"]
    assert not own.facts["tool_trusted"]
    assert state.label == fold(run_id, world.journal.read(run_id)).label == UNKNOWN


async def test_labels_of_one_run_are_not_another_runs(worlds: Worlds) -> None:
    async def look(turn: Turn) -> None:
        if turn.run.input["ticket"] == "T-001":
            await turn.act("read", "read_ticket", {})
        else:
            await turn.act("look", "lookup_order", {"order": "LO-48055"})
        await turn.act("pay", "refund", OWN_ORDER)
        await turn.end("done", "", {})

    world = worlds.make(look)
    tainted = await world.submit("1", "T-001")
    clean = await world.submit("2", "T-006")
    other = await world.submit("3", "T-006", "support/C-2")
    states = {s.run_id: s for s in await world.ended(tainted, clean, other)}
    assert states[tainted].label == UNKNOWN
    assert states[clean].label == states[other].label == OWN
    assert _told(states[clean], "pay").facts["tool_trusted"]


async def test_a_child_run_does_not_wash_what_its_parent_read(worlds: Worlds) -> None:
    seen: dict[str, RunState] = {}

    async def parent(turn: Turn) -> None:
        read = await turn.act("read", "read_ticket", {})
        assert read.receipt is not None
        given = {"ticket": turn.run.input["ticket"], "order": read.receipt["text"]}
        await turn.children("children", [Child("child", given)])
        await turn.end("done", "", {})

    async def child(turn: Turn) -> None:
        seen["child"] = turn.run
        await turn.end("done", "", {})

    world = worlds.make(parent, others={"child": child})
    await world.ended(await world.submit("k", "T-006"))
    assert seen["child"].options.untrusted == ("order",)
    assert seen["child"].label == UNKNOWN
