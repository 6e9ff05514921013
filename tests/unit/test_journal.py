"""The journal's promises, the same on SQLite and on PostgreSQL."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from agents.events import (
    CancelAsked,
    EffectDone,
    EffectParked,
    EffectResolved,
    EffectStarted,
    PhaseDone,
    RunClaimed,
    RunEnded,
    RunOptions,
    RunPaused,
    RunResumed,
    RunStarted,
    SignalSent,
    StepDecided,
    TurnFailed,
    WaitBegun,
    WaitEnded,
)
from agents.journal import Feedback, Judgement
from agents.journal_schema import MIGRATIONS
from agents.journal_sql import SqlJournal
from agents.registry import Registry, ScheduleRow
from agents.specs import AgentSpec, ScheduleSpec
from agents.state import AgentState, Turn, fold
from cluster.database import Database
from cluster.errors import Conflict, DataError, InvalidInput, NotFound, StaleEpoch
from tests.databases import server as server
from tests.databases import url as url
from tests.fakes import CountingIds, FakeClock

ENDED = RunEnded(decision="replied", reason="grounded", result={"cost": 0.25})


def _phase(name: str = "plan", **result: Any) -> PhaseDone:
    return PhaseDone(phase=name, result=result, seconds=0.5)


def _do(url: str, *statements: str) -> None:
    """Change rows behind the journal's back."""
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def opened(url: str, tmp_path: Path, clock: FakeClock) -> Iterator[Callable[[], SqlJournal]]:
    """Opens the journal, each time as another process would."""
    journals: list[SqlJournal] = []
    ids = CountingIds()

    def make() -> SqlJournal:
        journals.append(SqlJournal(url, tmp_path, clock, ids))
        return journals[-1]

    yield make
    for journal in journals:
        journal.close()


@pytest.fixture
def journal(opened: Callable[[], SqlJournal]) -> SqlJournal:
    return opened()


def _run(journal: SqlJournal, key: str = "k", tenant: str = "t", agent: str = "a") -> str:
    run_id, _ = journal.create(tenant, key, "support", agent, {"ticket": "T-1"})
    return run_id


def test_the_same_key_twice_is_one_run(journal: SqlJournal) -> None:
    first = journal.create("t", "k", "support", "a", {"ticket": "T-1"})
    again = journal.create("t", "k", "other", "b", {"ticket": "T-2"})
    assert first == ("run_1", True)
    assert again == ("run_1", False)
    assert fold("run_1", journal.read("run_1")).input == {"ticket": "T-1"}


def test_two_tenants_may_use_the_same_key(journal: SqlJournal) -> None:
    assert _run(journal, tenant="one") != _run(journal, tenant="two")


def test_a_new_run_begins_with_what_was_asked(journal: SqlJournal, clock: FakeClock) -> None:
    (event,) = journal.read(_run(journal))
    assert event.payload == RunStarted(workflow="support", agent="a", input={"ticket": "T-1"})
    assert (event.seq, event.epoch, event.at) == (1, 0, clock.now())


def test_events_are_read_as_they_were_appended(journal: SqlJournal, clock: FakeClock) -> None:
    run_id = _run(journal)
    epoch = journal.claim(run_id, "queued")
    clock.step(0.1)
    live = [
        *journal.append(run_id, epoch, [_phase("intent", words="ü☂ 'x' %s :a"), _phase("plan")]),
        *journal.append(run_id, epoch, [ENDED]),
    ]
    stored = journal.read(run_id)
    assert stored[2:] == live
    assert [e.seq for e in stored] == [1, 2, 3, 4, 5]
    assert isinstance(stored[1].payload, RunClaimed)


def test_a_live_state_is_the_recovered_one_even_for_what_json_changes(
    journal: SqlJournal, opened: Callable[[], SqlJournal]
) -> None:
    run_id = _run(journal)
    epoch = journal.claim(run_id, "queued")
    odd = _phase(pair=(1, 2), nothing=None, share=0.1, inner={"a": (3,)})
    events = [*journal.read(run_id), *journal.append(run_id, epoch, [odd, ENDED])]
    assert fold(run_id, events) == fold(run_id, opened().read(run_id))


