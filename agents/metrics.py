"""What the orchestrators count, in Prometheus' terms. One instance a process."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agents.events import Priority, RunEnded
from agents.outcomes import outcome
from agents.state import RunState, Status

METRICS_S: Final = 2.0
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_RUN_SECONDS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 3_600, 86_400)


class Metrics:
    """Turns and their waits, steps, recoveries, parked effects, of the orchestrator `name`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.registry = own = CollectorRegistry()
        self._queued = Gauge(
            "mainspring_turns_waiting", "Turns that wait for a slot",
            ["orchestrator", "priority"], registry=own,
        )  # fmt: skip
        self._waits = Histogram(
            "mainspring_turn_wait_seconds", "From wanting a turn to its begin",
            ["orchestrator", "priority"], buckets=_SECONDS, registry=own,
        )  # fmt: skip
        self._turns = Histogram(
            "mainspring_turn_seconds", "Length of a turn", ["orchestrator", "priority", "outcome"],
            buckets=_SECONDS, registry=own,
        )  # fmt: skip
        self._steps = Histogram(
            "mainspring_step_seconds", "From asking for a step to its receipt or refusal",
            ["orchestrator", "tool", "outcome"], buckets=_SECONDS, registry=own,
        )  # fmt: skip
        self._taken_up = Counter(
            "mainspring_runs_taken_up", "Turns begun on a run that had one before",
            ["orchestrator"], registry=own,
        )  # fmt: skip
        self._parked = Counter(
            "mainspring_effects_parked", "Effects that only a person can resolve",
            ["orchestrator"], registry=own,
        )  # fmt: skip
        self._summaries = Counter(
            "mainspring_summaries", "Looks at a conversation that may be summed up, by outcome",
            ["orchestrator", "outcome"], registry=own,
        )  # fmt: skip
        self._tokens_saved = Counter(
            "mainspring_summary_tokens_saved", "Tokens that summaries spare, each counted once",
            ["orchestrator"], registry=own,
        )  # fmt: skip
        of = ["tenant", "workflow"]
        self._outcomes = Counter(
            "mainspring_run_outcomes", "Ended runs, by what came of them", [*of, "outcome"],
            registry=own,
        )  # fmt: skip
        self._run_seconds = Histogram(
            "mainspring_run_seconds", "From a run's begin to its end", of, buckets=_RUN_SECONDS,
            registry=own,
        )  # fmt: skip
        self._answers = Counter(
            "mainspring_run_answers", "What people answered about the steps of ended runs",
            [*of, "answer"], registry=own,
        )  # fmt: skip
        self._broken = Counter(
            "mainspring_run_broken_turns", "Turns of ended runs that broke", of, registry=own
        )
        self._recoveries = Histogram(
            "mainspring_run_recovery_seconds", "From a broken turn until the run got on again", of,
            buckets=_RUN_SECONDS, registry=own,
        )  # fmt: skip
        self._recalls = Counter(
            "mainspring_run_recalls", "Recalls of ended runs, by whether they found something",
            [*of, "found"], registry=own,
        )  # fmt: skip
        self._ratings = Counter(
            "mainspring_ticket_ratings", "What customers thought of answers, 1 to 5",
            [*of, "score"], registry=own,
        )  # fmt: skip
        self._tokens = Counter(
            "mainspring_run_tokens", "Tokens that ended runs say they used", of, registry=own
        )
        self._usd = Counter(
            "mainspring_run_usd", "What ended runs say that models cost", of, registry=own
        )
        # Seen from the beginning, as a counter without labels is.
        self._taken_up.labels(name)
        self._parked.labels(name)
        self._tokens_saved.labels(name)

    def waited(self, priority: Priority, seconds: float) -> None:
        self._waits.labels(self._name, priority).observe(seconds)

    def turn(self, priority: Priority, broken: bool, seconds: float) -> None:
        outcome = "broken" if broken else "whole"
        self._turns.labels(self._name, priority, outcome).observe(seconds)

    def step(self, tool: str, outcome: str, seconds: float) -> None:
        self._steps.labels(self._name, tool, outcome).observe(seconds)

    def taken_up(self) -> None:
        self._taken_up.labels(self._name).inc()

    def parked(self) -> None:
        self._parked.labels(self._name).inc()

    def ended(self, state: RunState) -> None:
        """Count a run that has just ended."""
        came = outcome(state)
        if came is None:
            return
        of = (came.tenant, came.workflow)
        if came.score is not None:
            self._ratings.labels(*of, str(came.score)).inc()
            return
        self._outcomes.labels(*of, came.ended).inc()
        self._run_seconds.labels(*of).observe(came.seconds)
        for answer in came.answers:
            self._answers.labels(*of, answer).inc()
        self._broken.labels(*of).inc(came.broken_turns)
        for seconds in came.recoveries:
            self._recoveries.labels(*of).observe(seconds)
        if came.recalled is not None:
            self._recalls.labels(*of, "yes" if came.recalled else "no").inc()
        self._tokens.labels(*of).inc(came.tokens)
        self._usd.labels(*of).inc(came.usd)

    def told(self, payloads: Sequence[Any]) -> None:
        """Count what has been journaled: summaries, as their runs' results say it."""
        for ended in payloads:
            if isinstance(ended, RunEnded) and "tokens_saved" in ended.result:
                self._summaries.labels(self._name, ended.decision).inc()
                self._tokens_saved.labels(self._name).inc(int(ended.result["tokens_saved"]))

    def collect(self, queued: Mapping[Priority, int]) -> list[Metric]:
        """All of them, with how many turns wait now."""
        for priority, count in queued.items():
            self._queued.labels(self._name, priority).set(count)
        return list(self.registry.collect())


def as_text(told: Sequence[Sequence[Metric]], runs: Mapping[str, int], approvals: int) -> bytes:
    """What several orchestrators counted, how many runs stand in each status, and how many
    questions wait for a person, in Prometheus' text format."""
    in_all = GaugeMetricFamily("mainspring_runs", "Runs in the journal", labels=["status"])
    for status in get_args(Status):
        in_all.add_metric([status], runs.get(status, 0))
    asked = GaugeMetricFamily("mainspring_approvals_waiting", "Questions that wait for a person")
    asked.add_metric([], approvals)
    families: dict[str, Metric] = {}
    for metric in (m for metrics in told for m in metrics):
        families.setdefault(
            metric.name, Metric(metric.name, metric.documentation, metric.type)
        ).samples.extend(metric.samples)
    registry = CollectorRegistry()
    registry.register(_Collected([in_all, asked, *families.values()]))
    return generate_latest(registry)


class _Collected(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics
