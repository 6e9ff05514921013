"""HTTP on a port of one's own, inside a process whose event loop and signals are Ray's."""

import contextlib
import hmac
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

import uvicorn

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guarded:
    """Lets in who brings the secret as a bearer token, and counts the requests in work."""

    def __init__(self, app: App, secret: str) -> None:
        self._app = app
        self._expected = f"Bearer {secret}".encode()
        self.in_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        sent = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(sent, self._expected):
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        self.in_work += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self.in_work -= 1


class Listener(uvicorn.Server):
    """uvicorn inside somebody else's event loop: Ray keeps the process's signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
