"""The routes of memory: remember, search, look, promote, forget.

What comes in here is somebody's word: its origin is a user and its trust the least, whatever the
body says. It lives in a session, or says who promotes it and why.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from cluster.errors import InvalidInput
from cluster.ids import Clock, SystemClock
from memory.log import Note
from memory.records import Hit, Origin, Query, Record
from memory.retention import Erasure
from serve.callers import tenant_of
from serve.description import reads
from serve.routes.memory_bodies import (
    Because,
    ExportRequest,
    ForgetRequest,
    HoldRequest,
    ImportRequest,
    RememberRequest,
    SearchRequest,
    UpdateRequest,
)
from serve.routes.runs import Office, require_listable
from serve.schemas import parse_body, read

_ERASURE_TIMEOUT_S: Final = 180.0
_SHOWN: Final = (
    "id", "tier", "kind", "source", "text", "event_at", "subject", "agent", "session", "expires_at",
    "importance", "trust", "labels", "parents", "pinned", "recorded_at", "superseded_at",
)  # fmt: skip


Forgotten = Callable[[str, str], int]
"""Takes away what else is held of a tenant's subject; how many values."""


def memory_routes(
    office: Office, clock: Clock | None = None, forgotten: Forgotten | None = None
) -> APIRouter:
    """The routes to include in the gateway; `office` asks the memory. A key's records are those of
    its tenant. `forgotten` is done with each erasure of a subject."""
    return MemoryRoutes(office, clock or SystemClock(), forgotten).routes()