def test_each_claim_raises_the_epoch_and_ends_the_earlier_owners_writes(
    journal: SqlJournal, opened: Callable[[], SqlJournal]
) -> None:
    run_id = _run(journal)
    old = journal.claim(run_id, "queued")
    new = opened().claim(run_id, "recovered")
    assert new > old > 0
    with pytest.raises(StaleEpoch):
        journal.append(run_id, old, [_phase()])
    with pytest.raises(StaleEpoch):
        journal.append(run_id, old, [ENDED])
    assert len(journal.read(run_id)) == 3
    journal.append(run_id, new, [_phase()])


@pytest.mark.parametrize("epoch", [0, 2, -1, 99])
def test_only_the_current_epoch_may_write(journal: SqlJournal, epoch: int) -> None:
    run_id = _run(journal)
    journal.claim(run_id, "queued")
    with pytest.raises(StaleEpoch):
        journal.append(run_id, epoch, [_phase()])


def test_a_run_ends_in_the_transaction_of_its_last_event(
    journal: SqlJournal, opened: Callable[[], SqlJournal]
) -> None:
    run_id = _run(journal)
    epoch = journal.claim(run_id, "queued")
    journal.append(run_id, epoch, [_phase(), ENDED])
    other = opened()
    assert [r.status for r in other.runs()] == ["ended"]
    for refused in (
        lambda: other.append(run_id, epoch, [_phase()]),
        lambda: other.claim(run_id, ""),
    ):
        with pytest.raises(Conflict, match="it has ended"):
            refused()
    assert len(other.read(run_id)) == 4


def test_an_append_is_all_or_nothing(journal: SqlJournal) -> None:
    run_id = _run(journal)
    epoch = journal.claim(run_id, "queued")
    with pytest.raises(AttributeError):
        journal.append(run_id, epoch, [_phase(), "no event"])
    assert len(journal.read(run_id)) == 2
    assert journal.verify(run_id) == 2


def test_work_done_together_is_one_transaction_in_which_each_answers_for_itself(
    journal: SqlJournal, opened: Callable[[], SqlJournal]
) -> None:
    run_id = _run(journal)
    results = journal.together(
        [
            partial(journal.claim, run_id, "queued"),
            partial(journal.append, run_id, 7, [_phase("stale")]),
            partial(journal.append, run_id, 1, [_phase("plan")]),
            partial(journal.read, "run-nowhere"),
            partial(journal.create, "t", "other", "triage", "a", {}),
        ]
    )
    assert results[0] == 1
    assert isinstance(results[1], StaleEpoch)
    assert [e.payload for e in results[2]] == [_phase("plan")]
    assert isinstance(results[3], NotFound)
    assert results[4][1] is True
    other = opened()
    assert [type(e.payload) for e in other.read(run_id)] == [RunStarted, RunClaimed, PhaseDone]
    assert other.verify(run_id) == 3


def test_when_the_commit_fails_nothing_of_the_group_was_done(journal: SqlJournal) -> None:
    run_id = _run(journal)

    def broken() -> None:
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        journal.together([partial(journal.claim, run_id, "queued"), broken])
    assert [type(e.payload) for e in journal.read(run_id)] == [RunStarted]
    assert journal.claim(run_id, "again") == 1


@pytest.mark.parametrize("call", ["claim", "append", "read", "verify"])
def test_an_unknown_run_is_not_found(journal: SqlJournal, call: str) -> None:
    arguments: dict[str, tuple[Any, ...]] = {"claim": ("x",), "append": (1, [ENDED])}
    with pytest.raises(NotFound, match="'run_9'"):
        getattr(journal, call)("run_9", *arguments.get(call, ()))


