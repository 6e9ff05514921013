"""What every request passes first: its id, its key and what that may do, its size; and what becomes
of errors."""

import asyncio
import ipaddress
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from cluster import tracing
from cluster.errors import MainspringError, Unavailable
from cluster.ids import Ids
from cluster.telemetry import logger, request_id, run_id
from serve.callers import PRINCIPAL
from serve.clients import ClientGone
from serve.console import is_console
from serve.doorkeeper import Doorkeeper
from serve.problems import INTERNAL, Problem, problem_of

log = logger("gateway")

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

DRAINED_S: Final = 30.0
"""When who is turned away from a draining stack may look again."""
_WORK_PATHS: Final = frozenset(
    f"/v1/{name}"
    for name in (
        "chat/completions",
        "completions",
        "responses",
        "embeddings",
        "runs",
        "agents",
        "batches",
    )
)
OPEN_PATHS: Final = frozenset({"/healthz"})
_REFUSED: Final = 400
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class TooLarge(MainspringError):
    """A body over the limit."""

    code = "request_too_large"
    status = 413

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return f"the body is larger than {self.limit} bytes"


class TooSlow(MainspringError):
    """A body that takes for ever."""

    code = "request_timeout"
    status = 408

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return f"the body was not there after {self.seconds:g} s"


class CrossSite(MainspringError):
    """A page of another site that asks in its reader's name."""

    code = "cross_site_request"
    status = 403

    def __str__(self) -> str:
        return "a page of another site asks without a key: send one in the Authorization header"


def require_same_site(headers: Mapping[bytes, str]) -> None:
    """Raises CrossSite for what a browser sends for another site's page without a key: on loopback,
    where none is needed, such a page would act as whoever reads it. A name that was made to point
    here (DNS rebinding) is another site too."""
    if headers.get(b"authorization"):
        return
    origin = urlsplit(headers.get(b"origin", ""))
    same = headers.get(b"sec-fetch-site", "none") in ("none", "same-origin")
    if origin.netloc or origin.path:
        host = urlsplit(f"//{headers.get(b'host', '')}")
        same = same and origin.netloc == host.netloc and _is_loopback(host.hostname or "")
    if not same:
        raise CrossSite


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class BodyLimit:
    """What the body of a request may be: bytes, and seconds until it has come."""

    bytes: int
    seconds: float = 30.0


class Door:
    """`limit` holds for every body but those of the paths that begin as `larger` names. While the
    stack is `draining` nobody but its own parts begins work."""

    def __init__(
        self, app: App, keeper: Doorkeeper, limit: BodyLimit, ids: Ids, names_answers: bool,
        larger: Mapping[str, BodyLimit] | None = None,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self._draining = draining
        self._app, self._keeper, self._limit, self._ids = app, keeper, limit, ids
        self._larger, self._names_answers = larger or {}, names_answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {k: v.decode("latin-1") for k, v in scope["headers"]}
        given = headers.get(b"x-request-id", "")
        name = given if _REQUEST_ID.fullmatch(given) else self._ids.new("req")
        scope["mainspring.request_id"] = name
        token, run = request_id.set(name), run_id.set(_run_of(headers))
        reply = _Reply(send, name if self._names_answers else None)
        parent = headers.get(tracing.HEADER.encode(), "")
        try:
            with tracing.span(_shown(scope), "server", parent) as span:
                span.set(mainspring__request_id=name, http__request__method=scope["method"])
                await self._answered(scope, headers, receive, reply)
                span.set(http__response__status_code=reply.status)
                if (reply.status or 0) >= _REFUSED:  # the ledger has a row for each of the others
                    log.info("%s: %d", _shown(scope), reply.status)
        finally:
            request_id.reset(token)
            run_id.reset(run)

    async def _answered(
        self, scope: Scope, headers: dict[bytes, str], receive: Receive, reply: "_Reply"
    ) -> None:
        try:
            limit = self._limit_of(scope["path"])
            await self._check(scope, headers, limit)
            await self._app(scope, _bounded(receive, limit), reply)
        except ClientGone:
            pass  # nobody is there to answer
        except MainspringError as error:
            await reply.problem(problem_of(error), scope, receive)
        except Exception:
            # The outermost place: what nobody foresaw is recorded here and told without detail.
            log.exception("unforeseen error on %s %s", scope["method"], scope["path"])
            await reply.problem(INTERNAL, scope, receive)

    def _limit_of(self, path: str) -> BodyLimit:
        named = (limit for start, limit in self._larger.items() if path.startswith(start))
        return next(named, self._limit)

    async def _check(self, scope: Scope, headers: dict[bytes, str], limit: BodyLimit) -> None:
        if scope["path"] not in OPEN_PATHS and not is_console(scope["path"]):
            require_same_site(headers)
            who = await self._keeper.admit(headers.get(b"authorization", ""))
            who.require(scope["path"])
            if self._draining() and not who.trusted and _begins_work(scope):
                raise Unavailable("Mainspring", "it is being drained", DRAINED_S)
            scope[PRINCIPAL] = who
        length = headers.get(b"content-length", "0")
        if length.isdigit() and int(length) > limit.bytes:
            raise TooLarge(limit.bytes)


def _begins_work(scope: Scope) -> bool:
    path = scope["path"]
    return scope["method"] == "POST" and (path in _WORK_PATHS or path.endswith("/messages"))


def _shown(scope: Scope) -> str:
    """The method and the path's first parts, which hold no ids."""
    return f"{scope['method']} {'/'.join(scope['path'].split('/')[:3])}"


def _run_of(headers: Mapping[bytes, str]) -> str:
    """The run that an agent's request names, for the log."""
    given = headers.get(b"x-mainspring-run", "")
    return given if _REQUEST_ID.fullmatch(given) else "-"


def _bounded(receive: Receive, limit: BodyLimit) -> Receive:
    """`receive` that raises TooLarge and TooSlow; once the body is there it waits for ever, for the
    client to leave."""
    received, whole = 0, False
    until = asyncio.get_running_loop().time() + limit.seconds

    async def bounded() -> Event:
        nonlocal received, whole
        if whole:
            return await receive()
        try:
            async with asyncio.timeout_at(until):
                event = await receive()
        except TimeoutError:
            raise TooSlow(limit.seconds) from None
        if event["type"] == "http.request":
            received += len(event.get("body", b""))
            whole = not event.get("more_body", False)
            if received > limit.bytes:
                raise TooLarge(limit.bytes)
        return event

    return bounded


class _Reply:
    """`send` that adds the request id and knows the `status` of an answer once it has begun."""

    def __init__(self, send: Send, name: str | None) -> None:
        self._send, self._name = send, name
        self.status: int | None = None

    async def __call__(self, event: Event) -> None:
        if event["type"] == "http.response.start":
            self.status = event["status"]
            if self._name is not None:
                header = (b"x-request-id", self._name.encode("latin-1"))
                event = {**event, "headers": [*event.get("headers", ()), header]}
        await self._send(event)

    async def problem(self, problem: Problem, scope: Scope, receive: Receive) -> None:
        if self.status is None:
            await problem.response()(scope, receive, self)
