"""Errors carry fields, cross process boundaries whole, and say what would be right."""

import pickle

import pytest

from cluster import errors
from cluster.errors import (
    ConfigError,
    Conflict,
    DataError,
    DeadlineExceeded,
    EffectUnknown,
    Hurried,
    IntentRefused,
    InvalidInput,
    MainspringError,
    NotFound,
    Overloaded,
    StaleEpoch,
    Unauthorized,
    Unavailable,
)

EXAMPLES: list[MainspringError] = [
    InvalidInput("n", 0, "1 or more"),
    ConfigError("gateway.port", 0, "1 to 65535"),
    Unauthorized(),
    IntentRefused("expired", "its time is over"),
    NotFound("order", "LO-1"),
    Conflict("run r", "it has ended"),
    StaleEpoch("run r", "epoch 1 was overtaken by 2"),
    EffectUnknown("step 2:refund of run r", "nobody can tell"),
    Overloaded("runs", "3 are open", 5.0),
    Unavailable("connector", "it is not running", retry_after=2.0),
    DeadlineExceeded("model planner", 30.0),
    Hurried("the answer", 0.2),
    DataError("run r", "event 3 was changed"),
]


def _subclasses(cls: type[MainspringError]) -> set[type[MainspringError]]:
    found = {cls}
    for sub in cls.__subclasses__():
        found |= _subclasses(sub)
    return found


def test_every_error_of_ours_is_among_the_examples() -> None:
    ours = {c for c in _subclasses(MainspringError) if c.__module__ == errors.__name__}
    bases = {c for c in ours if c.__name__.startswith("_") or c is MainspringError}
    assert ours - bases == {type(e) for e in EXAMPLES}


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: type(e).__name__)
def test_an_error_survives_pickling_with_all_its_fields(error: MainspringError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)
    assert (copy.code, copy.status) == (error.code, error.status)
    assert (copy.field, copy.retry_after_s) == (error.field, error.retry_after_s)


def test_the_codes_are_distinct_and_the_statuses_are_http_errors() -> None:
    codes = [e.code for e in EXAMPLES if "code" in vars(type(e))]
    assert len(set(codes)) == len(codes)
    assert all(400 <= e.status < 600 for e in EXAMPLES)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (InvalidInput("n", 0, "1 or more"), "n is 0; expected 1 or more"),
        (NotFound("order", "LO-1"), "there is no order 'LO-1'"),
        (StaleEpoch("run r", "overtaken"), "run r: overtaken"),
        (DeadlineExceeded("model m", 2.50), "model m took longer than 2.5 s"),
    ],
)
def test_an_error_reads_as_a_sentence(error: MainspringError, sentence: str) -> None:
    assert str(error) == sentence


def test_a_huge_value_is_shown_in_part_and_kept_whole() -> None:
    error = InvalidInput("text", "x" * 10_000, "less")
    assert len(str(error)) < 200
    assert error.value == "x" * 10_000


def test_a_stale_writer_can_be_told_from_other_conflicts() -> None:
    assert isinstance(StaleEpoch("r", "x"), Conflict)
    assert StaleEpoch.code != Conflict.code
