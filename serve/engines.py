"""One model on vLLM: a Serve replica that places and watches the engine, and answers HTTP itself.

Tokens do not travel through Ray: the replica serves vLLM's own OpenAI app on a port of its own,
behind a secret that only the gateways know, and enters that address into the directory.

Everything taken from `ray.llm._internal` and from vLLM is imported here, inside functions that run
in the replica: the driver, the controller and the gateway never pay the seconds and the memory of
`import vllm`. What is private and why: `VLLMEngine` and `CallbackBase`, because on a CPU the public
path starts one more process for each engine and one task that only repeats the imports.
"""

import asyncio
import contextlib
import gc
import hmac
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, Final

import aiohttp
import uvicorn
from ray import serve as ray_serve

from cluster.errors import Unavailable
from cluster.settings import ModelSection
from cluster.telemetry import logger
from serve.catalog import resolve_source
from serve.directory import RENEW_S, Replica, find_directory

log = logger("engines")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

NODE: Final = "node"
HEALTH_PERIOD_S: Final = 5.0
_CPUS_OF_A_REPLICA: Final = 0.5


class Guarded:
    """Lets in who brings the secret as a bearer token, and counts the requests in work."""

    def __init__(self, app: App, secret: str) -> None:
        self._app = app
        self._expected = f"Bearer {secret}".encode()
        self.in_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        sent = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(sent, self._expected):
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        self.in_work += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self.in_work -= 1


class Listener(uvicorn.Server):
    """uvicorn inside somebody else's event loop: Ray keeps the process's signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class EngineServer:
    """One replica of one model. Ready once the engine is loaded and its address is known."""

    # Serve awaits a constructor that is a coroutine.
    async def __init__(  # type: ignore[misc]
        self, model: ModelSection, directory: str, secret: str, host: str
    ) -> None:
        self._model, self._directory = model, directory
        self._server = await _started_llm_server(model)
        self._guard = Guarded(await self._server.engine.build_asgi_app(), secret)
        self._tasks = set[asyncio.Task[None]]()
        url = await self._listen(host)
        self._replica = Replica(id=_own_id(), model=model.id, url=url)
        await _warmed_up(url, model.id, secret)
        await self._register()
        self._spawn(self._keep_lease())
        log.info("engine %s answers at %s", model.id, url)

    async def check_health(self) -> None:
        """Called by Serve; raises when the engine is dead, which restarts the replica."""
        await self._server.check_health()

    async def __del__(self) -> None:
        """Called by Serve once the replica has drained."""
        for task in self._tasks:
            task.cancel()
        await find_directory(self._directory).withdraw.remote(self._replica.id)
        self._listener.should_exit = True
        await self._server.engine.shutdown()

    async def _listen(self, host: str) -> str:
        if host == NODE:
            host = _node_address()
        sock = socket.create_server((host, 0))
        config = uvicorn.Config(
            self._guard, loop="none", lifespan="off", access_log=False, log_level="warning",
            timeout_keep_alive=75,
        )  # fmt: skip
        self._listener = Listener(config)
        self._spawn(self._listener.serve(sockets=[sock]))
        while not self._listener.started:
            await asyncio.sleep(0.01)
        return f"http://{host}:{sock.getsockname()[1]}"

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _register(self) -> None:
        await find_directory(self._directory).register.remote(self._replica)

    async def _keep_lease(self) -> None:
        from ray.exceptions import RayError

        while True:
            await asyncio.sleep(RENEW_S)
            running = min(self._guard.in_work, self._model.max_num_seqs)
            waiting = self._guard.in_work - running
            try:
                actor = find_directory(self._directory)
                if not await actor.renew.remote(self._replica.id, running, waiting):
                    await self._register()
            except (RayError, ValueError) as error:
                # The directory is restarting: the next round finds it and registers again.
                log.warning("lease of %s not renewed: %s", self._model.id, error)


def engine_application(
    model: ModelSection, *, directory: str, secret: str, host: str = "127.0.0.1"
) -> ray_serve.Application:
    """The model as a Serve application without a route.

    `host` is the address that the replica binds: loopback, or `node` for the node's own address
    when gateways run on other nodes.
    """
    deployment = ray_serve.deployment(EngineServer, **deployment_options(model))
    return deployment.bind(model, directory, secret, host)


def deployment_options(model: ModelSection) -> dict[str, Any]:
    """Where and how often Serve runs the model: fixed replicas, each in its placement group."""
    bundles = worker_bundles(model)
    if model.device == "gpu":
        bundles = [{"CPU": _CPUS_OF_A_REPLICA, **bundles[0]}, *bundles[1:]]
    return {
        "name": f"engine-{model.id}",
        "num_replicas": model.replicas,
        # The requests come over HTTP; these bound the few calls that Serve itself makes.
        "max_ongoing_requests": model.max_ongoing_requests,
        "max_queued_requests": model.max_queued_requests,
        "placement_group_bundles": bundles,
        "placement_group_strategy": "PACK",
        "health_check_period_s": HEALTH_PERIOD_S,
        "graceful_shutdown_timeout_s": 10.0,
        "ray_actor_options": {
            "num_cpus": _CPUS_OF_A_REPLICA,
            "runtime_env": {"env_vars": environment(model)},
        },
    }


def worker_bundles(model: ModelSection) -> list[dict[str, float]]:
    """What each of the engine's workers needs. A model that sets vLLM's `gpu_memory_utilization`
    shares its GPU with others: it is placed with just that share of one."""
    if model.device == "cpu":
        return [{"CPU": _CPUS_OF_A_REPLICA}]
    worker = {"GPU": float(model.engine.get("gpu_memory_utilization", 1.0))}
    if model.accelerator_type:
        worker[f"accelerator_type:{model.accelerator_type}"] = 0.001
    return [dict(worker) for _ in range(model.tensor_parallel)]


def environment(model: ModelSection) -> dict[str, str]:
    """The variables of the engine's processes. A CPU engine without cores of its own is unbound:
    vLLM's `auto` puts every engine of a machine on the same core, and they spin."""
    if model.device == "gpu":
        return {"VLLM_USE_RAY_V2_EXECUTOR_BACKEND": "1"}
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(model.kv_cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": model.cpu_cores or "nobind",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1" if Path(resolve_source(model.source)).is_dir() else "0",
        "TOKENIZERS_PARALLELISM": "false",
    }


