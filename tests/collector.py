"""A collector of traces on loopback, for tests: takes OTLP over HTTP and keeps the spans."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from cluster import tracing


@dataclass
class Kept:
    """A span as it came; ids are hexadecimal."""

    name: str
    trace: str
    id: str
    parent: str
    failed: bool
    attributes: dict[str, Any]


@dataclass
class Collector:
    url: str = ""
    services: set[str] = field(default_factory=set)
    _spans: list[Kept] = field(default_factory=list)

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            named = _plain(resource.resource.attributes)
            self.services.add(named["service.name"])
            for scope in resource.scope_spans:
                self._spans += [
                    Kept(
                        s.name, s.trace_id.hex(), s.span_id.hex(), s.parent_span_id.hex(),
                        s.status.code == 2, _plain(s.attributes),
                    )
                    for s in scope.spans
                ]  # fmt: skip

    def spans(self) -> dict[str, Kept]:
        """All that have ended, by name."""
        assert tracing.flush()
        return {span.name: span for span in self._spans}


def _plain(attributes: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


@contextmanager
def collecting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that this process' traces go to for the length of the block."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path == "/v1/traces":
                collector.take(ExportTraceServiceRequest.FromString(body))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    collector.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv(tracing.ENDPOINT, collector.url)
    tracing.restart()
    try:
        yield collector
    finally:
        monkeypatch.delenv(tracing.ENDPOINT)
        tracing.restart()
        server.shutdown()
        thread.join()
        server.server_close()
