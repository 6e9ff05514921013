"""A run's timeline: what the journal says, in the order in which it began."""

from typing import Any

from rich.console import Console

from agents.events import (
    CancelAsked,
    EffectDone,
    EffectFailed,
    EffectStarted,
    Event,
    PhaseDone,
    RunClaimed,
    RunEnded,
    RunPaused,
    RunResumed,
    RunStarted,
    SignalSent,
    StepDecided,
    TurnFailed,
    WaitBegun,
    WaitEnded,
)
from agents.timeline import Entry, timeline
from serve.drawing import drawn

USAGE = {"model": "planner", "prompt_tokens": 90, "completion_tokens": 10, "cost_usd": 0.25}


def decided(step: str, tool: str, answer: Any = "allow") -> StepDecided:
    return StepDecided(step=step, tool=tool, args={}, answer=answer, rule="rule", reason="why")


def started(step: str, tool: str) -> EffectStarted:
    return EffectStarted(step=step, tool=tool, key=step, args={})


def events(*told: tuple[float, Any]) -> list[Event]:
    return [
        Event(run_id="r", seq=i, epoch=1, at=1000.0 + at, hash="", payload=payload)
        for i, (at, payload) in enumerate(told, 1)
    ]


RUN = events(
    (0, RunStarted(workflow="support", agent="a", input={})),
    (2, RunClaimed(epoch=1, reason="queued")),
    (4, PhaseDone(phase="plan", result={"usage": [USAGE, USAGE]}, seconds=1.5)),
    (5, decided("1:refund", "refund")),
    (5, started("1:refund", "refund")),
    (6, TurnFailed(code="host_lost", reason="gone")),
    (7, RunClaimed(epoch=2, reason="host lost")),
    (9, EffectDone(step="1:refund", key="k", receipt={})),
    (9, decided("2:refund", "refund", "deny")),
    (9, decided("reply", "reply")),
    (9, started("reply", "reply")),
    (10, EffectFailed(step="reply", key="k", code="conflict", reason="sent")),
    (11, RunEnded(decision="escalated", reason="refused", result={})),
)


def test_every_event_is_told_once_with_its_time_state_and_cost() -> None:
    assert timeline(RUN) == [
        Entry("run", "accepted", 0, note="support for a"),
        Entry("wait", "taken up, epoch 1", 0, 2, note="queued"),
        Entry(
            "phase", "plan", 2.5, 1.5, note="planner, 180 tokens read, 20 written", usd=0.5
        ),
        Entry("effect", "1:refund refund", 5, 4, "done", "rule: why"),
        Entry("retry", "turn broken off", 6, 0, "host_lost", "gone"),
        Entry("retry", "taken up, epoch 2", 6, 1, note="host lost"),
        Entry("effect", "2:refund refund", 9, 0, "denied", "rule: why"),
        Entry("effect", "reply", 9, 1, "failed", "conflict: sent"),
        Entry("run", "ended", 11, 0, "escalated", "refused"),
    ]  # fmt: skip


def test_an_effect_without_an_end_is_told_as_started() -> None:
    (effect,) = [e for e in timeline(RUN[:5]) if e.kind == "effect"]
    assert (effect.state, effect.seconds) == ("started", 0)


def test_a_clock_that_was_set_back_makes_no_time_negative() -> None:
    back = events(
        (0, RunStarted(workflow="support", agent="a", input={})),
        (5, RunClaimed(epoch=1, reason="queued")),
        (-3600, decided("reply", "reply")),
        (-3600, started("reply", "reply")),
        (-3599, EffectDone(step="reply", key="k", receipt={})),
    )
    assert all(e.at >= 0 and e.seconds >= 0 for e in timeline(back))
    assert timeline(back)[-1].at == 5


def test_no_events_make_no_entries() -> None:
    assert timeline([]) == []


def shown(width: int) -> list[str]:
    console = Console(width=width, record=True, file=None)
    with console.capture() as capture:
        console.print(drawn(timeline(RUN), width))
    return capture.get().splitlines()


def test_bars_lie_on_the_runs_own_scale_and_costs_are_summed_up() -> None:
    wide = shown(140)
    plan = next(line for line in wide if " plan " in line)
    ended = next(line for line in wide if " ended " in line)
    assert plan.index("\u2501") < ended.index("\u2022")
    assert wide[-1].split() == ["11.00", "s", "0.500000"]


def test_a_narrow_terminal_gets_the_same_without_bars() -> None:
    narrow = shown(80)
    assert all(len(line) <= 80 for line in narrow)
    assert not any("\u2501" in line for line in narrow)
    assert sum("refund" in line for line in narrow) >= 2


def test_waits_and_what_people_do_are_told_with_how_long_and_by_whom() -> None:
    nap = WaitBegun(step="nap", awaited="timer", until=1004.0)
    ear = WaitBegun(step="ear", awaited="signal", signal="word", until=1007.0)
    told = timeline(
        events(
            (0, RunStarted(workflow="w", agent="a", input={})),
            (1, nap),
            (2, RunPaused(by="ann", reason="lunch")),
            (3, RunResumed(by="ann")),
            (3, nap),
            (4, WaitEnded(step="nap")),
            (5, WaitBegun(step="fan", awaited="runs", runs=("r1", "r2"))),
            (6, WaitEnded(step="fan", value=[])),
            (6, ear),
            (7, WaitEnded(step="ear")),
            (8, SignalSent(name="word", value={}, by="bob")),
            (9, CancelAsked(by="ann", reason="enough")),
            # A fork begins with the outcome of a wait that another run had.
            (9, WaitEnded(step="before", value={})),
        )
    )
    assert told[1:] == [
        Entry("wait", "nap", 1, 3, "done", "for its time"),
        Entry("person", "paused", 2, state="paused", note="by ann: lunch"),
        Entry("person", "resumed", 3, note="by ann"),
        Entry("wait", "fan", 5, 1, "done", "for 2 runs"),
        Entry("wait", "ear", 6, 1, "too late", "for signal word"),
        Entry("person", "signal word", 8, state="sent", note="by bob"),
        Entry("person", "to end as cancelled", 9, note="by ann: enough"),
    ]