def engine_arguments(model: ModelSection) -> dict[str, Any]:
    """vLLM's arguments, the frontend's among them. What the profile's `engine` names wins."""
    arguments: dict[str, Any] = {
        "max_model_len": model.max_model_len,
        "max_num_seqs": model.max_num_seqs,
        "tensor_parallel_size": model.tensor_parallel,
        "enable_prefix_caching": True,
        "enable_auto_tool_choice": True,
        "tool_call_parser": model.tool_call_parser,
        # Without this an untrained or unlucky model fills its JSON with spaces up to max_tokens.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
    }
    if model.reasoning_parser:
        arguments["reasoning_parser"] = model.reasoning_parser
    if model.chat_template_kwargs:
        arguments["default_chat_template_kwargs"] = dict(model.chat_template_kwargs)
    if model.device == "cpu":
        # Compiling a model of a few million parameters costs more seconds than it ever saves.
        arguments |= {"dtype": "float32", "enforce_eager": True}
    return arguments | model.engine


def llm_config(model: ModelSection) -> Any:
    """The model as Ray's LLMConfig; imports vLLM, so call it in the replica only."""
    from ray.serve.llm import LLMConfig

    values: dict[str, Any] = {
        "model_loading_config": {
            "model_id": model.id, "model_source": resolve_source(model.source),
        },
        "engine_kwargs": engine_arguments(model),
        "runtime_env": {"env_vars": environment(model)},
        "log_engine_metrics": model.device == "gpu",
        "experimental_configs": {"stream_batching_interval_ms": 0},
        "callback_config": {"callback_class": _skip_download_of_folders()},
        "placement_group_config": {"bundles": worker_bundles(model)},
    }  # fmt: skip
    if model.device == "cpu":
        values["accelerator_config"] = {"kind": "cpu"}
    elif model.accelerator_type:
        values["accelerator_type"] = model.accelerator_type
    return LLMConfig(**values)


async def _started_llm_server(model: ModelSection) -> Any:
    gc.disable()  # ten thousand modules are imported now; collecting meanwhile costs a fifth more
    try:
        return await _import_and_start(model)
    finally:
        gc.freeze()
        gc.enable()


async def _import_and_start(model: ModelSection) -> Any:
    from ray.serve.llm.deployment import LLMServer

    engine_cls = _one_process_engine() if _fits_one_process(model) else None
    server = LLMServer.sync_init(llm_config(model), engine_cls=engine_cls)
    await server.start()
    return server


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


def _one_process_engine() -> Any:
    """VLLMEngine whose single CPU worker lives in the engine-core process.

    Ray asks for vLLM's multi-process executor on every CPU: a third process with its own import of
    vLLM. Its reason is that OpenMP's variables must be set before the worker starts; here they are
    set while the engine core is spawned.
    """
    from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
    from vllm.utils.ompmultiprocessing import OMPProcessManager

    class OneProcessEngine(VLLMEngine):  # type: ignore[misc]
        def _start_async_llm_engine(self, arguments: Any, config: Any, placement_group: Any) -> Any:
            config.parallel_config.distributed_executor_backend = "uni"
            with OMPProcessManager(config).configure_omp_envs(0, 0):
                return super()._start_async_llm_engine(arguments, config, placement_group)

    return OneProcessEngine


def _skip_download_of_folders() -> Any:
    """A callback that leaves out Ray's download task when the weights are a local folder: the task
    imports all of vLLM once more to find that there is nothing to fetch."""
    from ray.llm._internal.common.callbacks.base import CallbackBase

    class SkipDownload(CallbackBase):  # type: ignore[misc]
        async def on_before_node_init(self) -> None:
            source = self.llm_config.model_loading_config.model_source
            if isinstance(source, str) and Path(source).is_dir():
                self.ctx.run_init_node = False

    return SkipDownload


def _node_address() -> str:
    import ray

    return str(ray.util.get_node_ip_address())


def _own_id() -> str:
    return str(ray_serve.get_replica_context().replica_id.unique_id)
