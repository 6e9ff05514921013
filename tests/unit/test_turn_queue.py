"""Who is served next: interactive before background, tenants in turn, one turn an agent."""

from hypothesis import given
from hypothesis import strategies as st

from agents.turn_queue import Queued, TurnQueue


def turn(run: str, tenant: str = "t", agent: str = "", priority: str = "interactive") -> Queued:
    return Queued(run, tenant, agent or run, priority, 0.0)  # type: ignore[arg-type]


def served(queue: TurnQueue, most: int = 100) -> list[str]:
    """The runs that are begun now, in order."""
    found: list[str] = []
    while len(found) < most and (began := queue.next()):
        found.append(began.run_id)
    return found


def test_interactive_turns_come_before_background_ones_that_came_earlier() -> None:
    queue = TurnQueue(slots=8, background=8)
    for run in ("b1", "b2"):
        queue.add(turn(run, priority="background"))
    queue.add(turn("i1"))
    assert served(queue) == ["i1", "b1", "b2"]


def test_background_turns_never_take_the_slots_kept_for_interactive_ones() -> None:
    queue = TurnQueue(slots=4, background=2)
    for number in range(6):
        queue.add(turn(f"b{number}", priority="background"))
    assert served(queue) == ["b0", "b1"]
    queue.add(turn("i0"))
    assert served(queue) == ["i0"]
    queue.done("b0")
    assert served(queue) == ["b2"]


def test_tenants_take_turns_however_much_one_of_them_asks_for() -> None:
    queue = TurnQueue(slots=9, background=9)
    for number in range(6):
        queue.add(turn(f"loud{number}", tenant="loud"))
    for number in range(2):
        queue.add(turn(f"calm{number}", tenant="calm"))
    assert served(queue, 5) == ["loud0", "calm0", "loud1", "calm1", "loud2"]


def test_an_agent_has_one_turn_at_a_time_in_the_order_in_which_they_came() -> None:
    queue = TurnQueue(slots=9, background=9)
    for run in ("1", "2", "3"):
        queue.add(turn(run, agent="a"))
    queue.add(turn("4", agent="b"))
    assert served(queue) == ["1", "4"]
    queue.done("1")
    assert served(queue) == ["2"]
    queue.done("4")
    assert served(queue) == []
    queue.done("2")
    assert served(queue) == ["3"]


def test_a_busy_agents_background_turn_waits_even_when_it_is_all_there_is() -> None:
    queue = TurnQueue(slots=9, background=9)
    queue.add(turn("1", agent="a"))
    queue.add(turn("2", agent="a", priority="background"))
    assert served(queue) == ["1"]
    queue.done("1")
    assert served(queue) == ["2"]


def test_a_run_waits_once_however_often_it_is_added() -> None:
    queue = TurnQueue(slots=9, background=9)
    for _ in range(3):
        queue.add(turn("1"))
    assert len(queue) == 1
    assert served(queue) == ["1"]
    queue.add(turn("1"))
    assert served(queue) == []
    queue.done("1")
    assert len(queue) == 0


ADDED = st.tuples(
    st.integers(0, 30), st.sampled_from("tuv"), st.sampled_from("abc"),
    st.sampled_from(["interactive", "background"]),
)  # fmt: skip


@given(st.lists(ADDED, max_size=40), st.randoms(use_true_random=False))
def test_whatever_comes_each_turn_is_served_once_and_no_limit_is_broken(
    added: list[tuple[int, str, str, str]], random: object
) -> None:
    queue = TurnQueue(slots=3, background=2)
    wanted: dict[str, Queued] = {}
    for number, tenant, agent, priority in added:
        wanted.setdefault(f"r{number}", turn(f"r{number}", tenant, agent, priority))
        queue.add(wanted[f"r{number}"])
    working: list[Queued] = []
    order: list[str] = []
    while len(order) < len(wanted) or working:
        while began := queue.next():
            working.append(began)
            order.append(began.run_id)
        assert 0 < len(working) <= 3
        assert sum(w.priority == "background" for w in working) <= 2
        assert len({w.whose for w in working}) == len(working)
        over = working.pop(random.randrange(len(working)))  # type: ignore[attr-defined]
        queue.done(over.run_id)
    assert sorted(order) == sorted(wanted)
    assert len(queue) == 0
