"""Ray Data's own vLLM processor over the same rows, for `make bench-batch`: an engine of its own,
free of everything else. In a process of its own, since Ray reads its environment when imported.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from cluster.environment import prepare
from cluster.ids import SystemIds
from cluster.settings import load
from serve.catalog import resolve_source
from serve.engines import engine_arguments, environment

_FRONTEND: Final = frozenset({"enable_auto_tool_choice", "tool_call_parser", "reasoning_parser",
                              "default_chat_template_kwargs"})  # fmt: skip
_LIMIT_S: Final = 900.0


def rows_per_s(model: str, bodies: list[dict[str, Any]], folder: Path) -> float:
    """Rows a second of the local profile's `model` under the processor, its start left out.

    Raises RuntimeError with what the process said when it fails."""
    (folder / "bodies.json").write_text(json.dumps(bodies), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.batch_ray", model, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S)
    if done.returncode:
        raise RuntimeError(f"Ray Data's processor failed: {done.stderr[-3000:]}")
    return float(done.stdout.splitlines()[-1])


def _measured(model: str, folder: Path) -> float:
    """From the end of the first block to the end of the last, so that the start is left out."""
    with tempfile.TemporaryDirectory(prefix="rd-", ignore_cleanup_errors=True) as made:
        prepare(Path(made), SystemIds().new("stack"), {})
        import ray
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig

        from cluster.session import start

        (section,) = (m for m in load("local").models if m.id == model)
        start(load("local").ray)
        arguments = engine_arguments(section)
        config = vLLMEngineProcessorConfig(
            model_source=resolve_source(section.source),
            engine_kwargs={k: v for k, v in arguments.items() if k not in _FRONTEND},
            runtime_env={"env_vars": environment(section)},
            placement_group_config={"bundles": [{"CPU": 0.5}]},
            batch_size=section.max_num_seqs, concurrency=1,
        )  # fmt: skip
        processor = build_processor(config, preprocess=_asked, postprocess=_answered)
        bodies = json.loads((folder / "bodies.json").read_text())
        rows = processor(ray.data.from_items(bodies)).iter_rows()
        ended = [float(row["at"]) for row in rows]
        ray.shutdown()
    first, last = min(ended), max(ended)
    return sum(at > first + 0.5 for at in ended) / (last - first)


def _asked(body: dict[str, Any]) -> dict[str, Any]:
    sampling = {"max_tokens": int(body["max_tokens"]), "temperature": body["temperature"]}
    return {"messages": body["messages"], "sampling_params": sampling}


def _answered(row: dict[str, Any]) -> dict[str, Any]:
    return {"text": row["generated_text"], "at": time.time()}


def main() -> None:
    """Print the rows a second on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.batch_ray")
    parser.add_argument("model")
    parser.add_argument("folder", type=Path, help="with the rows as bodies.json")
    given = parser.parse_args()
    print(_measured(given.model, given.folder))


if __name__ == "__main__":
    main()
