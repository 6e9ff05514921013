"""The replica of one model: places and watches the engine, and answers HTTP itself.

Tokens do not travel through Ray: the replica serves vLLM's own OpenAI app on a port of its own,
behind a secret that only the gateways know, and enters that address into the directory.

Importing this module imports vLLM; only replicas and the task that deploys them do. What is taken
from `ray.llm._internal` and why: `VLLMEngine` and `CallbackBase`, because on a CPU the public path
starts one more process for each engine and one task that only repeats the imports. vLLM tells its
statistics to loggers that are given at its start, which Ray does for itself only: ours is added to
the engine's own list.
"""

import functools
import gc
from pathlib import Path
from typing import Any

import aiohttp
import ray
from ray import serve as ray_serve

from cluster.errors import Unavailable
from cluster.settings import ModelSection
from cluster.telemetry import logger
from serve.catalog import resolve_source
from serve.directory import Replica, find_directory
from serve.engines import (
    NODE,
    Wiring,
    application_name,
    deployment_options,
    engine_arguments,
    environment,
    worker_bundles,
)
from serve.presence import Presence, State

gc.disable()  # ten thousand modules follow; collecting meanwhile costs a fifth more
from ray.llm._internal.common.callbacks.base import CallbackBase  # noqa: E402
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine  # noqa: E402
from ray.serve.llm import LLMConfig, build_llm_deployment  # noqa: E402
from ray.serve.llm.deployment import LLMServer  # noqa: E402
from vllm.utils.ompmultiprocessing import OMPProcessManager  # noqa: E402
from vllm.v1.metrics.loggers import StatLoggerBase  # noqa: E402

gc.freeze()
gc.enable()

log = logger("engines")


class OneProcessEngine(VLLMEngine):  # type: ignore[misc]
    """VLLMEngine whose single CPU worker lives in the engine-core process.

    Ray asks for vLLM's multi-process executor on every CPU: a third process with its own import of
    vLLM. Its reason is that OpenMP's variables must be set before the worker starts; here they are
    set while the engine core is spawned.
    """

    def _start_async_llm_engine(self, arguments: Any, config: Any, placement_group: Any) -> Any:
        config.parallel_config.distributed_executor_backend = "uni"
        with OMPProcessManager(config).configure_omp_envs(0, 0):
            return super()._start_async_llm_engine(arguments, config, placement_group)


class Progress(StatLoggerBase):  # type: ignore[misc]
    """What the scheduler last told: requests that it generates for, and its KV cache."""

    def __init__(self) -> None:
        self.told = State()

    def record(self, scheduler_stats: Any, iteration_stats: Any, **_: Any) -> None:
        """Called by vLLM after every step."""
        if scheduler_stats is not None:
            self.told = State(scheduler_stats.num_running_reqs, scheduler_stats.kv_cache_usage)

    def log_engine_initialized(self) -> None:
        """Nothing to say then."""

    @classmethod
    def of(cls, engine: VLLMEngine) -> "Progress":
        """One that listens to a started engine."""
        made = cls()
        engine._engine_client.logger_manager.stat_loggers.append(made)
        return made


class SkipDownload(CallbackBase):  # type: ignore[misc]
    """Leaves out Ray's download task when the weights are a local folder: the task imports all of
    vLLM once more to find that there is nothing to fetch."""

    async def on_before_node_init(self) -> None:
        source = self.llm_config.model_loading_config.model_source
        if isinstance(source, str) and Path(source).is_dir():
            self.ctx.run_init_node = False


class EngineServer(LLMServer):  # type: ignore[misc]
    """One replica of one model. Ready once the engine is loaded and its address is known."""

    # Serve awaits a constructor that is a coroutine.
    async def __init__(  # type: ignore[misc]
        self,
        llm_config: LLMConfig,
        *,
        model: ModelSection,
        wiring: Wiring,
    ) -> None:
        engine_cls = OneProcessEngine if _fits_one_process(model) else None
        await super().__init__(llm_config, engine_cls=engine_cls)
        app = await self.engine.build_asgi_app()
        progress = Progress.of(self.engine)
        find = functools.partial(find_directory, wiring.directory)
        self._presence = Presence(app, wiring.secret, find, wiring.drain_s)
        host = _node_address() if wiring.host == NODE else wiring.host
        url = await self._presence.open(host)
        await _warmed_up(url, model.id, wiring.secret)
        replica = Replica(_own_id(), model.id, url, application=application_name(model))
        await self._presence.announce(replica, lambda: progress.told)
        log.info("engine %s answers at %s", model.id, url)

    async def __del__(self) -> None:
        """Called by Serve to end the replica."""
        await self._presence.leave()
        await super().__del__()


def engine_application(model: ModelSection, wiring: Wiring) -> ray_serve.Application:
    """The model as a Serve application without a route."""
    return build_llm_deployment(
        llm_config(model),
        deployment_cls=EngineServer,
        bind_kwargs={"model": model, "wiring": wiring},
        override_serve_options=deployment_options(model, wiring.drain_s),
    )


def llm_config(model: ModelSection) -> LLMConfig:
    """The model as Ray's LLMConfig."""
    values: dict[str, Any] = {
        "model_loading_config": {
            "model_id": model.id, "model_source": resolve_source(model.source),
        },
        "engine_kwargs": engine_arguments(model),
        "runtime_env": {"env_vars": environment(model)},
        "log_engine_metrics": model.device == "gpu",
        "experimental_configs": {"stream_batching_interval_ms": 0},
        "callback_config": {"callback_class": SkipDownload},
        "placement_group_config": {"bundles": worker_bundles(model)},
    }  # fmt: skip
    if model.device == "cpu":
        values["accelerator_config"] = {"kind": "cpu"}
    elif model.accelerator_type:
        values["accelerator_type"] = model.accelerator_type
    return LLMConfig(**values)


async def _warmed_up(url: str, model: str, secret: str) -> None:
    """Have the engine generate a few tokens of JSON, so that the first client does not pay for what
    is loaded on first use. Raises Unavailable when it cannot."""
    payload = {
        "model": model,
        "messages": [{"role": "user", "content": "ready?"}],
        "max_tokens": 4,
        "response_format": {"type": "json_object"},
    }
    headers = {"authorization": f"Bearer {secret}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(url + "/v1/chat/completions", json=payload) as response,
    ):
        if response.status != 200:
            raise Unavailable(f"model {model}", f"its first answer had status {response.status}")


def _fits_one_process(model: ModelSection) -> bool:
    return model.device == "cpu" and model.tensor_parallel == 1


def _node_address() -> str:
    return str(ray.util.get_node_ip_address())


def _own_id() -> str:
    return str(ray_serve.get_replica_context().replica_id.unique_id)