def test_runs_are_listed_by_tenant_status_and_agent_oldest_first(
    journal: SqlJournal, clock: FakeClock
) -> None:
    runs = []
    for key, tenant, agent in (("1", "t", "a"), ("2", "t", "b"), ("3", "u", "a")):
        runs.append(_run(journal, key, tenant, agent))
        clock.step(1)
    journal.append(runs[0], journal.claim(runs[0], "queued"), [ENDED])
    assert [r.run_id for r in journal.runs()] == runs
    assert [r.run_id for r in journal.runs(tenant="t")] == runs[:2]
    assert [r.run_id for r in journal.runs("t", "ended", "a")] == runs[:1]
    assert journal.runs("t", "open", "a") == []
    assert [r.run_id for r in journal.open_runs()] == runs[1:]


def test_what_was_written_is_there_for_the_next_process(
    journal: SqlJournal, opened: Callable[[], SqlJournal]
) -> None:
    run_id = _run(journal)
    journal.append(run_id, journal.claim(run_id, "queued"), [TurnFailed(code="c", reason="r")])
    assert opened().read(run_id) == journal.read(run_id)
    assert opened().create("t", "k", "support", "a", {}) == (run_id, False)


def test_writers_of_different_runs_do_not_disturb_each_other(journal: SqlJournal) -> None:
    runs = [_run(journal, str(i)) for i in range(4)]

    def write(run_id: str) -> int:
        epoch = journal.claim(run_id, "queued")
        for i in range(5):
            journal.append(run_id, epoch, [_phase(str(i))])
        return journal.verify(run_id)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(write, runs)) == [7, 7, 7, 7]


def test_owners_who_race_for_a_run_get_an_epoch_each(journal: SqlJournal) -> None:
    run_id = _run(journal)
    with ThreadPoolExecutor(4) as pool:
        epochs = list(pool.map(lambda _: journal.claim(run_id, "race"), range(8)))
    assert sorted(epochs) == list(range(1, 9))
    assert journal.verify(run_id) == 9


@pytest.fixture
def chained(journal: SqlJournal) -> str:
    """A run with six events."""
    run_id = _run(journal)
    epoch = journal.claim(run_id, "queued")
    journal.append(run_id, epoch, [_phase("a", n=1), _phase("b", n=2)])
    journal.append(run_id, epoch, [_phase("c", n=3), ENDED])
    assert journal.verify(run_id) == 6
    return run_id


@pytest.mark.parametrize(
    "tampering",
    [
        ["UPDATE events SET payload = replace(payload, '2', '7') WHERE seq = 4"],
        ["UPDATE events SET at = at + 1 WHERE seq = 3"],
        ["UPDATE events SET epoch = 7 WHERE seq = 3"],
        ["UPDATE events SET hash = (SELECT hash FROM events WHERE seq = 2) WHERE seq = 3"],
        ["DELETE FROM events WHERE seq = 1"],
        ["DELETE FROM events WHERE seq = 4"],
        ["DELETE FROM events WHERE seq = 6"],
        ["DELETE FROM events"],
        ["DELETE FROM events WHERE seq = 4", "UPDATE events SET seq = seq - 1 WHERE seq > 4"],
        [
            "UPDATE events SET seq = 99 WHERE seq = 3",
            "UPDATE events SET seq = 3 WHERE seq = 4",
            "UPDATE events SET seq = 4 WHERE seq = 99",
        ],
        ["INSERT INTO events SELECT run_id, 7, epoch, at, payload, hash FROM events WHERE seq = 6"],
        ["UPDATE runs SET last_seq = 5"],
    ],
    ids=[
        "payload", "time", "epoch", "hash", "first removed", "middle removed", "last removed",
        "all removed", "removed and renumbered", "reordered", "added", "head",
    ],
)  # fmt: skip
def test_the_chain_shows_what_was_changed_removed_added_or_reordered(
    journal: SqlJournal, url: str, chained: str, tampering: list[str]
) -> None:
    _do(url, *tampering)
    with pytest.raises(DataError, match=chained):
        journal.verify(chained)


