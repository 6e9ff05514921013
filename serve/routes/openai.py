"""The OpenAI routes that no engine is asked for: models and embeddings."""

import asyncio
import base64
import re
import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from cluster.errors import InvalidInput, NotFound
from cluster.ids import Clock
from serve.admission import Admission
from serve.budgets import Worst
from serve.callers import caller_of, principal_of, request_id_of
from serve.catalog import EMBEDDING_MODEL, Catalog, model_card
from serve.description import reads
from serve.ledger import Used
from serve.problems import Refused
from serve.schemas import EmbeddingRequest, parse_body, read

DIMENSION: Final = 384
MAX_INPUTS: Final = 2048
_WORD = re.compile(r"\w+|[^\w\s]")

T = TypeVar("T")


class Vectors(Protocol):
    """A matrix of one row per text, as NumPy has it."""

    def tolist(self) -> list[list[float]]: ...


Embed = Callable[[list[str]], Awaitable[Vectors]]


class OpenAIRoutes:
    """The handlers. `deadline_s` bounds every request."""

    def __init__(
        self,
        catalog: Catalog,
        clock: Clock,
        deadline_s: float,
        embed: Embed | None,
        admission: Admission,
    ) -> None:
        self._catalog, self._admission = catalog, admission
        self._clock, self._deadline_s, self._embed = clock, deadline_s, embed
        self._created = int(clock.now())

    def routes(self) -> APIRouter:
        """The routes to include in the app."""
        routes = APIRouter()
        routes.add_api_route("/v1/models", self.models, methods=["GET"])
        routes.add_api_route("/v1/models/{name:path}", self.one_model, methods=["GET"])
        routes.add_api_route("/v1/embeddings", self.embeddings, methods=["POST"])
        return routes

    async def models(self) -> Response:
        """GET /v1/models"""
        data = [model_card(name, self._catalog, self._created) for name in self._catalog.names()]
        return JSONResponse({"object": "list", "data": data})

    async def one_model(self, name: str) -> Response:
        """GET /v1/models/{name}"""
        return JSONResponse(model_card(name, self._catalog, self._created))

    @reads(EmbeddingRequest)
    async def embeddings(self, http: Request) -> Response:
        """POST /v1/embeddings"""
        request = read(EmbeddingRequest, parse_body(await http.body()))
        if request.model != EMBEDDING_MODEL:
            raise NotFound("model", request.model)
        if request.dimensions not in {None, DIMENSION}:
            raise InvalidInput("dimensions", request.dimensions, f"{DIMENSION}")
        texts = [request.input] if isinstance(request.input, str) else request.input
        if not texts or len(texts) > MAX_INPUTS:
            raise InvalidInput("input", f"{len(texts)} texts", f"1 to {MAX_INPUTS} texts")
        for number, text in enumerate(texts):
            if not text.strip():
                raise InvalidInput(f"input[{number}]", text, "a text with a visible character")
        if self._embed is None:
            raise Refused(404, "this gateway has no encoder", "model_not_found", "model")
        # Words and marks, an estimate from below: the encoder's tokenizer is not in this process.
        count = sum(len(_WORD.findall(text)) for text in texts)
        began = self._clock.monotonic()
        caller, limits = caller_of(http), principal_of(http).limits
        hold = await self._admission.enter(caller, limits, Worst(0, count), self._deadline_s)
        try:
            async with asyncio.timeout(self._deadline_s):
                rows = (await self._embed(texts)).tolist()
        except BaseException:
            self._admission.leave(hold, None)
            raise
        spent = self._clock.monotonic() - began
        used = Used(
            request_id_of(http), EMBEDDING_MODEL, 200, count, 0, 0, estimated=True, engine_s=spent,
            route=EMBEDDING_MODEL,
        )  # fmt: skip
        self._admission.leave(hold, used)
        as_base64 = request.encoding_format == "base64"
        data = [
            {"object": "embedding", "index": i, "embedding": _packed(row) if as_base64 else row}
            for i, row in enumerate(rows)
        ]
        usage = {"prompt_tokens": count, "total_tokens": count}
        body = {"object": "list", "data": data, "model": EMBEDDING_MODEL, "usage": usage}
        return JSONResponse(body, headers={"x-mainspring-model": EMBEDDING_MODEL})


def _packed(row: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode()
