"""An OpenAI-compatible embeddings endpoint on loopback, for tests: words hashed into a few numbers,
and every way in which such an endpoint may go wrong."""

import asyncio
import math
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from aiohttp import web

WIDE = 64


@contextmanager
def serving() -> Iterator[str]:
    """A server in a thread of its own; gives its URL."""
    server, loop = EmbeddingServer(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
    try:
        yield server.url
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class EmbeddingServer:
    """`fault` is what goes wrong now: nan, zero, ragged, count, order, dimension, others, text,
    refuse, error, busy, or nothing. Texts with `held` in them wait while it is
    set. `asked` counts requests, `texts` what they held."""

    def __init__(self, width: int = WIDE) -> None:
        self.width, self.fault, self.refused = width, "", ""
        self.asked, self.texts, self.largest = 0, 0, 0
        self.held = ""
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self, port: int = 0) -> None:
        app = web.Application()
        app.router.add_post("/v1/embeddings", self._embed)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def stop(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _embed(self, request: web.Request) -> web.Response:
        body = await request.json()
        texts: list[str] = body["input"]
        while self.held and any(self.held in text for text in texts):
            await asyncio.sleep(0.01)
        self.asked += 1
        self.texts += len(texts)
        self.largest = max(self.largest, len(texts))
        if status := {"error": 500, "busy": 429}.get(self.fault):
            return web.json_response({"error": {"message": "no"}}, status=status)
        if self.fault == "refuse" or (self.refused and any(self.refused in t for t in texts)):
            return web.json_response({"error": {"message": "too long"}}, status=400)
        if self.fault == "text":
            return web.Response(text="<html>hello</html>", content_type="text/html")
        return web.json_response({"object": "list", "data": self._data(texts), "model": "m"})

    def _data(self, texts: list[str]) -> list[dict[str, Any]]:
        rows = [self._vector(text) for text in texts]
        if self.fault == "nan":
            rows[-1][0] = math.nan
        elif self.fault == "zero":
            rows[-1] = [0.0] * self.width
        elif self.fault == "dimension":
            rows = [[*row, 1.0] for row in rows]
        elif self.fault == "ragged":
            rows[-1] = rows[-1][:-1]
        elif self.fault == "count":
            rows = rows[1:]
        elif self.fault == "others":
            rows = [row[::-1] for row in rows]
        data = [{"object": "embedding", "index": i, "embedding": r} for i, r in enumerate(rows)]
        if self.fault == "order":
            data[0]["index"] = len(data)
        # whoever reads the answer goes by its numbers
        return data[::-1]

    def _vector(self, text: str) -> list[float]:
        row = np.zeros(self.width)
        for word in text.casefold().split():
            row[zlib.crc32(word.encode()) % self.width] += 1
        return [float(number) for number in row]
