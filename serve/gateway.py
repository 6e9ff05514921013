"""The one address: an ASGI app behind Ray Serve that admits, routes, passes on and meters.

Here it is put together, with health, readiness and metrics. `door.py` tells who comes and turns
away who may not; `admission.py` holds the limits; `router.py` finds an engine.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from ray import serve as ray_serve
from starlette.responses import JSONResponse, Response

from cluster.errors import MainspringError, Unavailable
from cluster.ids import Clock, Ids, SystemClock, SystemIds
from cluster.settings import AccountsSection, GatewaySection, ModelSection
from cluster.telemetry import logger
from serve.admission import Admission
from serve.books import Books
from serve.catalog import Catalog
from serve.directory import LEASE_S, Replica, find_directory
from serve.door import Door
from serve.doorkeeper import Doorkeeper
from serve.keys import digest_of
from serve.metering import Meter
from serve.problems import Problem, install
from serve.router import Router
from serve.routes.agents import AgentRoutes
from serve.routes.openai import Embed, OpenAIRoutes
from serve.routes.runs import Office, RunRoutes
from serve.routes.usage import UsageRoutes
from serve.workplace import WORKFLOWS

log = logger("gateway")

POLL_S: Final = 0.5
METRICS_S: Final = 3.0
READY_FOR_S: Final = 10.0


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
    books: Books | None = None,
    own_key: str | None = None,
    extra_routes: Sequence[Callable[[], APIRouter]] = (),
    clock: Clock | None = None,
    ids: Ids | None = None,
    names_answers: bool = True,
) -> FastAPI:
    """The gateway as an ASGI app; knows nothing of Ray. Without `office` it has no agents, without
    `books` no keys but those of the settings, no limits and no ledger.

    `tenant` is whose the settings' keys are, and who needs none on loopback; `own_key` is the
    stack's own. `names_answers` puts `x-request-id` on every answer; behind Serve that is done
    already."""
    clock, ids = clock or SystemClock(), ids or SystemIds()
    app = FastAPI(title="Mainspring", openapi_url=None)
    install(app)
    own = None if own_key is None else digest_of(own_key)
    keyring = None if books is None else books.keyring
    keeper = Doorkeeper(tenant, section.api_key_sha256, keyring, clock, own)
    app.add_middleware(
        Door,
        keeper=keeper,
        max_body_bytes=section.max_body_bytes,
        ids=ids,
        names_answers=names_answers,
    )
    admission = Admission(None, clock, ids) if books is None else books.admission
    timeout_s = section.request_timeout_s
    openai = OpenAIRoutes(catalog, router, meter, clock, timeout_s, embed, admission)
    app.include_router(openai.routes())
    if books is not None:
        app.include_router(UsageRoutes(books.ledger).routes())
    if office is not None:
        runs = RunRoutes(office, WORKFLOWS, clock, ids)
        agents = AgentRoutes(office, runs, ids, timeout_s)
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
        accounts: AccountsSection,
        data_dir: Path,
        extra_routes: Sequence[Callable[[], APIRouter]],
    ) -> None:
        self._section, self._catalog, self._secret = section, Catalog(models), secret
        self._directory, self._encoder, self._extra_routes = directory, encoder, extra_routes
        self._office, self._tenant = office, tenant
        self._books = Books(accounts, data_dir, SystemClock(), SystemIds())

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
            books=self._books,
            own_key=self._secret,
            extra_routes=self._extra_routes,
            names_answers=False,
        )

    async def __del__(self) -> None:
        """Called by Serve once the replica has drained."""
        self._watch.stop()
        await self._router.close()
        await self._books.close()


def gateway_application(
    section: GatewaySection,
    models: tuple[ModelSection, ...],
    *,
    directory: str,
    secret: str,
    accounts: AccountsSection,
    data_dir: Path,
    encoder: tuple[str, str] | None = None,
    office: Office | None = None,
    tenant: str = "default",
    extra_routes: Sequence[Callable[[], APIRouter]] = (),
) -> ray_serve.Application:
    """The gateway as a Serve application for the route `/`.

    `encoder` is (deployment, application) of an encoder with `embed(list[str])`; `office` reaches
    the orchestrators; `tenant` is the settings' own; `data_dir`, absolute, is where a SQLite file
    of the `accounts` lies; `extra_routes` are called in the replica and must pickle.
    """
    deployment = ray_serve.deployment(
        ray_serve.ingress()(Gateway),
        name="gateway",
        num_replicas=section.replicas,
        max_ongoing_requests=section.max_ongoing_requests,
        ray_actor_options={"num_cpus": 0.1},
    )
    return deployment.bind(
        section,
        models,
        directory,
        secret,
        encoder,
        office,
        tenant,
        accounts,
        data_dir,
        tuple(extra_routes),
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
