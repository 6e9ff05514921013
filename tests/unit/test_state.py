"""State is the fold of events: the same line builds a live run and a recovered one."""

from dataclasses import replace
from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agents.events import (
    EffectDone,
    EffectFailed,
    EffectStarted,
    Event,
    PhaseDone,
    RunClaimed,
    RunEnded,
    RunStarted,
    StepDecided,
    TurnFailed,
    parse,
)
from agents.state import KEPT_TEXTS, AgentState, RunState, apply, fold

STARTED = RunStarted(workflow="support", agent="support/C-1", input={"ticket": "T-1"})
DECIDED = StepDecided(step="1", tool="refund", args={}, answer="allow", rule="r", reason="why")
BEGUN = EffectStarted(step="1", tool="refund", key="k", args={})
RECEIPT = {"kind": "refund", "amount_cents": 500}
DONE = EffectDone(step="1", key="k", receipt=RECEIPT)
FAILED = EffectFailed(step="1", key="k", code="conflict", reason="over what is left")
ENDED = RunEnded(decision="replied", reason="grounded", result={})

STEPS = st.sampled_from(["1", "2", "reply"])
PAYLOADS = st.one_of(
    st.just(STARTED),
    st.builds(RunClaimed, epoch=st.integers(1, 9), reason=st.text(max_size=5)),
    st.builds(
        PhaseDone, phase=st.sampled_from(["intent", "plan"]), seconds=st.floats(0, 9),
        result=st.dictionaries(st.text(max_size=3), st.integers() | st.lists(st.text(max_size=3))),
    ),
    st.builds(
        StepDecided, step=STEPS, tool=st.just("refund"), args=st.just({}), rule=st.just("r"),
        answer=st.sampled_from(["allow", "deny", "ask"]), reason=st.text(max_size=5),
    ),
    st.builds(EffectStarted, step=STEPS, tool=st.just("x"), key=st.just("k"), args=st.just({})),
    st.builds(EffectDone, step=STEPS, key=st.just("k"), receipt=st.just(RECEIPT)),
    st.builds(EffectFailed, step=STEPS, key=st.just("k"), code=st.just("c"), reason=st.just("")),
    st.builds(TurnFailed, code=st.just("c"), reason=st.text(max_size=5)),
    st.just(ENDED),
)  # fmt: skip


def _events(*payloads: Any, start: float = 100.0) -> list[Event]:
    return [
        Event(run_id="r", seq=i, epoch=1, at=start + i, hash="h", payload=p)
        for i, p in enumerate(payloads, 1)
    ]


def _stored(event: Event) -> Event:
    return event.model_copy(update={"payload": parse(event.payload.model_dump_json())})


@given(st.lists(PAYLOADS, max_size=15))
def test_a_recovered_state_is_the_live_one(payloads: list[Any]) -> None:
    events = _events(*payloads)
    live = RunState("r")
    for event in events:
        live = apply(live, event)
    assert fold("r", [_stored(e) for e in events]) == live


@given(st.lists(PAYLOADS, max_size=15), st.integers(0, 15))
def test_folding_can_stop_and_go_on_anywhere(payloads: list[Any], cut: int) -> None:
    events = _events(*payloads)
    half = fold("r", events[:cut])
    for event in events[cut:]:
        half = apply(half, event)
    assert half == fold("r", events)


def test_applying_an_event_leaves_the_earlier_state_alone() -> None:
    before = fold("r", _events(STARTED, DECIDED, BEGUN))
    apply(before, _events(STARTED, DECIDED, BEGUN, DONE)[-1])
    assert before.receipts == {}
    assert list(before.open_effects) == ["1"]


@pytest.mark.parametrize(
    ("last", "still_open", "receipts", "refusals"),
    [([], 1, 0, 0), ([DONE], 0, 1, 0), ([FAILED], 0, 0, 1)],
)
def test_an_effect_is_open_until_it_is_done_or_refused(
    last: list[Any], still_open: int, receipts: int, refusals: int
) -> None:
    state = fold("r", _events(STARTED, DECIDED, BEGUN, *last))
    sizes = (len(state.open_effects), len(state.receipts), len(state.refusals))
    assert sizes == (still_open, receipts, refusals)


def test_times_are_those_of_the_first_claim_and_of_the_end() -> None:
    claims = [RunClaimed(epoch=e, reason="x") for e in (1, 2)]
    state = fold("r", _events(STARTED, *claims, TurnFailed(code="c", reason=""), ENDED))
    assert (state.started_at, state.claimed_at, state.ended_at) == (101.0, 102.0, 105.0)
    assert (state.epoch, state.failures, state.seq) == (2, 1, 5)


def test_an_event_of_an_unknown_kind_or_with_unknown_fields_is_refused() -> None:
    for data in ('{"kind":"gossip"}', ENDED.model_dump_json()[:-1] + ',"more":1}', "[]", ""):
        with pytest.raises(ValidationError):
            parse(data)


def _run(run_id: str, at: float, ended: bool = True, cents: int = 500) -> RunState:
    return RunState(
        run_id=run_id, ended_at=at, ended=ENDED if ended else None,
        phases={"intent": {"intent": "damaged_item"}},
        receipts={"1": {"kind": "refund", "amount_cents": cents}, "2": {"kind": "order"}},
    )  # fmt: skip


def test_an_agent_adds_up_what_it_gave_back_once_for_each_run() -> None:
    agent = AgentState("a").after(_run("r1", 1)).after(_run("r2", 2, cents=70))
    assert agent.refunded_cents == 570
    assert agent.after(_run("r1", 1)) == agent
    assert agent.after(_run("r3", 3, ended=False)) == agent


def test_an_agents_turns_are_the_same_in_whatever_order_they_arrive() -> None:
    one, two = _run("r1", 1), _run("r2", 2)
    assert AgentState("a").after(one).after(two) == AgentState("a").after(two).after(one)
    assert [t.run_id for t in AgentState("a").after(two).after(one).turns] == ["r1", "r2"]


def test_an_agent_keeps_the_words_of_its_last_turns_in_whatever_order_they_are_folded() -> None:
    def run(number: int) -> RunState:
        started = RunStarted(workflow="w", agent="a", input={"message": f"m{number}"})
        ended = RunEnded(decision="answered", reason="", result={"text": f"r{number}"})
        state = fold(f"run_{number:03}", _events(started, ended, start=100.0 * number))
        return replace(state, run_id=f"run_{number:03}")

    runs = [run(number) for number in range(KEPT_TEXTS + 20)]
    forward = reduce(AgentState.after, runs, AgentState("a"))
    backward = reduce(AgentState.after, reversed(runs), AgentState("a"))
    assert forward == backward == AgentState.from_json(forward.as_json())
    assert [t.message for t in forward.turns[-KEPT_TEXTS:]] == [
        f"m{number}" for number in range(20, KEPT_TEXTS + 20)
    ]
    assert {(t.message, t.reply) for t in forward.turns[:20]} == {("", "")}
    assert all(forward.knows(f"run_{number:03}") for number in range(KEPT_TEXTS + 20))
