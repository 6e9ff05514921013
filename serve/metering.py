"""What a request used, what it cost, how long it took; and the usage inside a passing stream."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from cluster.settings import ModelSection
from serve.catalog import Catalog, cost_usd
from serve.problems import Problem
from serve.routing import Load

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_LOADS = {
    "replicas": "Engine replicas that may be asked",
    "running": "Requests that the engines generate for, as they tell",
    "waiting": "Requests that wait in the engines, as they tell",
    "kv_usage": "Share of KV cache in use at the fullest engine",
    "ttft_s": "Time to the first byte of late, seconds",
    "service_s": "Time to the last byte of late, seconds",
}
_EVENT_END = b"\n\n"
_DATA = b"data: "


@dataclass(frozen=True)
class Usage:
    """Tokens as the engine counted them; `estimated` when a stream broke off before its count."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    cached_tokens: int = 0


def usage_of(answer: Mapping[str, Any]) -> Usage:
    """The usage of a complete answer; zeros when it holds none."""
    usage = answer.get("usage")
    if not isinstance(usage, Mapping):
        return Usage()
    # Responses name the same things otherwise.
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else 0
    return Usage(
        int(usage.get("prompt_tokens") or usage.get("input_tokens") or 0),
        int(usage.get("completion_tokens") or usage.get("output_tokens") or 0),
        cached_tokens=int(cached or 0),
    )


def usage_in(body: bytes) -> Usage:
    """The usage of a complete answer as it came over the wire; zeros when it holds none."""
    try:
        answer = json.loads(body)
    except ValueError:
        return Usage()
    return usage_of(answer) if isinstance(answer, dict) else Usage()


def usd_text(cost: float) -> str:
    """USD without an exponent, to a billionth."""
    return f"{cost:.9f}"


class Metering(Protocol):
    """Passes a stream on and learns from it what it used."""

    @property
    def usage(self) -> Usage:
        """What the engine told, or an estimate when the stream broke off before that."""
        ...

    @property
    def counted(self) -> bool:
        """Whether the engine has told the usage of the whole: only the stream's end is to come."""
        ...

    def feed(self, data: bytes) -> bytes:
        """The next bytes from the engine; returns those to send on, whole events only."""
        ...

    def finish(self) -> bytes:
        """What is left when the engine closed the stream."""
        ...

    def broken(self, problem: Problem) -> bytes:
        """What a client is sent last, in place of the rest."""
        ...


class StreamMeter:
    """Passes a server-sent stream on and reads the usage out of it.

    The engine always sends a last event with the usage; it is dropped unless the client asked for
    it, and completed with `cost_usd` when so. Events without usage pass as the bytes they came in.
    """

    def __init__(self, model: ModelSection, wants_usage: bool) -> None:
        self._model = model
        self._wants_usage = wants_usage
        self._rest = b""
        self._events = 0
        self._usage: Usage | None = None
        self._counted = False

    @property
    def counted(self) -> bool:
        """Whether the engine has told the usage of the whole: only the stream's end is to come."""
        return self._counted

    @property
    def usage(self) -> Usage:
        """Counted by the engine, or, when the stream broke off, the events seen as an estimate; its
        prompt is not known here."""
        return self._usage or Usage(0, max(0, self._events - 1), estimated=True)

    def feed(self, data: bytes) -> bytes:
        """The next bytes from the engine; returns those to send on, whole events only."""
        data = self._rest + data if self._rest else data
        end = data.rfind(_EVENT_END)
        if end < 0:
            self._rest = data
            return b""
        whole, self._rest = data[: end + 2], data[end + 2 :]
        self._events += whole.count(_DATA)
        if b'"usage":' not in whole:
            return whole
        return b"".join(self._event(e + _EVENT_END) for e in whole.split(_EVENT_END)[:-1])

    def finish(self) -> bytes:
        """What is left when the engine closed the stream."""
        rest, self._rest = self._rest, b""
        return rest

    def broken(self, problem: Problem) -> bytes:
        """An error event; whoever reads it sees no `[DONE]`."""
        return problem.event()

    def _event(self, event: bytes) -> bytes:
        if b'"usage":' not in event or not event.startswith(_DATA):
            return event
        try:
            chunk = json.loads(event[len(_DATA) :])
        except ValueError:
            return event
        if not isinstance(chunk, dict) or not isinstance(chunk.get("usage"), dict):
            return event
        used = usage_of(chunk)
        self._usage = used
        if chunk.get("choices"):
            return event
        self._counted = True
        if not self._wants_usage:
            return b""
        cost = cost_usd(self._model, used.prompt_tokens, used.completion_tokens)
        chunk["usage"]["cost_usd"] = float(usd_text(cost))
        return _DATA + json.dumps(chunk, ensure_ascii=False).encode() + _EVENT_END


