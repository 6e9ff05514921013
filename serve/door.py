"""What every request passes first: its id, its key and what that may do, its size; and what becomes
of errors."""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from cluster.errors import MainspringError
from cluster.ids import Ids
from cluster.telemetry import logger, request_id
from serve.callers import PRINCIPAL
from serve.doorkeeper import Doorkeeper
from serve.problems import INTERNAL, Problem, problem_of
from serve.routes.openai import ClientGone

log = logger("gateway")

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS: Final = frozenset({"/healthz"})
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


class Door:
    """See above."""

    def __init__(
        self, app: App, keeper: Doorkeeper, max_body_bytes: int, ids: Ids, names_answers: bool
    ) -> None:
        self._app, self._keeper, self._max, self._ids = app, keeper, max_body_bytes, ids
        self._names_answers = names_answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {k: v.decode("latin-1") for k, v in scope["headers"]}
        given = headers.get(b"x-request-id", "")
        name = given if _REQUEST_ID.fullmatch(given) else self._ids.new("req")
        scope["mainspring.request_id"] = name
        token = request_id.set(name)
        reply = _Reply(send, name if self._names_answers else None)
        try:
            await self._check(scope, headers)
            await self._app(scope, self._bounded(receive), reply)
        except ClientGone:
            pass  # nobody is there to answer
        except MainspringError as error:
            await reply.problem(problem_of(error), scope, receive)
        except Exception:
            # The outermost place: what nobody foresaw is recorded here and told without detail.
            log.exception("unforeseen error on %s %s", scope["method"], scope["path"])
            await reply.problem(INTERNAL, scope, receive)
        finally:
            request_id.reset(token)

    async def _check(self, scope: Scope, headers: dict[bytes, str]) -> None:
        if scope["path"] not in OPEN_PATHS:
            who = await self._keeper.admit(headers.get(b"authorization", ""))
            who.require(scope["path"])
            scope[PRINCIPAL] = who
        length = headers.get(b"content-length", "0")
        if length.isdigit() and int(length) > self._max:
            raise TooLarge(self._max)

    def _bounded(self, receive: Receive) -> Receive:
        received = 0

        async def bounded() -> Event:
            nonlocal received
            event = await receive()
            if event["type"] == "http.request":
                received += len(event.get("body", b""))
                if received > self._max:
                    raise TooLarge(self._max)
            return event

        return bounded


class _Reply:
    """`send` that adds the request id and knows whether an answer has begun."""

    def __init__(self, send: Send, name: str | None) -> None:
        self._send, self._name, self._begun = send, name, False

    async def __call__(self, event: Event) -> None:
        if event["type"] == "http.response.start":
            self._begun = True
            if self._name is not None:
                header = (b"x-request-id", self._name.encode("latin-1"))
                event = {**event, "headers": [*event.get("headers", ()), header]}
        await self._send(event)

    async def problem(self, problem: Problem, scope: Scope, receive: Receive) -> None:
        if not self._begun:
            await problem.response()(scope, receive, self)
