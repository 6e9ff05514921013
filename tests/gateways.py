"""A gateway in front of fake engines that speak vLLM's HTTP on loopback, for tests."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import uvicorn
from aiohttp import web

from cluster.ids import SystemClock, SystemIds
from cluster.settings import GatewaySection, ModelSection, OutsideSection
from serve.admission import Admission
from serve.cache import with_cache
from serve.catalog import Catalog
from serve.directory import Replica
from serve.gateway import build_app
from serve.listener import Listener
from serve.metering import Meter
from serve.outside import Outside, model_of
from serve.router import Router
from serve.routes.tokens import PATHS
from serve.waking import Waking

SECRET = "between us"
HELLO = {"model": "small", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
USAGE = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}


def _model(name: str, tier: str, room: int = 4, **values: Any) -> ModelSection:
    return ModelSection.model_validate(
        {
            "id": name, "source": "x", "tier": tier, "max_model_len": 1024,
            "usd_per_mtok_in": 1.0, "usd_per_mtok_out": 2.0,
            "max_ongoing_requests": room, "max_queued_requests": 0, "max_num_seqs": room,
            **values,
        }
    )  # fmt: skip


@dataclass
class FakeEngine:
    """Answers like vLLM; `behave` may be replaced. Remembers what it was asked."""

    model: str
    seen: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    gone: int = 0
    behave: Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]] | None = None
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append(body)
        self.headers.append({k.lower(): v for k, v in request.headers.items()})
        try:
            if self.behave is not None:
                return await self.behave(request, body)
            return await (self.stream(request) if body.get("stream") else self.whole(body))
        except (asyncio.CancelledError, ConnectionError):
            self.gone += 1
            raise

    async def whole(self, body: dict[str, Any]) -> web.StreamResponse:
        message = {"role": "assistant", "content": f"I am {body['model']}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response({"model": body["model"], "choices": [choice], "usage": USAGE})

    async def stream(
        self, request: web.Request, tokens: int = 3, pause: float = 0.0, finish: bool = True
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for number in range(tokens):
            chunk = {"choices": [{"index": 0, "delta": {"content": f"t{number}"}}]}
            await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
            await asyncio.sleep(pause)
        if finish:
            last = json.dumps({"choices": [], "usage": USAGE}).encode()
            await response.write(b"data: " + last + b"\n\ndata: [DONE]\n\n")
            await response.write_eof()
        elif request.transport is not None:
            request.transport.close()
        return response


def refusing(status: int, message: str = "no") -> Any:
    async def behave(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": {"message": message, "code": status}}, status=status)

    return behave


@dataclass
class Stack:
    """A gateway with its engines and a client; `replicas` is what the directory would list."""

    client: aiohttp.ClientSession
    url: str
    small: FakeEngine
    big: FakeEngine
    replicas: list[Replica]
    router: Router
    catalog: Catalog
    waking: Waking

    async def chat(self, **fields: Any) -> tuple[int, dict[str, Any], dict[str, str]]:
        async with self.client.post(
            f"{self.url}/v1/chat/completions", json={**HELLO, **fields}
        ) as response:
            headers = {k.lower(): v for k, v in response.headers.items()}
            return response.status, json.loads(await response.read()), headers

    async def events(self, **fields: Any) -> list[str]:
        body = {**HELLO, "stream": True, **fields}
        async with self.client.post(f"{self.url}/v1/chat/completions", json=body) as response:
            assert response.status == 200
            text = (await response.read()).decode()
        return [event.removeprefix("data: ") for event in text.split("\n\n") if event]

    def idle(self) -> bool:
        return all(load.in_work == 0 for load in self.router.load().values())


async def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(engine: FakeEngine) -> AsyncIterator[FakeEngine]:
    app = web.Application()
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", *PATHS):
        app.router.add_post(path, engine.handle)
    # Without handler_cancellation aiohttp would not tell the fake that its client has gone.
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    engine.url = str(site.name)
    try:
        yield engine
    finally:
        await runner.cleanup()


@asynccontextmanager
async def serving(
    section: GatewaySection, room: int = 4, small: Mapping[str, Any] | None = None,
    outside: Sequence[OutsideSection] = (), **options: Any,
) -> AsyncIterator[Stack]:  # fmt: skip
    """`small` are further settings of the model `small`."""
    async with running(FakeEngine("small")) as little, running(FakeEngine("big")) as big:
        replicas = [Replica("r1", "small", little.url), Replica("r2", "big", big.url)]
        routine = _model("small", "routine", room, **(small or {}))
        away = tuple(model_of(place) for place in outside)
        catalog = Catalog((_model("big", "planner", room), routine), away)
        meter = Meter(catalog)
        router = Router(catalog, lambda: replicas, meter, SystemClock(), SECRET)
        waking = Waking(router, catalog, SystemClock())
        books = options.get("books")
        admission = books.admission if books else Admission(None, SystemClock(), SystemIds())
        around = Outside(waking, outside, admission, meter, SystemClock())
        engines = with_cache(section, around, SystemClock())
        app = build_app(section, catalog, engines, meter, outside=outside, **options)
        config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off", ws="none")
        server = Listener(config)
        task = asyncio.create_task(server.serve())
        await eventually(lambda: server.started)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        async with aiohttp.ClientSession() as client:
            yield Stack(client, url, little, big, replicas, router, catalog, waking)
        await router.close()
        await around.close()
        server.should_exit = True
        await task
