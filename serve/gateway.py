"""The one address: an ASGI app behind Ray Serve that admits, routes, passes on and meters.

Covered here: request ids, keys, the size of bodies, the shape of every error, health, readiness
and metrics. Not covered: what a key may do (all keys are equal) and how much it may spend.
"""

import asyncio
import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from ray import serve as ray_serve
from starlette.responses import JSONResponse, Response

from cluster.errors import MainspringError, Unauthorized, Unavailable
from cluster.ids import Clock, Ids, SystemClock, SystemIds
from cluster.settings import GatewaySection, ModelSection
from cluster.telemetry import logger, request_id
from serve.catalog import Catalog
from serve.directory import LEASE_S, Replica, find_directory
from serve.metering import Meter
from serve.problems import INTERNAL, Problem, install, problem_of
from serve.router import Router
from serve.routes.agents import AgentRoutes
from serve.routes.openai import ClientGone, Embed, OpenAIRoutes
from serve.routes.runs import Office, RunRoutes
from serve.workplace import WORKFLOWS

log = logger("gateway")

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

POLL_S: Final = 0.5
METRICS_S: Final = 3.0
READY_FOR_S: Final = 10.0
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


class Readiness:
    """Ready when every model has generated a token; a success is believed for READY_FOR_S."""

    def __init__(self, catalog: Catalog, router: Router, clock: Clock) -> None:
        self._catalog, self._router, self._clock = catalog, router, clock
        self._until = float("-inf")
        self._lock = asyncio.Lock()

    async def answer(self) -> Response:
        """GET /readyz: 200, or 503 with what is missing."""
        async with self._lock:
            if self._clock.monotonic() < self._until:
                return JSONResponse({"status": "ready"})
            names = [m.id for m in self._catalog.models]
            found = await asyncio.gather(*(self._router.probe(name) for name in names))
            missing = {n: m for n, m in zip(names, found, strict=True) if m is not None}
            if not missing:
                self._until = self._clock.monotonic() + READY_FOR_S
                return JSONResponse({"status": "ready"})
        what = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        return Problem(503, f"not ready: {what}", "not_ready", None, 2.0).response()


def build_app(
    section: GatewaySection,
    catalog: Catalog,
    router: Router,
    meter: Meter,
    *,
    embed: Embed | None = None,
    office: Office | None = None,
    tenant: str = "default",
    extra_routes: Sequence[Callable[[], APIRouter]] = (),
    clock: Clock | None = None,
    ids: Ids | None = None,
    names_answers: bool = True,
) -> FastAPI:
    """The gateway as an ASGI app; knows nothing of Ray. Without `office` it has no agents.

    `names_answers` puts `x-request-id` on every answer; behind Serve that is done already."""
    clock, ids = clock or SystemClock(), ids or SystemIds()
    app = FastAPI(title="Mainspring", openapi_url=None)
    install(app)
    keys = Keys(section.api_key_sha256)
    app.add_middleware(
        Door,
        keys=keys,
        max_body_bytes=section.max_body_bytes,
        ids=ids,
        names_answers=names_answers,
    )
    openai = OpenAIRoutes(catalog, router, meter, clock, section.request_timeout_s, embed)
    app.include_router(openai.routes())
    if office is not None:
        runs = RunRoutes(office, tenant, WORKFLOWS, clock, ids)
        agents = AgentRoutes(office, runs, tenant, ids, section.request_timeout_s)
        for routes in (runs, agents):
            app.include_router(routes.routes())
    for more in extra_routes:
        app.include_router(more())
    ready = Readiness(catalog, router, clock)

    async def healthz() -> Response:
        return JSONResponse({"status": "ok"})

    async def metrics() -> Response:
        text = meter.text()
        try:
            text += await office.ask("metrics", timeout_s=METRICS_S) if office else b""
        except MainspringError as error:
            log.warning("metrics without those of the runs: %s", error)
        return Response(text, media_type="text/plain; version=0.0.4")

    app.add_api_route("/healthz", healthz, methods=["GET"])
    app.add_api_route("/readyz", ready.answer, methods=["GET"])
    app.add_api_route("/metrics", metrics, methods=["GET"])
    return app