def test_feedback_stands_beside_the_chain_and_the_last_one_is_last(
    journal: SqlJournal, opened: Callable[[], SqlJournal], chained: str, clock: FakeClock
) -> None:
    before = journal.read(chained)
    said = [
        Feedback("rejected", "ann", "the wrong order ü☂ 'x' %s :a"),
        Feedback("corrected", "bob", text="Your lamp\nis on its way."),
        Feedback("accepted", "ann"),
    ]
    given = []
    for feedback in said:
        clock.step(1)
        given.append(journal.judge(chained, feedback))
    assert given[-1] == Judgement(chained, 3, clock.now(), said[-1])
    assert opened().judgements(chained) == given
    assert [j.feedback for j in given] == said
    assert journal.read(chained) == before
    assert journal.verify(chained) == len(before)


def test_only_a_run_that_is_there_and_has_ended_is_judged(journal: SqlJournal) -> None:
    accepted = Feedback("accepted", "ann")
    run_id = _run(journal)
    epoch = journal.claim(run_id, "queued")
    with pytest.raises(Conflict, match="has not ended"):
        journal.judge(run_id, accepted)
    assert journal.judgements(run_id) == []
    journal.append(run_id, epoch, [ENDED])
    journal.judge(run_id, accepted)
    for call in (lambda: journal.judge("run_9", accepted), lambda: journal.judgements("run_9")):
        with pytest.raises(NotFound, match="'run_9'"):
            call()


def test_all_of_many_judges_at_once_are_heard(
    journal: SqlJournal, opened: Callable[[], SqlJournal], chained: str
) -> None:
    doors = [opened() for _ in range(4)]
    said = [Feedback("accepted", f"judge {i}") for i in range(20)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: doors[i % 4].judge(chained, said[i]), range(20)))
    heard = journal.judgements(chained)
    assert [j.seq for j in heard] == list(range(1, 21))
    assert sorted(j.feedback.by for j in heard) == sorted(f.by for f in said)


def test_a_journal_from_before_feedback_is_brought_up_to_date(
    url: str, tmp_path: Path, opened: Callable[[], SqlJournal]
) -> None:
    Database(url, "journal", MIGRATIONS[:1], tmp_path).close()
    journal = opened()
    run_id = _run(journal)
    journal.append(run_id, journal.claim(run_id, "queued"), [ENDED])
    assert journal.judge(run_id, Feedback("accepted", "ann")).seq == 1


NAP = WaitBegun(step="nap", awaited="timer", until=9.0)
REFUND = StepDecided(step="1", tool="refund", args={}, answer="allow", rule="r", reason="")
BEGUN = EffectStarted(step="1", tool="refund", key="k", args={})
PARKED = EffectParked(step="1", key="k", reason="nobody knows")
RESOLVED = EffectResolved(step="1", key="k", done=True, by="ann", note="", receipt={})


@pytest.mark.parametrize(
    ("payloads", "status"),
    [
        ([_phase()], "open"),
        ([NAP], "waiting"),
        ([NAP, SignalSent(name="x", value={}, by="ann")], "waiting"),
        ([NAP, WaitEnded(step="nap")], "open"),
        ([NAP, RunPaused(by="ann", reason="")], "paused"),
        ([NAP, RunPaused(by="ann", reason=""), RunResumed(by="ann"), NAP], "waiting"),
        ([NAP, CancelAsked(by="ann", reason="")], "open"),
        ([RunPaused(by="ann", reason=""), CancelAsked(by="ann", reason="")], "open"),
        ([REFUND, BEGUN, PARKED], "parked"),
        ([REFUND, BEGUN, PARKED, RESOLVED], "open"),
        ([TurnFailed(code="c", reason="r")], "open"),
        ([ENDED], "ended"),
    ],
)  # fmt: skip
def test_a_runs_row_says_what_its_events_add_up_to(
    journal: SqlJournal, payloads: list[Any], status: str
) -> None:
    run_id = _run(journal)
    journal.append(run_id, journal.claim(run_id, "queued"), payloads)
    assert journal.row(run_id).status == fold(run_id, journal.read(run_id)).status == status
    assert journal.row(run_id).wait_until == (9.0 if status == "waiting" else None)
    assert journal.counts() == {status: 1}
    assert [r.run_id for r in journal.open_runs()] == ([] if status == "ended" else [run_id])


