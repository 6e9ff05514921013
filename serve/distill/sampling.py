"""What a checkpoint answers when vLLM serves it, many prompts at once.

The engine runs in a process of its own: vLLM reads its environment when it is imported, and takes
its cores and memory for as long as it lives. Its arguments are those of a CPU engine of a profile
(`serve.engines`); greedy decoding, the checkpoint's chat template, and no grammar.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from cluster.errors import DataError, DeadlineExceeded, InvalidInput, Unavailable
from cluster.settings import ModelSection
from serve.engines import engine_arguments, environment

LIMIT_S: Final = 1800.0
MAX_TOKENS: Final = 256
_LONGEST: Final = 1024  # tokens of prompt and answer, as in the local profile
_SHOWN: Final = 600
_EXCEPTION = re.compile(
    r"^(?:\[rank\d+\]: )?([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)\b)", re.MULTILINE
)


@dataclass(frozen=True)
class Prompt:
    """A chat to be answered: messages, and the tools that are offered with it, as OpenAI's."""

    messages: Sequence[dict[str, str]]
    tools: Sequence[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Sampled:
    """Answers in the order of the prompts. `texts` holds "" for a prompt that is too long for the
    model, and `refused` counts these; `tokens` are those written, in `seconds` of wall clock."""

    texts: list[str]
    tokens: int
    seconds: float
    refused: int

    @property
    def tokens_per_s(self) -> float:
        """Tokens written a second, reading of the prompts included."""
        return self.tokens / self.seconds if self.seconds else 0.0


def answers(
    checkpoint: Path,
    prompts: Sequence[Prompt],
    *,
    max_tokens: int = MAX_TOKENS,
    core: str = "0",
    batch: int = 32,
    whole: bool = False,
    limit_s: float = LIMIT_S,
) -> Sampled:
    """What the checkpoint writes for `prompts`, `batch` at a time on `core`.

    `whole` has every answer be `max_tokens` long, whatever the model says, so that the speed of two
    models is that of the same work. Raises DataError for a folder that holds no checkpoint,
    DeadlineExceeded after `limit_s` seconds, Unavailable with the engine's last words when it dies.
    """
    if not prompts:
        raise InvalidInput("prompts", [], "at least one")
    model = ModelSection(
        id="sampled", source=str(checkpoint), tier="routine", usd_per_mtok_in=0,
        usd_per_mtok_out=0, max_model_len=_longest(checkpoint), max_num_seqs=batch, cpu_cores=core,
    )  # fmt: skip
    order = {
        "arguments": {"model": model.source, **engine_arguments(model)},
        "prompts": [asdict(p) for p in prompts],
        "max_tokens": max_tokens,
        "whole": whole,
    }
    variables = {**environment(model), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    return _in_child(order, variables, limit_s)


def _longest(checkpoint: Path) -> int:
    path = checkpoint / "config.json"
    try:
        positions = json.loads(path.read_text(encoding="utf-8"))["max_position_embeddings"]
    except OSError as error:
        raise DataError(str(path), error.strerror or "can't be read") from None
    except (ValueError, KeyError, TypeError):
        raise DataError(str(path), "is not the config of a language model") from None
    return min(_LONGEST, int(positions))


def _in_child(order: dict[str, Any], variables: dict[str, str], limit_s: float) -> Sampled:
    with tempfile.TemporaryDirectory(prefix="sampling-") as folder:
        asked, answered = Path(folder) / "asked.json", Path(folder) / "answered.json"
        asked.write_text(json.dumps(order), encoding="utf-8")
        # Not on a pipe: what an engine prints goes on standard output too.
        command = [sys.executable, "-m", "serve.distill.sampling", str(asked), str(answered)]
        try:
            done = subprocess.run(
                command, env={**_inherited(), **variables}, timeout=limit_s, check=False,
                capture_output=True, text=True, errors="replace",
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise DeadlineExceeded(f"answers of {order['arguments']['model']}", limit_s) from None
        if done.returncode != 0 or not answered.is_file():
            reason = _last_words(done.stderr) or f"ended with status {done.returncode}"
            raise Unavailable(f"the engine of {order['arguments']['model']}", reason)
        return Sampled(**json.loads(answered.read_text(encoding="utf-8")))


def _last_words(stderr: str) -> str:
    """The exception that ended the child, without its traceback, or the end of what it said."""
    starts = [m.start(1) for m in _EXCEPTION.finditer(stderr)]
    return (stderr[starts[-1] :] if starts else stderr[-_SHOWN:]).strip()[:_SHOWN]


def _inherited() -> dict[str, str]:
    # Started from within a Ray worker, the engine must not take part in that worker's job.
    return {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}


def _serve(order: dict[str, Any]) -> Sampled:
    """In the child: build the engine and have it answer."""
    from vllm import LLM, EngineArgs, SamplingParams

    from serve.distill.tokenizer import encode_prompt

    known = {f.name for f in fields(EngineArgs)}
    # The rest is for the HTTP server in front of the engine.
    arguments = {k: v for k, v in order["arguments"].items() if k in known}
    engine = LLM(**arguments)
    tokenizer = engine.get_tokenizer()
    prompts = [encode_prompt(tokenizer, **p) for p in order["prompts"]]
    fitting = [i for i, p in enumerate(prompts) if len(p) < arguments["max_model_len"]]
    parameters = SamplingParams(
        temperature=0, max_tokens=order["max_tokens"], ignore_eos=order["whole"]
    )
    first = {"prompt_token_ids": prompts[0][:8]}
    engine.generate([first], SamplingParams(temperature=0, max_tokens=4), use_tqdm=False)
    began = time.monotonic()
    made = engine.generate(
        [{"prompt_token_ids": prompts[i]} for i in fitting], parameters, use_tqdm=False
    )
    seconds = time.monotonic() - began
    texts = [""] * len(prompts)
    for index, output in zip(fitting, made, strict=True):
        texts[index] = output.outputs[0].text
    tokens = sum(len(output.outputs[0].token_ids) for output in made)
    return Sampled(texts, tokens, seconds, len(prompts) - len(fitting))


def main() -> None:
    """`python -m serve.distill.sampling ASKED ANSWERED`: the child's side of `answers`."""
    asked, answered = map(Path, sys.argv[1:])
    sampled = _serve(json.loads(asked.read_text(encoding="utf-8")))
    answered.write_text(json.dumps(asdict(sampled)), encoding="utf-8")


if __name__ == "__main__":
    main()