class Watch:
    """The directory's replicas as last seen; older than a lease they count no more."""

    def __init__(self, directory: str, clock: Clock) -> None:
        self._directory, self._clock = directory, clock
        self._seen: list[Replica] = []
        self._at = float("-inf")
        self._task = asyncio.ensure_future(self._poll())

    def replicas(self) -> Sequence[Replica]:
        fresh = self._clock.monotonic() - self._at < LEASE_S
        return self._seen if fresh else ()

    def stop(self) -> None:
        self._task.cancel()

    async def _poll(self) -> None:
        from ray.exceptions import RayError

        while True:
            try:
                self._seen = await find_directory(self._directory).snapshot.remote()
                self._at = self._clock.monotonic()
            except (RayError, ValueError) as error:
                log.warning("the directory does not answer: %s", error)
            await asyncio.sleep(POLL_S)


class Gateway:
    """The Serve deployment around `build_app`: finds the engines and the encoder by name."""

    def __init__(
        self,
        section: GatewaySection,
        models: tuple[ModelSection, ...],
        directory: str,
        secret: str,
        encoder: tuple[str, str] | None,
        office: Office | None,
        tenant: str,
        extra_routes: Sequence[Callable[[], APIRouter]],
    ) -> None:
        self._section, self._catalog, self._secret = section, Catalog(models), secret
        self._directory, self._encoder, self._extra_routes = directory, encoder, extra_routes
        self._office, self._tenant = office, tenant

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve after the constructor, in the event loop; see `ray_serve.ingress`."""
        section, catalog, clock = self._section, self._catalog, SystemClock()
        self._watch, meter = Watch(self._directory, clock), Meter(catalog)
        self._router = Router(
            catalog, self._watch.replicas, meter, clock, self._secret, gateways=section.replicas
        )
        embed = None if self._encoder is None else _encoder(*self._encoder)
        return build_app(
            section,
            catalog,
            self._router,
            meter,
            embed=embed,
            office=self._office,
            tenant=self._tenant,
            extra_routes=self._extra_routes,
            names_answers=False,
        )

    async def __del__(self) -> None:
        """Called by Serve once the replica has drained."""
        self._watch.stop()
        await self._router.close()


def gateway_application(
    section: GatewaySection,
    models: tuple[ModelSection, ...],
    *,
    directory: str,
    secret: str,
    encoder: tuple[str, str] | None = None,
    office: Office | None = None,
    tenant: str = "default",
    extra_routes: Sequence[Callable[[], APIRouter]] = (),
) -> ray_serve.Application:
    """The gateway as a Serve application for the route `/`.

    `encoder` is (deployment, application) of an encoder with `embed(list[str])`; `office` reaches
    the orchestrator, whose runs are those of `tenant`; `extra_routes` are called in the replica
    and must pickle.
    """
    deployment = ray_serve.deployment(
        ray_serve.ingress()(Gateway),
        name="gateway",
        num_replicas=section.replicas,
        max_ongoing_requests=section.max_ongoing_requests,
        ray_actor_options={"num_cpus": 0.1},
    )
    return deployment.bind(
        section, models, directory, secret, encoder, office, tenant, tuple(extra_routes)
    )


def _encoder(deployment: str, application: str) -> Embed:
    async def embed(texts: list[str]) -> Any:
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        try:
            handle = ray_serve.get_deployment_handle(deployment, app_name=application)
            return await handle.embed.remote(texts)
        except (RayError, RayServeException) as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, MainspringError):
                raise cause from None
            log.warning("the encoder does not answer: %s", error)
            raise Unavailable("the encoder", "it does not answer", 2.0) from None

    return embed
