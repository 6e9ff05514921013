"""Traces in OpenTelemetry's form: one for each request, and one for each run.

Off, and without cost, unless OTEL_EXPORTER_OTLP_ENDPOINT names a collector, as for every program
that speaks OpenTelemetry; the SDK's other variables (OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, the
exporter's headers) hold too. Names follow the GenAI conventions. A request goes on with the trace
that its `traceparent` names, and hands it on to the engine. A run's trace follows from its id, so
that all actors write to one, also after a restart.

No text of a prompt, an answer or an argument goes into a span. Not covered: the exporter's retries
are bounded, and what a collector that is away does not take is lost.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
HEADER: Final = "traceparent"
_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")

Kind = Literal["internal", "server", "client"]


@dataclass(frozen=True)
class Span:
    """Something that takes time. `inner` is OpenTelemetry's own, None when traces are off."""

    inner: Any = None

    def set(self, **attributes: str | int | float | bool | None) -> None:
        """Say more of it. Two underscores stand for a dot; None is left out."""
        if self.inner is not None:
            self.inner.set_attributes(_named(attributes))

    def end(self, error: str = "") -> None:
        """It is over; `error` is the name of what went wrong."""
        if self.inner is None:
            return
        if error:
            from opentelemetry.trace import StatusCode

            self.inner.set_attribute("error.type", error)
            self.inner.set_status(StatusCode.ERROR)
        self.inner.end()

    @property
    def traceparent(self) -> str:
        """What the next one names as its parent; "" when traces are off."""
        return "" if self.inner is None else _header(self.inner.get_span_context())


def begin(
    name: str, kind: Kind = "internal", parent: str = "", **attributes: str | int | float | None
) -> Span:
    """A span that somebody ends. Its parent is the `traceparent` given, else what this task is in;
    one that is none begins a trace."""
    tracer = _tracer()
    if tracer is None:
        return Span()
    from opentelemetry.trace import SpanKind

    kinds = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER, "client": SpanKind.CLIENT}
    return Span(
        tracer.start_span(
            name, context=_context(parent), kind=kinds[kind], attributes=_named(attributes)
        )
    )


@contextmanager
def span(
    name: str, kind: Kind = "internal", parent: str = "", **attributes: str | int | float | None
) -> Iterator[Span]:
    """As `begin`, for the length of the block, within which it is the parent of others."""
    if _tracer() is None:
        yield Span()
        return
    made = begin(name, kind, parent, **attributes)
    try:
        with within(made):
            yield made
    except BaseException as error:
        made.end(type(error).__name__)
        raise
    made.end()


@contextmanager
def within(span: Span) -> Iterator[None]:
    """The span is the parent of what begins in the block; somebody else ends it."""
    if span.inner is None:
        yield
        return
    from opentelemetry.trace import use_span

    with use_span(span.inner, record_exception=False, set_status_on_exception=False):
        yield


def traceparent() -> str:
    """Of what this task is in; "" when that is nothing, or traces are off."""
    if _tracer() is None:
        return ""
    from opentelemetry.trace import get_current_span

    context = get_current_span().get_span_context()
    return _header(context) if context.is_valid else ""


def of_run(run_id: str) -> str:
    """The `traceparent` of a run, the same in every process."""
    digest = hashlib.sha256(run_id.encode()).hexdigest()
    return f"00-{digest[:32]}-{digest[32:48]}-01"


def trace_id() -> str:
    """Of this task's trace, for a line of the log; "-" when there is none."""
    return traceparent()[3:35] or "-"


def flush(timeout_s: float = 5.0) -> bool:
    """Have what was ended sent now; whether that was done in time."""
    if _tracer() is None:
        return True
    return bool(_provider().force_flush(int(timeout_s * 1_000)))


def restart() -> None:
    """Send what was ended, and read the variables anew at the next span."""
    if _tracer() is not None:
        _provider().shutdown()
    _tracer.cache_clear()
    _provider.cache_clear()


def _named(attributes: dict[str, Any]) -> dict[str, Any]:
    return {k.replace("__", "."): v for k, v in attributes.items() if v is not None}


def _header(context: Any) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def _context(parent: str) -> Any:
    """None for this task's own."""
    found = _TRACEPARENT.fullmatch(parent)
    if found is None:
        return None
    from opentelemetry.trace import (
        NonRecordingSpan,
        SpanContext,
        TraceFlags,
        set_span_in_context,
    )

    trace, above, flags = (int(part, 16) for part in found.groups())
    context = SpanContext(trace, above, is_remote=True, trace_flags=TraceFlags(flags))
    return set_span_in_context(NonRecordingSpan(context)) if context.is_valid else None


@cache
def _tracer() -> Any:
    return _provider().get_tracer("mainspring") if os.environ.get(ENDPOINT) else None


@cache
def _provider() -> Any:
    # Imported where they are used: a process that does not trace pays nothing for them.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "mainspring")})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
