"""Ray Serve LLM's own ingress before one engine, for `make bench-overhead`, in this process.

Ray reads its environment when it is imported: nothing here imports it before that is prepared.
"""

import os
import socket
import sys
from pathlib import Path
from typing import Any, Final

from cluster.environment import STACK_VARIABLE, prepare
from cluster.settings import GatewaySection, ModelSection, load
from serve import haproxy
from serve.catalog import resolve_source
from serve.engines import engine_arguments, environment

MODEL: Final = "routine"


def section(core: int) -> ModelSection:
    """The local profile's routine model on one core."""
    (model,) = (m for m in load("local").models if m.id == MODEL)
    return model.model_copy(update={"cpu_cores": str(core)})


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def serve(kind: str, port: int, core: int, folder: Path) -> None:
    """Serve until told to end."""
    tuned = kind == "tuned"
    stats, metrics = free_port(), free_port()
    gateway = GatewaySection(
        port=port, haproxy=tuned, haproxy_stats_port=stats, haproxy_metrics_port=metrics
    )
    prepare(folder, os.environ[STACK_VARIABLE], haproxy.environment(gateway, folder.resolve()))
    from ray import serve as ray_serve
    from ray.serve.llm import build_openai_app

    from cluster.session import start

    model = section(core)
    start(load("local").ray)
    ray_serve.start(http_options={"host": "127.0.0.1", "port": port})
    config: dict[str, Any] = {
        "model_loading_config": {
            "model_id": MODEL, "model_source": resolve_source(model.source),
        },
        "engine_kwargs": engine_arguments(model),
        "runtime_env": {"env_vars": environment(model)},
        "accelerator_config": {"kind": "cpu"},
        "placement_group_config": {"bundles": [{"CPU": 0.5}]},
    }  # fmt: skip
    if tuned:
        config["experimental_configs"] = {"stream_batching_interval_ms": 0}
    ray_serve.run(build_openai_app({"llm_configs": [config]}), blocking=True)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
