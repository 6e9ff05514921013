"""The composition root: settings become a running stack. The only file that names every class.

`up` starts the parts in the order in which they are needed, the slow ones (two engines, each of
them an `import vllm`) side by side, and reports each phase as it goes.
"""

import asyncio
import contextlib
import functools
import io
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import ray
from ray import serve as ray_serve

from agents.connector import Connector
from agents.facts import Thresholds
from agents.guarding import KEYS, audit, guard, mint, server_guard
from agents.host import start_host
from agents.intent_keys import ensure
from agents.journal_sql import SqlJournal
from agents.orchestrator import Names, Orchestrator
from agents.owners import NAME as ORCHESTRATOR
from agents.owners import orchestrator_names
from agents.pack_connector import start_desk
from agents.packs import load, policy
from agents.presidio import require
from agents.pseudonyms import forgotten
from agents.servers import Servers
from agents.toolbox import PINS
from cluster.errors import DeadlineExceeded, Unavailable
from cluster.ids import SystemClock, SystemIds, new_secret
from cluster.provenance import told
from cluster.session import NAMESPACE, Session, end_actor, start
from cluster.settings import Settings, infra_path
from memory.service import Memory
from serve.bulk.actor import NAME as BULK
from serve.bulk.actor import Bulk
from serve.catalog import Catalog
from serve.directory import start_directory
from serve.door import BodyLimit
from serve.encoders import DEPLOYMENT as ENCODER
from serve.encoders import ServeEmbedder, encoder_deployment
from serve.engines import NODE, Wiring, deploy_engines, failure
from serve.gateway_server import Surroundings, gateway_application
from serve.office import Named
from serve.registry import serving
from serve.routes.approvals import approval_routes
from serve.routes.batches import archive_routes
from serve.routes.files import FILES_PATH, FORM_BYTES, UPLOAD_S
from serve.routes.memory import memory_routes
from serve.routes.settings import settings_routes
from serve.routes.tickets import ticket_routes
from serve.scaling import NAME as SCALER
from serve.scaling import start_scaler
from serve.swap import NAME as SWAPPER
from serve.swap import Swapper
from serve.workplace import WORKFLOWS, make_workflows

DIRECTORY: Final = "directory"
CONNECTOR: Final = "connector"
SERVERS: Final = "servers"
MEMORY: Final = "memory"
READY_TIMEOUT_S: Final = 600.0
_APP: Final = "mainspring"
_COMMON: Final[dict[str, Any]] = {
    "namespace": NAMESPACE, "num_cpus": 0, "max_restarts": -1, "max_task_retries": 0,
    "lifetime": "detached",
}  # fmt: skip

Progress = Callable[[str], None]


@dataclass
class Stack:
    """A running stack: where it answers, the key of its own parts, and how long each phase of its
    start took, in seconds."""

    settings: Settings
    key: str = field(repr=False)
    session: Session | None = None
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.settings.gateway.url

    @property
    def connector(self) -> Any:
        return ray.get_actor(CONNECTOR, namespace=NAMESPACE)

    @property
    def orchestrator(self) -> Any:
        return ray.get_actor(ORCHESTRATOR, namespace=NAMESPACE)

    @property
    def memory(self) -> Any:
        return ray.get_actor(MEMORY, namespace=NAMESPACE)


def up(settings: Settings, home: Path, heads: dict[str, Path], progress: Progress) -> Stack:
    """Start everything and return when the gateway is ready, that is, has generated a token on
    every engine. `home` is the stack's folder, where promoted checkpoints lie; `heads` are trained
    intent heads by name.

    Raises DeadlineExceeded when that takes longer than READY_TIMEOUT_S, and whatever error the
    part that could not start gave.
    """
    require(settings.agents.pii)
    stack = Stack(settings, new_secret())
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with _phase(stack, "ray", progress):
        stack.session = start(settings.ray)
        ray_serve.start(
            proxy_location="HeadOnly",
            http_options={"host": settings.gateway.host, "port": settings.gateway.port},
        )
        start_directory(DIRECTORY)
    with _phase(stack, "deploy", progress):
        host = "127.0.0.1" if settings.ray.address is None else NODE
        wiring = Wiring(DIRECTORY, stack.key, host, settings.gateway.request_timeout_s)
        start_scaler(settings.models, settings.autoscale, DIRECTORY, SystemClock())
        engines = deploy_engines(serving(settings.models, home), wiring)
        _deploy(settings, heads, stack.key)
        _start_actors(settings, home, wiring)
    with _phase(stack, "engines", progress):
        ray.get(engines, timeout=READY_TIMEOUT_S)
        _wait_for_applications(progress)
    return stack


