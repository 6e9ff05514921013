"""The console at `/console`: a few static files, served with headers that let nothing else in.

The files hold no data. In the browser they ask the same API as everybody, with the key that a
person gives them, so keys, scopes and tenants hold without a line here; and as the key travels in a
header and never in a cookie, no other site's page can act with it.

Not covered: people's own logins; a key is typed in, and kept for as long as its tab is open.
"""

from pathlib import Path
from typing import Final

from starlette.responses import RedirectResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

PATH: Final = "/console"
FOLDER: Final = Path(__file__).parent / "static"
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


class _Guarded(StaticFiles):
    """Static files whose answers all have the headers."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(k.encode(), v.encode()) for k, v in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await super().__call__(scope, receive, guarded)


def console_routes() -> list[Route | Mount]:
    """The routes to add to the app."""
    return [
        Route(PATH, lambda _: RedirectResponse(f"{PATH}/")),
        Mount(PATH, _Guarded(directory=FOLDER, html=True), name="console"),
    ]


def is_console(path: str) -> bool:
    """Whether a path is one of the console's, which need no key."""
    return path == PATH or path.startswith(f"{PATH}/")
