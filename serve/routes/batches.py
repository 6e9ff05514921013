"""`/v1/batches`: thousands of requests in a file, in OpenAI's form."""

import re
from pathlib import Path
from typing import Any, Final, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from cluster.errors import Conflict, InvalidInput
from cluster.ids import Clock, Ids, SystemClock, SystemIds
from cluster.settings import BatchesSection
from serve.bulk.actor import Archive
from serve.bulk.files import Files
from serve.bulk.table import Batch, Batches
from serve.callers import principal_of, tenant_of
from serve.routes.files import FileRoutes
from serve.routes.listing import listing
from serve.schemas import Body, parse_body, read

MAX_WINDOW_S: Final = 7 * 86_400
MAX_METADATA: Final = 16
_WINDOW: Final = re.compile(r"([1-9][0-9]{0,4})([smhd])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def archive_routes(section: BatchesSection, data_dir: Path) -> APIRouter:
    """The routes of files and batches, to include in the gateway; `data_dir` is absolute."""
    clock, ids = SystemClock(), SystemIds()
    archive = Archive(section, data_dir, clock)
    routes = APIRouter()
    routes.include_router(FileRoutes(archive.files, clock, ids, section.max_file_bytes).routes())
    routes.include_router(BatchRoutes(archive.batches, archive.files, clock, ids).routes())
    return routes


class Asked(Body):
    """`POST /v1/batches`."""

    input_file_id: str = Field(min_length=1, max_length=256)
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
    completion_window: str = "24h"
    metadata: dict[str, str] | None = Field(None, max_length=MAX_METADATA)


class BatchRoutes:
    """The handlers. What they write down is found by whoever works on batches."""

    def __init__(self, batches: Batches, files: Files, clock: Clock, ids: Ids) -> None:
        self._batches, self._files, self._clock, self._ids = batches, files, clock, ids

    def routes(self) -> APIRouter:
        """The routes to include in the app."""
        routes = APIRouter()
        routes.add_api_route("/v1/batches", self.create, methods=["POST"])
        routes.add_api_route("/v1/batches", self.listed, methods=["GET"])
        routes.add_api_route("/v1/batches/{id}", self.one, methods=["GET"])
        routes.add_api_route("/v1/batches/{id}/cancel", self.cancel, methods=["POST"])
        return routes

    async def create(self, http: Request) -> Response:
        """POST /v1/batches"""
        asked = read(Asked, parse_body(await http.body()))
        return await run_in_threadpool(self._create, http, asked)

    def _create(self, http: Request, asked: Asked) -> Response:
        tenant, now = tenant_of(http), self._clock.now()
        seconds = window_s(asked.completion_window)
        file = self._files.one(tenant, asked.input_file_id)
        if file.purpose != "batch":
            told = f"{file.id}, uploaded for {file.purpose!r}"
            raise InvalidInput("input_file_id", told, "a file uploaded for 'batch'")
        batch = Batch(
            id=self._ids.new("batch"), tenant=tenant, account=principal_of(http).key,
            endpoint=asked.endpoint, model="", input_file=file.id, window=asked.completion_window,
            metadata=asked.metadata or {}, status="validating", errors=[], output_file="",
            error_file="", lines=0, right_lines=0, wrong_lines=0, times={}, created_at=now,
            expires_at=now + seconds,
        )  # fmt: skip
        self._batches.add(batch)
        return JSONResponse(shown(batch))

    def listed(self, http: Request, after: str = "", limit: int = 20) -> Response:
        """GET /v1/batches"""
        found = listing(limit, lambda n: self._batches.batches(tenant_of(http), after, n), shown)
        return JSONResponse(found)

    def one(self, http: Request, id: str) -> Response:
        """GET /v1/batches/{id}"""
        return JSONResponse(shown(self._batches.batch(tenant_of(http), id)))

    def cancel(self, http: Request, id: str) -> Response:
        """POST /v1/batches/{id}/cancel"""
        batch = self._batches.batch(tenant_of(http), id)
        if batch.status in {"validating", "in_progress"}:
            batch = self._batches.move(batch, "cancelling", self._clock.now())
        elif batch.status not in {"cancelling", "cancelled"}:
            raise Conflict(f"batch {id}", f"it is {batch.status}: there is nothing to cancel")
        return JSONResponse(shown(batch))


def window_s(text: str) -> int:
    """`24h` as seconds. InvalidInput for what is no such time, or too long."""
    found = _WINDOW.fullmatch(text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < seconds <= MAX_WINDOW_S:
        right = f"a time such as 90m or 24h, at most {MAX_WINDOW_S // 86_400}d"
        raise InvalidInput("completion_window", text, right)
    return seconds


def shown(batch: Batch) -> dict[str, Any]:
    """A batch as clients see it."""
    times = {
        f"{status}_at": int(batch.times[status]) if status in batch.times else None
        for status in (
            "in_progress", "finalizing", "completed", "failed", "expired", "cancelling",
            "cancelled",
        )
    }  # fmt: skip
    return {
        "id": batch.id, "object": "batch", "endpoint": batch.endpoint,
        "model": batch.model or None,
        "errors": {"object": "list", "data": batch.errors} if batch.errors else None,
        "input_file_id": batch.input_file, "completion_window": batch.window,
        "status": batch.status, "output_file_id": batch.output_file or None,
        "error_file_id": batch.error_file or None, "created_at": int(batch.created_at), **times,
        "expires_at": int(batch.expires_at),
        "request_counts": {
            "total": batch.lines, "completed": batch.right_lines, "failed": batch.wrong_lines,
        },
        "metadata": batch.metadata or None,
    }  # fmt: skip
