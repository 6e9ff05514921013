"""`/v1/batches`: thousands of requests in a file, in OpenAI's form."""

from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from cluster.errors import InvalidInput
from cluster.ids import SystemClock
from cluster.settings import BatchesSection
from serve.bulk.archive import Archive
from serve.bulk.kinds import OFFERED
from serve.bulk.table import Batch
from serve.callers import principal_of, tenant_of
from serve.description import reads
from serve.routes.files import FileRoutes
from serve.routes.listing import listing
from serve.schemas import Body, parse_body, read

MAX_METADATA: Final = 16


def archive_routes(section: BatchesSection, data_dir: Path) -> APIRouter:
    """The routes of files and batches, to include in the gateway; `data_dir` is absolute."""
    archive = Archive(section, data_dir)
    routes = APIRouter()
    routes.include_router(FileRoutes(archive.files, SystemClock(), section.max_file_bytes).routes())
    routes.include_router(BatchRoutes(archive).routes())
    return routes


class Asked(Body):
    """`POST /v1/batches`."""

    input_file_id: str = Field(min_length=1, max_length=256)
    endpoint: str
    completion_window: str = "24h"
    metadata: dict[str, str] | None = Field(None, max_length=MAX_METADATA)


class BatchRoutes:
    """The handlers. What they write down is found by whoever works on batches."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def routes(self) -> APIRouter:
        """The routes to include in the app."""
        routes = APIRouter()
        routes.add_api_route("/v1/batches", self.create, methods=["POST"])
        routes.add_api_route("/v1/batches", self.listed, methods=["GET"])
        routes.add_api_route("/v1/batches/{id}", self.one, methods=["GET"])
        routes.add_api_route("/v1/batches/{id}/cancel", self.cancel, methods=["POST"])
        return routes

    @reads(Asked)
    async def create(self, http: Request) -> Response:
        """POST /v1/batches"""
        asked = read(Asked, parse_body(await http.body()))
        if asked.endpoint not in OFFERED:
            raise InvalidInput("endpoint", asked.endpoint, f"one of {list(OFFERED)}")
        made = await run_in_threadpool(
            self._archive.submit, tenant_of(http), principal_of(http).key, asked.endpoint,
            asked.input_file_id, asked.completion_window, asked.metadata,
        )  # fmt: skip
        return JSONResponse(shown(made))

    def listed(self, http: Request, after: str = "", limit: int = 20) -> Response:
        """GET /v1/batches"""
        found = listing(
            limit, lambda n: self._archive.batches.batches(tenant_of(http), after, n), shown
        )
        return JSONResponse(found)

    def one(self, http: Request, id: str) -> Response:
        """GET /v1/batches/{id}"""
        return JSONResponse(shown(self._archive.batches.batch(tenant_of(http), id)))

    def cancel(self, http: Request, id: str) -> Response:
        """POST /v1/batches/{id}/cancel"""
        return JSONResponse(shown(self._archive.cancel(tenant_of(http), id)))


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
