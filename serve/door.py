"""What every request passes before the app has it: its id, its key, its size; and what becomes of
errors that nobody answered."""

import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final

from cluster.errors import MainspringError, Unauthorized
from cluster.ids import Ids
from cluster.telemetry import logger, request_id
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


class Keys:
    """The accepted API keys, known by their SHA-256 only. No keys: everybody is let in, which
    the settings allow on loopback only."""

    def __init__(self, digests: Sequence[str]) -> None:
        self._digests = tuple(digests)

    def admit(self, authorization: str) -> None:
        """Raises Unauthorized unless the header holds an accepted key."""
        if not self._digests:
            return
        scheme, _, key = authorization.partition(" ")
        digest = hashlib.sha256(key.strip().encode()).hexdigest()
        found = [hmac.compare_digest(digest, known) for known in self._digests]
        if scheme.lower() != "bearer" or not any(found):
            raise Unauthorized


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
    """What every request passes first: its id, its key, its size; and what becomes of errors."""

    def __init__(
        self, app: App, keys: Keys, max_body_bytes: int, ids: Ids, names_answers: bool
    ) -> None:
        self._app, self._keys, self._max, self._ids = app, keys, max_body_bytes, ids
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
            self._check(scope["path"], headers)
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

    def _check(self, path: str, headers: dict[bytes, str]) -> None:
        if path not in OPEN_PATHS:
            self._keys.admit(headers.get(b"authorization", ""))
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
