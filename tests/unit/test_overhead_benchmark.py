"""The overhead benchmark: its closed loop against a server that speaks vLLM's HTTP, its figures."""

import json

import pytest

from benchmarks import overhead
from benchmarks.overhead_load import Round, Target, closed_loop, pooled
from tests.gateways import FakeEngine, refusing, running


async def test_every_request_of_a_closed_loop_is_timed_and_so_many_run_at_once() -> None:
    async with running(FakeEngine("small")) as engine:
        done = await closed_loop(Target(f"{engine.url}/v1", "small"), concurrency=4, count=10)
    assert (len(done.first_s), len(done.whole_s), done.failed) == (10, 10, 0)
    assert all(0 < one <= all_ for one, all_ in zip(done.first_s, done.whole_s, strict=True))
    texts = [json.dumps(body["messages"]) for body in engine.seen]
    assert len(set(texts)) == 10, "no prompt is one that a cache knows whole"


async def test_what_is_not_answered_is_counted_and_not_timed() -> None:
    async with running(FakeEngine("small")) as engine:
        engine.behave = refusing(503)
        with pytest.raises(SystemExit, match="nothing was answered"):
            await closed_loop(Target(f"{engine.url}/v1", "small"), concurrency=2, count=4)


def rounds(first_ms: float, per_s: float) -> list[Round]:
    return [Round([first_ms / 1e3] * 10, [0.1] * 10, 10 / per_s, 0)] * 3


def test_figures_compare_with_bare_and_with_the_best_peer() -> None:
    speeds = {"bare": (20.0, 60.0), "ray": (70.0, 20.0), "ray-tuned": (30.0, 40.0)}
    pools = {
        name: {level: pooled(rounds(*speed)) for level in (1, 32)}
        for name, speed in {**speeds, "mainspring": (24.0, 57.0)}.items()
    }
    found = {f.name: f for f in overhead.figures(pools, [0.1, 0.2, 0.3])}
    added = found["added TTFT p50 over bare at 1, ms"]
    assert (round(added.value, 6), added.met) == (4.0, True)
    share = found["share of bare's requests/s at 32"]
    assert (round(share.value, 6), share.met) == (0.95, True)
    assert round(found["TTFT p50 over the best peer's at 1"].value, 6) == 0.8
    assert round(found["requests/s over the best peer's at 32"].value, 6) == 1.425
    assert round(found["auto, 24 tokens, 8 at once, p50, ms"].value) == 200


def test_without_a_peer_nothing_is_compared_with_it() -> None:
    pools = {"mainspring": {1: pooled(rounds(24.0, 57.0))}}
    assert not [f for f in overhead.figures(pools, []) if f.target is not None]


def test_help_names_the_systems(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["overhead", "--help"])
    with pytest.raises(SystemExit, match="0"):
        overhead.main()
    assert "--litellm-python" in capsys.readouterr().out
