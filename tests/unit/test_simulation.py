"""The model of the stack: what can be reckoned by hand, and that it places as the router does."""

import importlib
from dataclasses import replace

import pytest

from benchmarks import simulation
from benchmarks.simulate import ceilings, forecast
from benchmarks.simulation import Batching, Request, Times, closed_loop, fitted, world
from cluster.autoscale import Bounds, Limits
from cluster.ids import SystemClock
from cluster.settings import ModelSection
from serve.catalog import Catalog
from serve.directory import Replica
from serve.metering import Meter
from serve.router import Router

ENGINE = Times(step_s=0.01, seq_s=0.001, prompt_steps=4.0, seats=8)


def test_one_client_waits_for_its_own_steps_only() -> None:
    ended = closed_loop(ENGINE, 1, 3, 10)
    assert [r.first - r.came for r in ended] == pytest.approx([5 * 0.011] * 3)
    assert [r.ended - r.came for r in ended] == pytest.approx([14 * 0.011] * 3)


@pytest.mark.parametrize("clients", [8, 24])
def test_a_full_engine_gives_what_its_seats_allow(clients: int) -> None:
    ended = closed_loop(ENGINE, clients, 960, 10)
    rate = len(ended) / max(r.ended for r in ended)
    assert rate == pytest.approx(ENGINE.per_second(10), rel=0.05)


def test_what_waits_for_a_seat_waits_longer_for_its_first_token() -> None:
    def first(clients: int) -> float:
        ended = closed_loop(ENGINE, clients, 400, 10)
        return sum(r.first - r.came for r in ended) / len(ended)

    assert first(16) > 2 * first(8) > 2 * first(1)


def test_an_engine_is_found_again_from_two_levels() -> None:
    def level(clients: int) -> tuple[int, float, float]:
        ended = closed_loop(ENGINE, clients, 80 * clients, 10)
        firsts = sum(r.first - r.came for r in ended) / len(ended)
        return clients, firsts, sum(r.ended - r.came for r in ended) / len(ended)

    found = fitted(level(1), level(8), 10, 8)
    assert (found.step_s, found.seq_s) == pytest.approx((ENGINE.step_s, ENGINE.seq_s), rel=0.05)
    assert found.prompt_steps == pytest.approx(ENGINE.prompt_steps, rel=0.05)


def test_a_forecast_says_how_far_it_was_off() -> None:
    rows: list[dict[str, float]] = []
    for clients in (1, 4, 32):
        ended = closed_loop(replace(ENGINE, seats=32), clients, 32 * clients, 64)
        first, whole = (
            sum(getattr(r, name) - r.came for r in ended) / len(ended)
            for name in ("first", "ended")
        )
        rate = len(ended) / max(r.ended for r in ended)
        rows.append({"clients": clients, "first_s": first, "whole_s": whole, "per_s": rate})
    off = {f["what"]: f["error"] for f in forecast(rows)}
    assert off == pytest.approx({"requests/s": 0.0, "answer, s": 0.0}, abs=0.05)
    rows[1]["per_s"] *= 2
    assert {f["what"]: f["error"] for f in forecast(rows)}["requests/s"] == pytest.approx(
        -0.5, abs=0.05
    )


async def test_requests_are_placed_as_the_router_places_them() -> None:
    loads = [0, 3, 1, 9, 2, 0]
    model = world(replace(ENGINE, seats=16), len(loads), 1)
    for one, load in zip(model.engines, loads, strict=True):
        for _ in range(load):
            one.take(Request(0.0, 5))
    chosen = {model.engines.index(model.chosen()) for _ in range(500)}

    section = ModelSection(
        id="m", source="x", tier="routine", usd_per_mtok_in=0, usd_per_mtok_out=0, max_num_seqs=16
    )
    replicas = [Replica(f"r{n}", "m", "http://x", running=load) for n, load in enumerate(loads)]
    catalog = Catalog((section,))
    router = Router(catalog, lambda: replicas, Meter(catalog), SystemClock(), "s")
    ranked = {
        replicas.index(router._ranked(section, replicas, str(n))[0]) for n in range(500)
    }  # fmt: skip
    await router.close()
    assert chosen == ranked == {0, 2, 4, 5}


def test_a_trace_from_zero_is_answered_whole_and_paid_for_by_the_second() -> None:
    times = replace(ENGINE, cold_s=20.0)
    one = times.per_second(20)
    rates = [(0.0, 0.5), (120.0, 3 * one), (300.0, 0.0), (700.0, 0.0)]
    model = world(times, 0, 1)
    bounds = Bounds(0, 6, 8, usd_per_hour=3.6, calm_s=30, idle_s=60)
    moments = simulation.scaled(model, rates, 20, bounds, Limits())
    assert not model.waiting and not any(e.load for e in model.engines)
    assert (moments[0].target, moments[-1].target, max(m.target for m in moments)) == (0, 0, 6)
    assert moments[-1].usd < 6 * 3.6 * 700 / 3600
    assert len(model.ended) > 500


def test_ceilings_are_what_the_costs_allow() -> None:
    costs = {"gateway_s": 0.002, "token_s": 1 / 256e3, "routing_s": 0.000002, "database_s": 0.001}
    alone, among_many = "gateway process, 1 replica", "gateway process, 2,000 replicas"
    assert ceilings(costs) == pytest.approx({alone: 250, among_many: 125, "database": 1000})


def test_an_engine_without_requests_has_no_timer() -> None:
    model = world(ENGINE, 1, 1)
    assert isinstance(model.engines[0], Batching)
    model.env.run()
    assert (model.env.now, model.ended) == (0, [])


@pytest.mark.parametrize("name", ["autoscale", "simulate"])
def test_the_benchmarks_explain_themselves(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(f"benchmarks.{name}").main()
    assert "usage" in capsys.readouterr().out
