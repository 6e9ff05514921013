"""What memory counts, in Prometheus' terms. One instance a process."""

from collections.abc import Mapping
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
LEAKS: Final = ("tenant", "expired")
GONE: Final = ("forgotten", "expired")


class Metrics:
    """Recalls, writes, what went, what must never be returned, and how memory stands."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self._recalls = Histogram(
            "mainspring_memory_recall_seconds", "From a question to its hits",
            ["answer"], buckets=_SECONDS, registry=own,
        )  # fmt: skip
        self._writes = Histogram(
            "mainspring_memory_write_seconds", "From new records to their acknowledgement",
            buckets=_SECONDS, registry=own,
        )  # fmt: skip
        self._remembered = Counter(
            "mainspring_memory_remembered_records", "Records that were new", registry=own
        )
        self._gone = Counter(
            "mainspring_memory_erased_records", "Records taken out", ["why"], registry=own
        )
        self._leaks = Counter(
            "mainspring_memory_leaks",
            "Hits held back that were not the asker's or had expired; must be 0",
            ["what"], registry=own,
        )  # fmt: skip
        self._standing = {
            name: Gauge(f"mainspring_memory_{name}", about, labels, registry=own)
            for name, about, labels in (
                ("records", "Records in the log", ["tier"]),
                ("unflushed_rows", "Rows on their way to the index", []),
                ("flush_lag_seconds", "How long the oldest of them has waited", []),
                ("newest_record_age_seconds", "Since something was remembered", []),
                ("space_records", "Records with a vector in the space", ["space", "state"]),
                (
                    "condition_records",
                    "At the last health check",
                    ["tenant", "what"],
                ),
                ("hit_rate", "On the frozen probes, when last measured", ["tenant", "space"]),
            )
        }
        for kind in LEAKS:
            self._leaks.labels(kind)
        for why in GONE:
            self._gone.labels(why)
        for answer in ("found", "empty"):
            self._recalls.labels(answer)
        self._asked = {"found": 0, "empty": 0}
        self.leaked = dict.fromkeys(LEAKS, 0)

    def recalled(self, hits: int, seconds: float) -> None:
        """A question was answered with so many hits."""
        answer = "found" if hits else "empty"
        self._asked[answer] += 1
        self._recalls.labels(answer).observe(seconds)

    def wrote(self, records: int, seconds: float) -> None:
        """So many new records were acknowledged."""
        self._remembered.inc(records)
        self._writes.observe(seconds)

    def erased(self, records: int, why: Literal["forgotten", "expired"]) -> None:
        """So many records were taken out."""
        self._gone.labels(why).inc(records)

    def leak(self, what: Literal["tenant", "expired"]) -> None:
        """A hit was held back at the last door."""
        self.leaked[what] += 1
        self._leaks.labels(what).inc()

    @property
    def recalls(self) -> int:
        """How many questions were answered by this process."""
        return sum(self._asked.values())

    @property
    def empty_rate(self) -> float:
        """The share of them that got nothing."""
        return round(self._asked["empty"] / self.recalls, 4) if self.recalls else 0.0

    def condition(self, tenant: str, counts: Mapping[str, float]) -> None:
        """What a health check of a tenant's memory counted."""
        for what, count in counts.items():
            self._standing["condition_records"].labels(tenant, what).set(count)

    def stands(self, name: str, values: Mapping[tuple[str, ...], float]) -> None:
        """Say how a gauge stands, by its labels' values."""
        gauge = self._standing[name]
        if () not in values:
            gauge.clear()
        for labels, value in values.items():
            (gauge.labels(*labels) if labels else gauge).set(value)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)
