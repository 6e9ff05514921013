"""What the orchestrator counts, in Prometheus' terms. One instance a process."""

from collections.abc import Mapping
from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from agents.events import Priority
from agents.state import Status

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Runs by status, turns and their waits, steps, recoveries, parked effects."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self._runs = Gauge("mainspring_runs", "Runs in the journal", ["status"], registry=own)
        self._queued = Gauge(
            "mainspring_turns_waiting", "Turns that wait for a slot", ["priority"], registry=own
        )
        self._waits = Histogram(
            "mainspring_turn_wait_seconds", "From wanting a turn to its begin", ["priority"],
            buckets=_SECONDS, registry=own,
        )  # fmt: skip
        self._turns = Histogram(
            "mainspring_turn_seconds", "Length of a turn", ["priority", "outcome"],
            buckets=_SECONDS, registry=own,
        )  # fmt: skip
        self._steps = Histogram(
            "mainspring_step_seconds", "From asking for a step to its receipt or refusal",
            ["tool", "outcome"], buckets=_SECONDS, registry=own,
        )  # fmt: skip
        self._taken_up = Counter(
            "mainspring_runs_taken_up", "Turns begun on a run that had one before", registry=own
        )
        self._parked = Counter(
            "mainspring_effects_parked", "Effects that only a person can resolve", registry=own
        )

    def waited(self, priority: Priority, seconds: float) -> None:
        self._waits.labels(priority).observe(seconds)

    def turn(self, priority: Priority, broken: bool, seconds: float) -> None:
        self._turns.labels(priority, "broken" if broken else "whole").observe(seconds)

    def step(self, tool: str, outcome: str, seconds: float) -> None:
        self._steps.labels(tool, outcome).observe(seconds)

    def taken_up(self) -> None:
        self._taken_up.inc()

    def parked(self) -> None:
        self._parked.inc()

    def text(self, runs: Mapping[str, int], queued: Mapping[Priority, int]) -> bytes:
        """The metrics in Prometheus' text format, with how many runs stand in each status now."""
        for status in get_args(Status):
            self._runs.labels(status).set(runs.get(status, 0))
        for priority, count in queued.items():
            self._queued.labels(priority).set(count)
        return generate_latest(self.registry)