class MemoryRoutes:
    """The handlers."""

    def __init__(self, office: Office, clock: Clock, forgotten: Forgotten | None) -> None:
        self._office, self._clock, self._forgotten = office, clock, forgotten

    def routes(self) -> APIRouter:
        """The routes by path."""
        routes = APIRouter()
        add = routes.add_api_route
        add("/v1/memory", self.remember, methods=["POST"])
        add("/v1/memory", self.listed, methods=["GET"])
        add("/v1/memory/search", self.search, methods=["POST"])
        add("/v1/memory/forget", self.forget, methods=["POST"])
        add("/v1/memory/import", self.import_, methods=["POST"])
        add("/v1/memory/hold", self.hold, methods=["POST"])
        add("/v1/memory/release", self.release, methods=["POST"])
        add("/v1/memory/holds", self.holds, methods=["GET"])
        add("/v1/memory/export", self.export, methods=["POST"])
        add("/v1/memory/health", self.health, methods=["GET"])
        add("/v1/memory/{id}", self.one, methods=["GET"])
        add("/v1/memory/{id}", self.update, methods=["PATCH"])
        add("/v1/memory/{id}", self.delete, methods=["DELETE"])
        add("/v1/memory/{id}/promote", self.promote, methods=["POST"])
        add("/v1/memory/{id}/history", self.history, methods=["GET"])
        return routes

    @reads(RememberRequest)
    async def remember(self, http: Request) -> Response:
        """POST /v1/memory"""
        asked = read(RememberRequest, parse_body(await http.body()))
        note = Note(asked.promotion.by, asked.promotion.why) if asked.promotion else None
        if not asked.session and note is None:
            raise InvalidInput("session", "", "a session, or a promotion that says by and why")
        record = self._record(tenant_of(http), asked)
        added = await self._office.ask("remember", [record], note)
        body = {"id": record.id, "object": "memory.record", "added": bool(added)}
        return JSONResponse(body, status_code=201 if added else 200)

    def _record(self, tenant: str, asked: RememberRequest) -> Record:
        now = self._clock.now()
        return Record(
            tenant=tenant,
            kind=asked.kind,
            source=asked.source,
            text=asked.text,
            event_at=now if asked.event_at is None else asked.event_at,
            meta=asked.meta,
            tier="session" if asked.session and asked.promotion is None else "long_term",
            subject=asked.subject,
            agent=asked.agent,
            session=asked.session,
            expires_at=None if asked.ttl_s is None else now + asked.ttl_s,
            importance=asked.importance,
            labels=tuple(asked.labels),
            parents=tuple(asked.parents),
            origin=Origin("user"),
            pinned=asked.pinned,
        )

    @reads(SearchRequest)
    async def search(self, http: Request) -> Response:
        """POST /v1/memory/search"""
        asked = read(SearchRequest, parse_body(await http.body()))
        fields = asked.model_dump() | {"kinds": tuple(asked.kinds), "tiers": tuple(asked.tiers)}
        hits = await self._office.ask("recall", Query(tenant=tenant_of(http), **fields))
        return JSONResponse({"object": "list", "data": [_hit_body(hit) for hit in hits]})

    async def listed(
        self, http: Request, after: str = "", limit: int = 20, subject: str = "", session: str = "",
        kind: str = "", tier: str = "",
    ) -> Response:  # fmt: skip
        """GET /v1/memory: by id"""
        require_listable(limit)
        if "\x00" in after + subject + session + kind + tier:
            raise InvalidInput("query", "NUL", "texts without NUL characters")
        page = await self._office.ask(
            "listed", tenant_of(http), after, limit + 1, subject, session, kind, tier
        )
        data = [_body(record) for record in page[:limit]]
        return JSONResponse({"object": "list", "data": data, "has_more": len(page) > limit})

    async def one(self, http: Request, id: str) -> Response:
        """GET /v1/memory/{id}"""
        return JSONResponse(_body(await self._office.ask("get", tenant_of(http), _id(id))))

    @reads(UpdateRequest)
    async def update(self, http: Request, id: str) -> Response:
        """PATCH /v1/memory/{id}"""
        asked = read(UpdateRequest, parse_body(await http.body()))
        note = Note(asked.by, asked.why)
        record = await self._office.ask("update", tenant_of(http), _id(id), asked.text, note)
        return JSONResponse(_body(record))

    @reads(Because)
    async def promote(self, http: Request, id: str) -> Response:
        """POST /v1/memory/{id}/promote: whoever holds a key acts for a person"""
        asked = read(Because, parse_body(await http.body()))
        record = await self._office.ask(
            "promote", tenant_of(http), _id(id), asked.by, asked.why, True
        )
        return JSONResponse(_body(record))

    async def history(self, http: Request, id: str) -> Response:
        """GET /v1/memory/{id}/history: the events of a record or of a receipt"""
        if "\x00" in id:
            raise InvalidInput("id", id, "the id of a record or of a receipt")
        events = await self._office.ask("history", tenant_of(http), id)
        return JSONResponse({"object": "list", "data": events})

    async def delete(
        self, http: Request, id: str, by: str = "api", why: str = "deleted"
    ) -> Response:
        """DELETE /v1/memory/{id}"""
        await self._office.ask("get", tenant_of(http), _id(id))
        return await self._erased(http, (id,), "", by, why)

    @reads(ForgetRequest)
    async def forget(self, http: Request) -> Response:
        """POST /v1/memory/forget"""
        asked = read(ForgetRequest, parse_body(await http.body()))
        return await self._erased(
            http, tuple(map(_id, asked.ids)), asked.subject, asked.by, asked.why
        )

    async def _erased(
        self, http: Request, ids: tuple[str, ...], subject: str, by: str, why: str
    ) -> Response:
        receipt = await self._office.ask(
            "forget", tenant_of(http), ids, subject, by, why, timeout_s=_ERASURE_TIMEOUT_S
        )
        body = _receipt_body(receipt)
        if subject and self._forgotten is not None and not receipt.holds:
            tenant = tenant_of(http)
            body["pseudonyms"] = await asyncio.to_thread(self._forgotten, tenant, subject)
        return JSONResponse(body)

    @reads(ExportRequest)
    async def export(self, http: Request) -> Response:
        """POST /v1/memory/export"""
        asked = read(ExportRequest, parse_body(await http.body()))
        path = await self._office.ask("export", tenant_of(http), asked.name, timeout_s=120.0)
        return JSONResponse({"object": "memory.export", "path": path}, status_code=201)

    @reads(ImportRequest)
    async def import_(self, http: Request) -> Response:
        """POST /v1/memory/import"""
        asked = read(ImportRequest, parse_body(await http.body()))
        lines = [r if isinstance(r, str) else json.dumps(r) for r in asked.records]
        report = await self._office.ask(
            "import_lines", tenant_of(http), lines, asked.by, timeout_s=120.0
        )
        body = {"added": report.added, "known": report.known, "problems": report.problems}
        return JSONResponse({"object": "memory.import", **body})

    @reads(HoldRequest)
    async def hold(self, http: Request) -> Response:
        """POST /v1/memory/hold"""
        return await self._held(http, "hold")

    @reads(HoldRequest)
    async def release(self, http: Request) -> Response:
        """POST /v1/memory/release"""
        return await self._held(http, "release")

    async def _held(self, http: Request, method: str) -> Response:
        asked = read(HoldRequest, parse_body(await http.body()))
        await self._office.ask(method, tenant_of(http), asked.subject, asked.by, asked.why)
        return await self.holds(http)

    async def holds(self, http: Request) -> Response:
        """GET /v1/memory/holds: what is held, by whom, why and since when"""
        holds = await self._office.ask("holds", tenant_of(http))
        return JSONResponse({"object": "list", "data": [asdict(hold) for hold in holds]})

    async def health(self, http: Request) -> Response:
        """GET /v1/memory/health"""
        health = await self._office.ask("health", tenant_of(http), timeout_s=60.0)
        return JSONResponse({"object": "memory.health", "good": health.good, **asdict(health)})


def _id(id: str) -> str:
    if len(id) != 32 or not set(id) <= set("0123456789abcdef"):
        raise InvalidInput("id", id, "the id of a record: 32 hex digits")
    return id


def _body(record: Record) -> dict[str, Any]:
    shown = {name: getattr(record, name) for name in _SHOWN}
    origin = record.origin
    return shown | {
        "object": "memory.record",
        "meta": dict(record.meta),
        "origin": {
            "source_kind": origin.source_kind,
            "tool_or_model": origin.tool_or_model,
            "run": origin.run,
        },
    }


def _hit_body(hit: Hit) -> dict[str, Any]:
    return {
        "object": "memory.hit", "score": hit.score, "scores": dict(hit.scores),
        "reason": hit.reason, "record": _body(hit.record),
    }  # fmt: skip


def _receipt_body(receipt: Erasure) -> dict[str, Any]:
    return {
        "object": "memory.erasure", "id": receipt.id, "at": receipt.at,
        "complete": receipt.complete, "erased": receipt.erased, "derived": receipt.derived,
        "held": receipt.held, "holds": [asdict(hold) for hold in receipt.holds],
        "exports": receipt.exports, "pending": receipt.pending,
        "impossible": receipt.impossible,
    }  # fmt: skip
