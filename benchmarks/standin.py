"""A stand-in for an engine where there is no GPU: a replica that asks for a logical one, takes its
time to start, speaks vLLM's stream, tells what it has in work, and leaves as a real one does. Only
what it says is made up: its tokens come by the clock."""

import asyncio
import functools
import json
from collections.abc import AsyncIterator
from typing import Any

from ray import serve as ray_serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from cluster.settings import ModelSection
from serve.directory import Replica, find_directory
from serve.engines import Wiring, application_name, deployment_options
from serve.presence import Presence, State


class StandIn:
    """One replica; `load_s` is what its start takes, `token_s` a token."""

    # Serve awaits a constructor that is a coroutine.
    async def __init__(  # type: ignore[misc]
        self, model: ModelSection, wiring: Wiring, load_s: float, token_s: float
    ) -> None:
        await asyncio.sleep(load_s)
        self._seats, self._token_s = asyncio.Semaphore(model.max_num_seqs), token_s
        self._running = 0
        app = Starlette(routes=[Route("/v1/chat/completions", self._chat, methods=["POST"])])
        find = functools.partial(find_directory, wiring.directory)
        self._presence = Presence(app, wiring.secret, find, wiring.drain_s)
        url = await self._presence.open(wiring.host)
        own = str(ray_serve.get_replica_context().replica_id.unique_id)
        replica = Replica(own, model.id, url, application=application_name(model))
        await self._presence.announce(replica, lambda: State(self._running))

    async def __del__(self) -> None:
        """Called by Serve to end the replica."""
        await self._presence.leave()

    async def _chat(self, request: Request) -> StreamingResponse:
        body = await request.json()
        return StreamingResponse(self._tokens(body), media_type="text/event-stream")

    async def _tokens(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        count = int(body.get("max_tokens") or 16)
        async with self._seats:
            self._running += 1
            try:
                for _ in range(count):
                    await asyncio.sleep(self._token_s)
                    yield _event({"choices": [{"index": 0, "delta": {"content": "x "}}]})
                usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}
                yield _event({"choices": [], "usage": usage})
                yield b"data: [DONE]\n\n"
            finally:
                self._running -= 1


def standin_application(
    model: ModelSection, wiring: Wiring, load_s: float, token_s: float
) -> ray_serve.Application:
    """Deployed with the very options of a real engine."""
    made = ray_serve.deployment(StandIn, **deployment_options(model, wiring.drain_s))
    return made.bind(model, wiring, load_s, token_s)


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"