def test_a_run_that_waits_still_waits_for_whoever_claims_it(journal: SqlJournal) -> None:
    run_id = _run(journal)
    journal.append(run_id, journal.claim(run_id, "queued"), [NAP])
    journal.claim(run_id, "another owner")
    row = journal.row(run_id)
    assert (row.status, row.wait_until) == ("waiting", 9.0)
    assert fold(run_id, journal.read(run_id)).status == "waiting"


def test_heads_that_another_owner_moved_are_read_again(
    journal: SqlJournal, opened: Callable[[], SqlJournal]
) -> None:
    run_id = _run(journal)
    (epoch,) = journal.together([partial(journal.claim, run_id, "queued")])
    journal.together([partial(journal.append, run_id, epoch, [_phase("one")])])
    other = opened()
    (theirs,) = other.together([partial(other.claim, run_id, "taken over")])
    other.together([partial(other.append, run_id, theirs, [_phase("two")])])
    refused, mine = journal.together(
        [
            partial(journal.append, run_id, epoch, [_phase("late")]),
            partial(journal.append, run_id, theirs, [_phase("three")]),
        ]
    )
    assert isinstance(refused, StaleEpoch)
    assert [e.payload for e in mine] == [_phase("three")]
    phases = [e.payload.phase for e in journal.read(run_id) if isinstance(e.payload, PhaseDone)]
    assert phases == ["one", "two", "three"]
    assert opened().verify(run_id) == 6


def test_owners_who_race_in_groups_write_nothing_twice_and_break_no_chain(
    opened: Callable[[], SqlJournal],
) -> None:
    doors = [opened() for _ in range(3)]
    runs = [_run(doors[0], str(i)) for i in range(5)]

    def work(journal: SqlJournal) -> int:
        written = 0
        for _ in range(8):
            epochs = journal.together([partial(journal.claim, r, "race") for r in runs])
            appended = journal.together(
                [
                    partial(journal.append, r, epoch, [_phase()])
                    for r, epoch in zip(runs, epochs, strict=True)
                ]
            )
            written += sum(isinstance(a, list) for a in appended)
        return written

    with ThreadPoolExecutor(3) as pool:
        written = sum(pool.map(work, doors))
    phases = [
        e for r in runs for e in doors[0].read(r) if isinstance(e.payload, PhaseDone)
    ]  # fmt: skip
    assert len(phases) == written > 0
    assert [doors[0].row(r).epoch for r in runs] == [24] * 5
    assert all(doors[0].verify(r) for r in runs)


def test_an_event_that_is_too_large_is_refused_and_nothing_of_it_is_kept(
    journal: SqlJournal,
) -> None:
    run_id = _run(journal)
    epoch = journal.claim(run_id, "queued")
    with pytest.raises(InvalidInput, match=r"result of load is .* at most 1000000"):
        journal.append(run_id, epoch, [_phase("small"), _phase("load", text="x" * 10_000_000)])
    assert len(journal.read(run_id)) == 2


def test_events_are_read_from_any_number_on_a_few_at_a_time(journal: SqlJournal) -> None:
    run_id = _run(journal)
    journal.append(run_id, journal.claim(run_id, "queued"), [_phase(str(i)) for i in range(4)])
    assert [e.seq for e in journal.read(run_id, after=2)] == [3, 4, 5, 6]
    assert [e.seq for e in journal.read(run_id, after=2, limit=2)] == [3, 4]
    assert journal.read(run_id, after=6) == []


