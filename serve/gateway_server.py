"""The gateway as a Serve deployment."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from ray import serve as ray_serve

from agents.packs import load
from agents.presidio import detectors
from cluster.errors import MainspringError, Unavailable
from cluster.ids import Clock, SystemClock, SystemIds
from cluster.settings import (
    AccountsSection,
    GatewaySection,
    ModelSection,
    OutsideSection,
    PiiSection,
)
from cluster.telemetry import logger
from serve.books import Books
from serve.budget_table import Budget
from serve.budgets import nano_of
from serve.cache import with_cache
from serve.calls import Engines
from serve.catalog import Catalog
from serve.door import BodyLimit
from serve.gateway import build_app
from serve.metering import Meter
from serve.outside import TENANT as OUTSIDE
from serve.outside import Outside, model_of
from serve.questions import Keeper
from serve.router import Router
from serve.routes.openai import Embed
from serve.routes.runs import Office
from serve.shadow import TENANT as SHADOW
from serve.shadow import Shadowed
from serve.waking import Waking
from serve.watch import Watch

log = logger("gateway")

TURN_S: Final = 0.001
_AFTER_REQUESTS_S: Final = 10.0


@dataclass(frozen=True)
class Surroundings:
    """What a gateway needs of the stack around it; must pickle.

    `directory` is where the engines are listed, `secret` opens them. `data_dir`, absolute, is where
    a SQLite file of the `accounts` lies; `tenant` is the settings' own. `encoder` is (deployment,
    application) of an encoder with `embed(list[str])`; `office` reaches the orchestrators,
    `tellers` who else has metrics; `extra_routes` are called in the replica. `larger` and
    `packs` (by their names in the settings): see `build_app`."""

    directory: str
    secret: str = field(repr=False)
    accounts: AccountsSection
    data_dir: Path
    tenant: str = "default"
    encoder: tuple[str, str] | None = None
    office: Office | None = None
    tellers: Sequence[Office] = ()
    extra_routes: Sequence[Callable[[], APIRouter]] = ()
    larger: Mapping[str, BodyLimit] = field(default_factory=dict)
    packs: tuple[str, ...] = ()
    outside: tuple[OutsideSection, ...] = ()
    pii: PiiSection = field(default_factory=PiiSection)


class Gateway:
    """The Serve deployment around `build_app`: finds the engines and the encoder by name."""

    def __init__(
        self, section: GatewaySection, models: tuple[ModelSection, ...], around: Surroundings
    ) -> None:
        away = tuple(model_of(outside) for outside in around.outside)
        self._section, self._catalog, self._around = section, Catalog(models, away), around
        # The accounts' thread gives way at every statement; with Python's 5 ms to take turns, a
        # reservation of ten statements waits longer for a busy event loop than for the disk.
        sys.setswitchinterval(TURN_S)
        self._books = Books(around.accounts, around.data_dir, SystemClock(), SystemIds())
        self._shadow: Shadowed | None = None
        self._outside: Outside | None = None
        self._keeper: Keeper | None = None
        if section.questions.tenants:
            found = detectors(around.pii)
            self._keeper = Keeper(self._books.questions, section.questions, SystemClock(), found)

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve after the constructor, in the event loop; see `ray_serve.ingress`."""
        around, catalog, clock = self._around, self._catalog, SystemClock()
        meter = Meter(catalog)
        self._router = Router(
            catalog, lambda: self._watch.replicas(), meter, clock, around.secret,
            self._section.replicas,
        )  # fmt: skip
        self._waking = Waking(self._router, catalog, clock, self._section.replicas)
        name = SystemIds().new("gateway")
        self._watch = Watch(
            around.directory, clock, name, self._router.online, self._waking.demands
        )
        return build_app(
            self._section,
            catalog,
            with_cache(self._section, self._engines(clock, meter), clock),
            meter,
            embed=None if around.encoder is None else _encoder(*around.encoder),
            office=around.office,
            tellers=around.tellers,
            tenant=around.tenant,
            books=self._books,
            own_key=around.secret,
            extra_routes=around.extra_routes,
            larger=around.larger,
            names_answers=False,
            heads=around.data_dir / "router",
            packs=load(around.packs),
            outside=around.outside,
            draining=self._watch.draining,
            questions=self._keeper,
        )

    def _engines(self, clock: Clock, meter: Meter) -> Engines:
        """The router, with models at other houses where the settings name some. These come around
        the shadow: it never asks them."""
        ours, places = self._ours(clock), self._around.outside
        if not places:
            return ours
        for place in places:
            limit = nano_of(place.usd_per_day, f"outside.{place.id}.usd_per_day")
            self._books.budgets.put(Budget(OUTSIDE, "key", place.id, "day", limit))
        self._outside = Outside(
            ours, places, self._books.admission, meter, clock, detectors(self._around.pii)
        )
        return self._outside

    def _ours(self, clock: Clock) -> Engines:
        """The router, and a shadow of its work where the settings ask for one."""
        section, books = self._section, self._books
        if not section.shadow_share:
            return self._waking
        limit = nano_of(section.shadow_usd_per_day, "gateway.shadow_usd_per_day")
        books.budgets.put(Budget(SHADOW, "tenant", SHADOW, "day", limit))
        self._shadow = Shadowed(
            self._waking, section.shadow_share, self._catalog, books.admission, books.agreements,
            clock,
        )  # fmt: skip
        return self._shadow

    async def __del__(self) -> None:
        """Called by Serve once the replica has drained."""
        self._watch.stop()
        if self._shadow is not None:
            await self._shadow.close()
        if self._outside is not None:
            await self._outside.close()
        if self._keeper is not None:
            await self._keeper.close()
        await self._router.close()
        await self._books.close()


def gateway_application(
    section: GatewaySection, models: tuple[ModelSection, ...], around: Surroundings
) -> ray_serve.Application:
    """The gateway as a Serve application for the route `/`."""
    deployment = ray_serve.deployment(
        ray_serve.ingress()(Gateway),
        name="gateway",
        num_replicas=section.replicas,
        max_ongoing_requests=section.max_ongoing_requests,
        ray_actor_options={"num_cpus": 0.1},
        # One that is replaced answers what it has begun: Serve's 20 s would cut longer streams.
        graceful_shutdown_timeout_s=section.request_timeout_s + _AFTER_REQUESTS_S,
        # The ledger has a row for every request: Serve's line for each is work without a reader.
        logging_config={"enable_access_log": False},
    )
    return deployment.bind(section, models, around)


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