def names(settings: Settings) -> Names:
    """The actors of this stack."""
    hosts = tuple(f"host-{i}" for i in range(settings.agents.hosts))
    return Names(CONNECTOR, hosts, orchestrator_names(settings.agents.orchestrators), SERVERS)


def apply(stack: Stack, settings: Settings) -> None:
    """Have a running stack take up settings that differ in what it can take up; see
    `serve/reloading.py`. ConfigError, and nothing is changed, when the policy is wrong."""
    old, agents = stack.settings, settings.agents
    policy(infra_path("policy", agents.policy), agents.packs)
    if settings.autoscale != old.autoscale:
        end_actor(SCALER)
        start_scaler(settings.models, settings.autoscale, DIRECTORY, SystemClock())
    if settings.batches != old.batches:
        end_actor(BULK)
        _start_bulk(settings, stack.key)
    for name in names(settings).orchestrators:
        ray.get(ray.get_actor(name, namespace=NAMESPACE).read_policy.remote())
    if settings != old:
        ray_serve.run_many([_gateway(settings, stack.key)])
    stack.settings = settings


def _deploy(settings: Settings, heads: dict[str, Path], secret: str) -> None:
    """Hand everything but the engines to Serve."""
    encoder = encoder_deployment(settings.encoder, {n: str(p) for n, p in heads.items()})
    targets = [ray_serve.RunTarget(encoder, name=ENCODER, route_prefix=None)]
    targets.append(_gateway(settings, secret))
    ray_serve.run_many(targets, wait_for_applications_running=False)


def _gateway(settings: Settings, secret: str) -> Any:
    """The gateways, for Serve."""
    office = Named(orchestrator_names(settings.agents.orchestrators), "the orchestrator")
    remembered = Named((MEMORY,), "memory")
    data_dir = settings.data_dir.resolve()
    forgets = functools.partial(forgotten, url=settings.agents.pseudonyms, data_dir=data_dir)
    around = Surroundings(
        DIRECTORY,
        secret,
        settings.accounts,
        data_dir,
        tenant=settings.tenant,
        encoder=(ENCODER, ENCODER),
        office=office,
        extra_routes=(
            functools.partial(memory_routes, remembered, forgotten=forgets),
            functools.partial(approval_routes, office),
            functools.partial(
                ticket_routes,
                Named((CONNECTOR,), "the help-desk"),
                office,
                settings.tenant,
                settings.support.intents,
                SystemClock(),
                SystemIds(),
            ),
            functools.partial(settings_routes, told(settings), settings.tenant),
            functools.partial(archive_routes, settings.batches, data_dir),
        ),
        larger={FILES_PATH: BodyLimit(settings.batches.max_file_bytes + FORM_BYTES, UPLOAD_S)},
        tellers=(remembered,),
        packs=settings.agents.packs,
        outside=settings.outside,
        pii=settings.agents.pii,
    )
    gateway = gateway_application(settings.gateway, settings.models, around)
    return ray_serve.RunTarget(gateway, name=_APP, route_prefix="/")


