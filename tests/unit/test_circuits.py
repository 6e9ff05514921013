"""When a replica is left alone, and when it is tried again."""

import pytest

from serve.circuits import FAILURES, FIRST_S, MOST_S, Circuits
from tests.fakes import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def circuits(clock: FakeClock) -> Circuits:
    return Circuits(clock)


def opened(circuits: Circuits, replica: str = "r") -> None:
    for _ in range(FAILURES):
        circuits.failed(replica)


def test_failures_in_a_row_open_it_for_that_replica_alone(circuits: Circuits) -> None:
    told = [circuits.failed("r") for _ in range(FAILURES)]
    assert told == [False] * (FAILURES - 1) + [True]
    assert (circuits.may("r"), circuits.may("other")) == (False, True)


def test_an_answer_in_between_starts_the_count_anew(circuits: Circuits) -> None:
    for _ in range(5 * FAILURES):
        circuits.failed("r")
        circuits.succeeded("r")
    assert circuits.may("r")


def test_one_request_tries_and_its_answer_lets_all_in(circuits: Circuits, clock: FakeClock) -> None:
    opened(circuits)
    clock.step(FIRST_S)
    assert circuits.may("r")
    circuits.begin("r")
    assert not circuits.may("r"), "one tries, the others wait for what becomes of it"
    circuits.answering("r")
    assert circuits.may("r")
    circuits.begin("r")
    assert not circuits.failed("elsewhere") and circuits.failed("r"), "it has yet to end one well"
    clock.step(FIRST_S)
    assert not circuits.may("r"), "twice as long as before"


def test_a_trial_that_its_client_left_leaves_the_next_one_free(
    circuits: Circuits, clock: FakeClock
) -> None:
    opened(circuits)
    clock.step(FIRST_S)
    circuits.begin("r")
    circuits.undecided("r")
    assert circuits.may("r")


def test_it_stays_open_longer_each_time_up_to_a_bound(circuits: Circuits, clock: FakeClock) -> None:
    opened(circuits)
    waits = []
    for _ in range(8):
        began = clock.now()
        while not circuits.may("r"):
            clock.step(0.5)
        waits.append(clock.now() - began)
        circuits.begin("r")
        circuits.failed("r")
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, MOST_S, MOST_S, MOST_S]


def test_late_failures_of_requests_sent_before_do_not_prolong_it(
    circuits: Circuits, clock: FakeClock
) -> None:
    opened(circuits)
    assert [circuits.failed("r") for _ in range(10)] == [False] * 10
    clock.step(FIRST_S)
    assert circuits.may("r")
