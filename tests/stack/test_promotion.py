"""Promotions that are refused or that fail leave the old engine serving; what clients under load
see of a promotion (test_distillation.py has one that succeeds)."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.candidates import candidate, evaluated, shard
from tests.stack.conftest import Demo

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1800)]

CLIENTS = 4
# Clients breathe between two questions: the engine that is being started has only their cores.
PAUSE_S = 0.25
QUESTION: Any = [{"role": "user", "content": "What can you do?"}]


@dataclass
class Load:
    """What clients saw: answers in order, and errors."""

    answers: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def ask(self, client: openai.OpenAI, stream: bool) -> None:
        while not self.stopped.wait(PAUSE_S):
            try:
                self.answers.append(answer(client, stream))
            except Exception as error:  # whatever a client sees counts
                self.errors.append(repr(error))

    def wait_for(self, count: int) -> None:
        """Until so many more answers or errors have come."""
        goal = len(self.answers) + len(self.errors) + count
        while len(self.answers) + len(self.errors) < goal:
            time.sleep(0.05)


@contextmanager
def load(demo: Demo) -> Iterator[Load]:
    """Constant load from CLIENTS clients without retries, half of them streaming."""
    load = Load()
    client = openai.OpenAI(base_url=f"{demo.url}/v1", api_key="none", timeout=120, max_retries=0)
    threads = [
        threading.Thread(target=load.ask, args=(client, number % 2 == 0))
        for number in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    try:
        load.wait_for(CLIENTS)
        yield load
        load.wait_for(2 * CLIENTS)
    finally:
        load.stopped.set()
        for thread in threads:
            thread.join()
        client.close()


def answer(client: openai.OpenAI, stream: bool = False) -> str:
    """What the routine model says at temperature 0; an unfinished answer is an error."""
    fixed: Any = {"model": "routine", "messages": QUESTION, "max_tokens": 48, "temperature": 0}
    if not stream:
        choice = client.chat.completions.create(**fixed).choices[0]
        assert choice.finish_reason in {"stop", "length"}
        return choice.message.content or ""
    chunks = [c for c in client.chat.completions.create(**fixed, stream=True) if c.choices]
    assert chunks[-1].choices[0].finish_reason in {"stop", "length"}
    return "".join(c.choices[0].delta.content or "" for c in chunks)


def history(demo: Demo) -> list[str]:
    path = demo.home / "checkpoints" / "routine" / "history.json"
    entries = json.loads(path.read_text("utf-8")) if path.exists() else []
    return [entry["action"] for entry in entries]


def test_a_refused_candidate_leaves_the_old_one_serving(
    demo: Demo, client: openai.OpenAI, tmp_path: Path
) -> None:
    before, changes = answer(client), history(demo)
    corrupt = evaluated(candidate(tmp_path / "corrupt", 2.0))
    shard(corrupt).write_bytes(shard(corrupt).read_bytes()[:5000])
    worse = evaluated(candidate(tmp_path / "worse", 3.0), better_by=-0.2)
    for folder, named in ((corrupt, shard(corrupt).name), (worse, "worse")):
        done = demo.mainspring("distill", "promote", str(folder), "--model", "routine")
        assert done.returncode == 1
        assert named in done.stderr and "Traceback" not in done.stderr
    assert answer(client) == before and history(demo) == changes


def test_an_engine_that_does_not_come_up_leaves_the_old_one_serving(
    demo: Demo, client: openai.OpenAI, tmp_path: Path
) -> None:
    """A checkpoint that passes every check and that vLLM refuses all the same."""
    folder = candidate(tmp_path / "refused", 4.0)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["quantization_config"] = {"quant_method": "of no kind"}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    before, changes = answer(client), history(demo)
    with load(demo) as seen:
        done = demo.mainspring("distill", "promote", str(evaluated(folder)), "--model", "routine")
    assert done.returncode == 1
    assert "did not come up" in done.stderr, done.stderr
    assert seen.errors == [] and set(seen.answers) == {before}
    assert answer(client) == before and history(demo) == changes
