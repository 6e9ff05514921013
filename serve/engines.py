"""One model on vLLM as a Serve application: how it is configured and deployed.

The replica itself is in `engine_server.py`, which imports vLLM. Nothing here does: the driver, the
controller and the gateway never pay the seconds and the memory of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cluster.settings import ModelSection
from serve.catalog import resolve_source

NODE: Final = "node"
HEALTH_PERIOD_S: Final = 5.0
_CPUS_OF_A_REPLICA: Final = 0.5
_CPU_BATCH_TOKENS: Final = 2048
_AFTER_DRAINING_S: Final = 10.0  # to end the engine's own processes


@dataclass(frozen=True)
class Wiring:
    """What engines need of the stack around them: the directory they register with, the secret
    that gateways show, the address they bind (loopback, or NODE for the node's own when gateways
    run on other nodes), and for how long an ending engine lets its requests end, seconds."""

    directory: str
    secret: str = field(repr=False)
    host: str = "127.0.0.1"
    drain_s: float = 120.0


def deploy_engines(models: Sequence[ModelSection], wiring: Wiring) -> Any:
    """Have every model built by `ray.serve.llm` and deployed, each as an application of its own
    without a route; the reference of a task that ends when Serve has taken them.

    It is a task, in a process that ends with it, because `ray.serve.llm` imports all of vLLM, and
    that runs beside the start of everything else.
    """
    import ray  # not before its environment is prepared, and not where nothing is deployed

    task = ray.remote(num_cpus=0, max_calls=1, max_retries=0)(_deploy)
    return task.remote(tuple(models), wiring)


def application_name(model: ModelSection) -> str:
    """The Serve application, and its deployment, of a model and its checkpoint: two checkpoints
    of one model can serve side by side while one takes over from the other."""
    checkpoint = model.source.rstrip("/").replace(":", "/").rsplit("/", 1)[-1]
    return f"{application_prefix(model.id)}{checkpoint}"


def application_prefix(model: str) -> str:
    """How the names of all applications of a model begin, and no others."""
    return f"engine-{model}@"


def failure(application: Any) -> str:
    """Why a Serve application did not start, or "": the most telling message, which is its
    deployments' own."""
    if application.status not in {"DEPLOY_FAILED", "UNHEALTHY"}:
        return ""
    messages = [d.message for d in application.deployments.values() if d.message]
    return " ".join((messages or [application.message])[0].split())[-600:]


def _deploy(models: tuple[ModelSection, ...], wiring: Wiring) -> None:
    from ray import serve as ray_serve

    from serve.engine_server import engine_application

    targets = [
        ray_serve.RunTarget(
            engine_application(model, wiring),
            name=application_name(model),
            route_prefix=None,
        )
        for model in models
    ]
    ray_serve.run_many(targets, wait_for_applications_running=False)


def deployment_options(model: ModelSection, drain_s: float) -> dict[str, Any]:
    """Where and how often Serve runs the model, each replica in its placement group."""
    bundles = worker_bundles(model)
    if model.device == "gpu":
        bundles = [{"CPU": _CPUS_OF_A_REPLICA, **bundles[0]}, *bundles[1:]]
    return {
        "name": application_name(model),
        **_replicas(model),
        # The requests come over HTTP; these bound the few calls that Serve itself makes.
        "max_ongoing_requests": model.max_ongoing_requests,
        "max_queued_requests": model.max_queued_requests,
        "placement_group_bundles": bundles,
        "placement_group_strategy": "PACK",
        "health_check_period_s": HEALTH_PERIOD_S,
        "graceful_shutdown_timeout_s": drain_s + _AFTER_DRAINING_S,
        "ray_actor_options": {
            "num_cpus": _CPUS_OF_A_REPLICA,
            "runtime_env": {"env_vars": environment(model)},
        },
    }


def _replicas(model: ModelSection) -> dict[str, Any]:
    """A fixed number, or as many as the scaler says. Serve adds no delay of its own: the scaler has
    waited already."""
    if not model.replicas.elastic:
        return {"num_replicas": model.replicas.max}
    of = {"application": application_name(model), "model": model.id}
    return {
        "autoscaling_config": {
            "min_replicas": model.replicas.min,
            "initial_replicas": model.replicas.first,
            "max_replicas": model.replicas.max,
            "upscale_delay_s": 0.0,
            "downscale_delay_s": 0.0,
            "downscale_to_zero_delay_s": 0.0,
            "policy": {"policy_function": "serve.scaling:Wanted", "policy_kwargs": of},
        }
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
        "scheduling_policy": "priority",
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
        # vLLM 0.29 on a CPU ends with "CPU Generator does not use offset" when the prompt of a
        # request with a seed and a temperature is read in two parts: one client ends the engine
        # for all. Prompts are read whole instead.
        arguments |= {
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(_CPU_BATCH_TOKENS, model.max_model_len),
        }
    return arguments | model.engine