def _start_actors(settings: Settings, home: Path, wiring: Wiring) -> None:
    """Named actors that restart by themselves. No call of theirs is repeated by Ray: what may be
    done again is for the orchestrator to know."""
    data_dir = settings.data_dir.resolve()
    clock = SystemClock()
    ray.remote(Memory).options(name=MEMORY, max_concurrency=16, **_COMMON).remote(
        settings.memory, data_dir, ServeEmbedder(ENCODER, ENCODER), clock
    )
    ensure(data_dir / KEYS)
    ray.remote(Connector).options(name=CONNECTOR, max_concurrency=8, **_COMMON).remote(
        data_dir / "desk.db",
        infra_path("", settings.support.desk),
        functools.partial(guard, data_dir),
        settings.agents.pii,
    )
    if settings.agents.servers:
        ray.remote(Servers).options(name=SERVERS, max_concurrency=8, **_COMMON).remote(
            settings.agents.servers,
            data_dir / PINS,
            functools.partial(server_guard, data_dir),
            settings.agents.pii,
        )
    workflows = functools.partial(make_workflows, settings, wiring.secret, MEMORY, ENCODER)
    spawn = functools.partial(start_host, workflows, settings.agents.idle_s)
    for name in names(settings).hosts:
        spawn(name)
    _start_bulk(settings, wiring.secret)
    # Two at once, so that a second swap is refused and does not wait for the first.
    ray.remote(Swapper).options(name=SWAPPER, max_concurrency=2, **_COMMON).remote(
        settings.models, home.resolve(), wiring
    )
    packs = settings.agents.packs
    desks = functools.partial(start_desk, settings.agents.packs_by_name, data_dir)
    for number, name in enumerate(names(settings).orchestrators):
        ray.remote(Orchestrator).options(name=name, max_concurrency=1000, **_COMMON).remote(
            functools.partial(SqlJournal, settings.journal.url, data_dir, clock, SystemIds()),
            functools.partial(policy, infra_path("policy", settings.agents.policy), packs),
            functools.partial(mint, data_dir, settings.agents.intent_s),
            settings.agents,
            Thresholds(settings.support.min_confidence, settings.support.max_out_of_scope),
            names(settings),
            spawn,
            number=number,
            audit=functools.partial(audit, data_dir),
            packs=functools.partial(load, packs),
            desks=desks,
        )


def _start_bulk(settings: Settings, secret: str) -> None:
    """Who works on batches."""
    ray.remote(Bulk).options(name=BULK, max_concurrency=16, **_COMMON).remote(
        settings.batches, settings.data_dir.resolve(),
        f"http://127.0.0.1:{settings.gateway.port}", secret, settings.gateway.request_timeout_s,
        {
            "model": Catalog(settings.models).names(),
            "workflow": (*WORKFLOWS, *settings.agents.packs_by_name),
        },
        DIRECTORY, MEMORY, settings.agents.packs,
    )  # fmt: skip


def _wait_for_applications(progress: Progress) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    told = ""
    while True:
        applications = ray_serve.status().applications
        for name, application in applications.items():
            if why := failure(application):
                raise Unavailable(name, why)
        missing = sorted(n for n, a in applications.items() if a.status != "RUNNING")
        if not missing:
            return
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"the start of {missing}", READY_TIMEOUT_S)
        if (now := ", ".join(missing)) != told:
            progress(f"waiting for {now}")
            told = now
        time.sleep(0.5)


async def until_ready(stack: Stack, progress: Progress, timeout_s: float = READY_TIMEOUT_S) -> None:
    """Wait until /readyz says 200. DeadlineExceeded after `timeout_s`, with what was missing."""
    deadline = time.monotonic() + timeout_s
    missing = "no answer yet"
    headers = {"Authorization": f"Bearer {stack.key}"}
    limit = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(timeout=limit, headers=headers) as session:
        while time.monotonic() < deadline:
            try:
                async with session.get(f"{stack.url}/readyz") as response:
                    if response.status == 200:
                        return
                    missing = (await response.text())[:200]
            except (aiohttp.ClientError, TimeoutError) as error:
                missing = type(error).__name__
            progress(f"waiting for the first token ({missing})")
            await asyncio.sleep(0.5)
    raise DeadlineExceeded(f"readiness ({missing})", timeout_s)


def down() -> None:
    """Drain Serve and leave Ray; quietly when nothing was started."""
    if not ray.is_initialized():
        return
    # Serve ends its controller while calls to it are open, and Ray prints a line about each.
    silence = io.StringIO()
    with contextlib.redirect_stderr(silence), contextlib.redirect_stdout(silence):
        ray_serve.shutdown()
        ray.shutdown()


@contextlib.contextmanager
def _phase(stack: Stack, name: str, progress: Progress) -> Iterator[None]:
    progress(f"starting {name}")
    started = time.monotonic()
    yield
    stack.phases[name] = round(time.monotonic() - started, 2)