def test_a_fork_begins_with_the_history_that_it_is_given(journal: SqlJournal) -> None:
    done = EffectDone(step="1", key="k", receipt={"kind": "refund"})
    options = RunOptions(forked_from="run_0", forked_at=4, priority="background", deadline_at=7.0)
    run_id, new = journal.create("t", "f", "w", "a", {}, options, [_phase("seen"), REFUND, done])
    assert new
    state = fold(run_id, journal.read(run_id))
    assert (state.seq, state.epoch, state.options) == (4, 0, options)
    row = journal.row(run_id)
    assert (row.priority, row.deadline_at, row.status) == ("background", 7.0, "open")
    assert journal.verify(run_id) == 4


@pytest.mark.parametrize("version", [1, 2])
def test_a_state_written_by_an_earlier_version_is_read_by_this_one(
    url: str, tmp_path: Path, opened: Callable[[], SqlJournal], version: int
) -> None:
    Database(url, "journal", MIGRATIONS[:version], tmp_path).close()
    started = '{"kind":"run_started","workflow":"w","agent":"a","input":{"tenant":"t"}}'
    _do(
        url,
        "INSERT INTO runs VALUES ('run_old', 't', 'k', 'w', 'a', 'open', 0, 0, '0', 1.0)",
        f"INSERT INTO events VALUES ('run_old', 1, 0, 1.0, '{started.replace(':', chr(92) + ':')}',"
        " 'h')",
        "UPDATE runs SET last_seq = 1, last_hash = 'h'",
    )
    journal = opened()
    row = journal.row("run_old")
    assert (row.status, row.priority, row.parent, row.deadline_at) == (
        "open", "interactive", "", None,
    )  # fmt: skip
    state = fold("run_old", journal.read("run_old"))
    assert (state.workflow, state.options) == ("w", RunOptions())
    journal.append("run_old", journal.claim("run_old", "found"), [NAP, ENDED])
    assert journal.row("run_old").status == "ended"


@pytest.fixture
def registry(journal: SqlJournal, clock: FakeClock) -> Registry:
    return Registry(journal, clock)


def test_agents_are_kept_and_only_the_same_one_may_be_registered_again(
    registry: Registry, opened: Callable[[], SqlJournal], clock: FakeClock
) -> None:
    spec = AgentSpec(id="ann", workflow="w", instructions="ü 'x' :a")
    first = registry.define("t", spec)
    clock.step(1)
    assert registry.define("t", spec) == first == Registry(opened(), clock).agent("t", "ann")
    with pytest.raises(Conflict):
        registry.define("t", spec.model_copy(update={"model": "other"}))
    assert registry.define("u", spec).created_at > first.created_at
    registry.stop("t", "ann")
    assert (registry.agent("t", "ann").status, registry.agent("u", "ann").status) == (
        "stopped", "active",
    )  # fmt: skip
    for call in (registry.agent, registry.stop):
        with pytest.raises(NotFound):
            call("t", "bob")


def test_a_snapshot_of_another_version_is_left_alone(registry: Registry, url: str) -> None:
    state = AgentState("ann", (Turn("r1", 1.0, "i", "replied", "", 5, "hello", "hi"),))
    registry.keep_snapshot("t", AgentState("ann"))
    registry.keep_snapshot("t", state)
    assert registry.snapshot("t", "ann") == state
    assert registry.snapshot("u", "ann") is None
    _do(url, "UPDATE snapshots SET version = 99, state = 'of another shape'")
    assert registry.snapshot("t", "ann") is None


def test_schedules_are_kept_changed_and_removed(registry: Registry) -> None:
    spec = ScheduleSpec(name="nightly", cron="0 3 * * *", workflow="w", agent="a")
    registry.schedule(ScheduleRow("t", spec, 5.0))
    registry.schedule(ScheduleRow("t", spec, 7.0))
    assert registry.schedules() == [ScheduleRow("t", spec, 7.0)]
    registry.unschedule("t", "nightly")
    assert registry.schedules() == []
    with pytest.raises(NotFound):
        registry.unschedule("t", "nightly")
