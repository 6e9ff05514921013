"""Usage and cost read out of answers and passing streams."""

import json

from hypothesis import given
from hypothesis import strategies as st

from cluster.settings import ModelSection
from serve.catalog import Catalog
from serve.metering import Meter, StreamMeter, Usage, usage_in

MODEL = ModelSection(
    id="small", source="x", tier="routine", usd_per_mtok_in=1.0, usd_per_mtok_out=3.0
)


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


TOKEN = event({"choices": [{"delta": {"content": 'he said "usage": {"x"'}}]})
USAGE = event({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 4}})
DONE = b"data: [DONE]\n\n"


def test_usage_event_is_dropped_when_not_asked_for() -> None:
    meter = StreamMeter(MODEL, wants_usage=False)
    assert meter.feed(TOKEN + USAGE + DONE) == TOKEN + DONE
    assert meter.usage == Usage(10, 4)


def test_usage_event_gets_the_cost_when_asked_for() -> None:
    meter = StreamMeter(MODEL, wants_usage=True)
    passed = meter.feed(TOKEN + USAGE + DONE).split(b"\n\n")
    usage = json.loads(passed[1].removeprefix(b"data: "))["usage"]
    assert usage == {"prompt_tokens": 10, "completion_tokens": 4, "cost_usd": 0.000022}


def test_tokens_pass_as_the_very_bytes() -> None:
    meter = StreamMeter(MODEL, wants_usage=False)
    assert meter.feed(TOKEN) is TOKEN


@given(st.lists(st.integers(1, 400), max_size=12), st.booleans())
def test_cutting_the_stream_anywhere_changes_nothing(cuts: list[int], wants: bool) -> None:
    whole = TOKEN * 3 + USAGE + DONE
    at_once = StreamMeter(MODEL, wants)
    expected = at_once.feed(whole) + at_once.finish()
    pieces, start = StreamMeter(MODEL, wants), 0
    got = b""
    for end in [*sorted({min(c, len(whole)) for c in cuts}), len(whole)]:
        got += pieces.feed(whole[start:end])
        start = end
    assert got + pieces.finish() == expected
    assert pieces.usage == Usage(10, 4)


def test_broken_stream_is_estimated_by_its_events() -> None:
    meter = StreamMeter(MODEL, wants_usage=False)
    meter.feed(TOKEN * 5)
    assert meter.usage == Usage(0, 4, estimated=True)


def test_usage_of_a_whole_answer() -> None:
    assert usage_in(b'{"usage":{"prompt_tokens":3,"completion_tokens":2}}') == Usage(3, 2)
    assert usage_in(b"not json") == Usage()
    assert usage_in(b'{"usage":null}') == Usage()


def test_meter_books_tokens_cost_status_and_the_time_between_tokens() -> None:
    meter = Meter(Catalog((MODEL,)))
    meter.done("small", 200, Usage(1_000_000, 1_000_000), 0.2, 0.004)
    text = meter.text().decode()
    assert 'mainspring_requests_total{model="small",status="200"} 1.0' in text
    assert 'mainspring_tokens_total{direction="out",model="small"} 1e+06' in text
    assert 'mainspring_cost_usd_total{model="small"} 4.0' in text
    assert 'mainspring_inter_token_seconds_sum{model="small"} 0.004' in text
