"""`/v1/files`: what batches read and write, in OpenAI's form."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Form, Request, UploadFile
from starlette.responses import JSONResponse, Response, StreamingResponse

from cluster.errors import InvalidInput
from cluster.ids import Clock
from serve.bulk.files import PURPOSES, UPLOADED, File, Files
from serve.callers import tenant_of
from serve.routes.listing import MAX_LISTED, listing

FILES_PATH: Final = "/v1/files"
UPLOAD_S: Final = 600.0
FORM_BYTES: Final = 65_536
"""What a multipart form adds to its file at most."""
MAX_EXPIRY_S: Final = 365 * 86_400


class FileRoutes:
    """The handlers. They are plain functions, which the framework runs in threads: reading and
    writing files blocks. `max_bytes` is the most that an upload may hold."""

    def __init__(self, files: Files, clock: Clock, max_bytes: int) -> None:
        self._files, self._clock, self._max = files, clock, max_bytes

    def routes(self) -> APIRouter:
        """The routes to include in the app."""
        routes = APIRouter()
        routes.add_api_route(FILES_PATH, self.upload, methods=["POST"])
        routes.add_api_route(FILES_PATH, self.listed, methods=["GET"])
        routes.add_api_route(f"{FILES_PATH}/{{id}}", self.one, methods=["GET"])
        routes.add_api_route(f"{FILES_PATH}/{{id}}", self.remove, methods=["DELETE"])
        routes.add_api_route(f"{FILES_PATH}/{{id}}/content", self.content, methods=["GET"])
        return routes

    def upload(
        self,
        http: Request,
        file: UploadFile,
        purpose: Annotated[str, Form()],
        anchor: Annotated[str | None, Form(alias="expires_after[anchor]")] = None,
        seconds: Annotated[int | None, Form(alias="expires_after[seconds]")] = None,
    ) -> Response:
        """POST /v1/files"""
        if purpose not in UPLOADED:
            raise InvalidInput("purpose", purpose, f"one of {list(UPLOADED)}")
        if not file.size:
            raise InvalidInput("file", f"{file.size or 0} bytes", "a file that is not empty")
        if file.size > self._max:
            raise InvalidInput("file", f"{file.size} bytes", f"at most {self._max} bytes")
        expires_at = self._expiry(anchor, seconds)
        name = file.filename or "upload"
        kept = self._files.add(tenant_of(http), name, purpose, file.file, expires_at)
        return JSONResponse(shown(kept))

    def listed(
        self,
        http: Request,
        purpose: str | None = None,
        after: str = "",
        limit: int = MAX_LISTED,
        order: str = "desc",
    ) -> Response:
        """GET /v1/files"""
        if purpose not in {None, *PURPOSES}:
            raise InvalidInput("purpose", purpose, f"one of {list(PURPOSES)}")
        if order not in {"asc", "desc"}:
            raise InvalidInput("order", order, "asc or desc")
        found = listing(
            limit,
            lambda n: self._files.listed(tenant_of(http), purpose, after, n, order == "desc"),
            shown,
        )
        return JSONResponse(found)

    def one(self, http: Request, id: str) -> Response:
        """GET /v1/files/{id}"""
        return JSONResponse(shown(self._files.one(tenant_of(http), id)))

    def content(self, http: Request, id: str) -> Response:
        """GET /v1/files/{id}/content"""
        tenant = tenant_of(http)
        file = self._files.one(tenant, id)
        headers = {"content-length": str(file.bytes)}
        chunks = self._files.chunks(tenant, id)
        return StreamingResponse(chunks, media_type="application/octet-stream", headers=headers)

    def remove(self, http: Request, id: str) -> Response:
        """DELETE /v1/files/{id}"""
        self._files.remove(tenant_of(http), id)
        return JSONResponse({"id": id, "object": "file", "deleted": True})

    def _expiry(self, anchor: str | None, seconds: int | None) -> float | None:
        if seconds is None and anchor is None:
            return None
        if anchor != "created_at":
            raise InvalidInput("expires_after[anchor]", anchor, "created_at")
        if seconds is None or not 0 < seconds <= MAX_EXPIRY_S:
            raise InvalidInput("expires_after[seconds]", seconds, f"1 to {MAX_EXPIRY_S}")
        return self._clock.now() + seconds


def shown(file: File) -> dict[str, Any]:
    """A file as clients see it."""
    return {
        "id": file.id, "object": "file", "bytes": file.bytes, "created_at": int(file.created_at),
        "expires_at": None if file.expires_at is None else int(file.expires_at),
        "filename": file.filename, "purpose": file.purpose, "status": "processed",
        "sha256": file.sha256,
    }  # fmt: skip