class Meter:
    """The gateway's Prometheus metrics; one instance a process."""

    def __init__(self, catalog: Catalog) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self._catalog = catalog
        self._requests = Counter(
            "mainspring_requests", "Requests answered", ["model", "status"], registry=own
        )
        self._first = Histogram(
            "mainspring_time_to_first_byte_seconds",
            "From the request's arrival to the first byte of the answer",
            ["model"], buckets=_SECONDS, registry=own,
        )  # fmt: skip
        self._engine_first = Histogram(
            "mainspring_engine_time_to_first_byte_seconds",
            "From sending to the engine to the first byte of its answer",
            ["model"], buckets=_SECONDS, registry=own,
        )  # fmt: skip
        self._between = Histogram(
            "mainspring_inter_token_seconds",
            "Mean time between two tokens of one streamed answer",
            ["model"], buckets=_BETWEEN, registry=own,
        )  # fmt: skip
        self._engine = Histogram(
            "mainspring_engine_seconds", "From sending to the engine to its last byte",
            ["model"], buckets=_SECONDS, registry=own,
        )  # fmt: skip
        self._gateway = Histogram(
            "mainspring_gateway_seconds", "From the request's arrival to sending it to the engine",
            ["model"], buckets=_SECONDS, registry=own,
        )  # fmt: skip
        self._tokens = Counter("mainspring_tokens", "Tokens", ["model", "direction"], registry=own)
        self._cost = Counter(
            "mainspring_cost_usd", "Cost at list prices, USD", ["model"], registry=own
        )
        self._in_work = Gauge("mainspring_in_work", "Requests in work", ["model"], registry=own)
        self._opened = Counter(
            "mainspring_circuits_opened", "Engine replicas left alone after failures", ["model"],
            registry=own,
        )  # fmt: skip
        self._loads = {
            Gauge(f"mainspring_engine_{name}", text, ["model"], registry=own): name
            for name, text in _LOADS.items()
        }
        self._detours = Counter(
            "mainspring_fallbacks", "Requests passed to the next model", ["model"], registry=own
        )

    def shows(self, model: str, load: Callable[[], Load]) -> None:
        """Have the model's load read whenever the metrics are."""
        for gauge, name in self._loads.items():
            gauge.labels(model).set_function(partial(_value, load, name))

    def opened(self, model: str) -> None:
        """A replica failed so often that it is left alone for a while."""
        self._opened.labels(model).inc()

    def refused(self, model: str, status: int) -> None:
        """A request that no engine answered, or that an engine refused."""
        self._requests.labels(model, str(status)).inc()

    def fell_back(self, model: str) -> None:
        self._detours.labels(model).inc()

    def in_work(self, model: str, count: int) -> None:
        self._in_work.labels(model).set(count)

    def sent(self, model: str, seconds: float) -> None:
        self._gateway.labels(model).observe(seconds)

    def first_byte(self, model: str, seconds: float, engine_seconds: float) -> None:
        """The first byte of an answer, counted from its request's arrival and from its sending."""
        self._first.labels(model).observe(seconds)
        self._engine_first.labels(model).observe(engine_seconds)

    def done(
        self, model: str, status: int, usage: Usage, engine_seconds: float, inter_token_s: float
    ) -> None:
        """A finished answer. `inter_token_s` is the mean time between two of its tokens, zero when
        they came as one."""
        cost = cost_usd(self._catalog.model(model), usage.prompt_tokens, usage.completion_tokens)
        self._requests.labels(model, str(status)).inc()
        self._engine.labels(model).observe(engine_seconds)
        self._tokens.labels(model, "in").inc(usage.prompt_tokens)
        self._tokens.labels(model, "out").inc(usage.completion_tokens)
        self._cost.labels(model).inc(cost)
        if inter_token_s:
            self._between.labels(model).observe(inter_token_s)

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def _value(load: Callable[[], Load], name: str) -> float:
    return float(getattr(load(), name))
