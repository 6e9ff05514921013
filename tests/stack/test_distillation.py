"""From what people accepted to a small model that serves, on real parts: a model of two layers is
trained for a minute's worth of steps, evaluated, promoted and rolled back while clients ask it."""

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import openai
import pytest
import yaml

from cluster.settings import infra_path
from serve.distill.chats import read_chats
from serve.distill.train import Options, Training
from tests.stack.conftest import Demo, served
from tests.stack.test_promotion import CLIENTS, answer, history, load

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def beginner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two layers that has hardly begun to learn."""
    out = tmp_path_factory.mktemp("beginner") / "checkpoint"
    Training(Options("tiny", steps=2), out, lambda _: None).run()
    return out


@pytest.fixture(scope="module")
def small(beginner: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A stack whose models are both the beginner."""
    home = tmp_path_factory.mktemp("small")
    profile = yaml.safe_load(infra_path("profiles", "local.yaml").read_text("utf-8"))
    for model in profile["models"]:
        model["source"] = str(beginner)
    (home / "small.yaml").write_text(yaml.safe_dump(profile), "utf-8")
    own = str(home / "small.yaml")
    with served(home, "up", "--profile", own, MAINSPRING_PROFILE=own) as stack:
        yield stack


def done(demo: Demo, *words: str) -> str:
    ran = demo.mainspring(*words)
    assert ran.returncode == 0, ran.stderr + ran.stdout
    return ran.stdout


def queue_of(demo: Demo) -> Demo:
    """The demo's own data folder, where the runs of its queue are."""
    data = {"MAINSPRING_DATA_DIR": str(demo.home / "demo")}
    return replace(demo, environment={**demo.environment, **data})


def replied(demo: Demo) -> list[str]:
    """The ids of the runs that the demo's queue ended with a reply."""
    return [t["run_id"] for t in demo.report["tickets"] if t["decision"] == "replied"]


@pytest.fixture(scope="module")
def traces(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the demo's models wrote in the runs whose replies a person accepted."""
    # Each is a command of its own, which starts in some seconds: five are enough to train on.
    for run in replied(demo)[:5]:
        done(queue_of(demo), "feedback", run, "--verdict", "accepted", "--by", "a tester")
    out = tmp_path_factory.mktemp("traces") / "accepted.jsonl"
    report = json.loads(done(queue_of(demo), "distill", "export", "--out", str(out)))
    assert report["chats"] == len(read_chats(out)) > 0
    return out


def test_accepted_runs_become_chats_without_personal_data(demo: Demo, traces: Path) -> None:
    text = traces.read_text("utf-8")
    chats = read_chats(traces)
    runs = {c.provenance.run_id for c in chats if c.provenance}
    assert runs and runs <= set(replied(demo))
    assert {c.task for c in chats} == {"plan", "draft"}
    assert "@" not in text and "LO-4" not in text


def test_two_layers_trained_for_a_minute_are_promoted_and_rolled_back_under_load(
    small: Demo, beginner: Path, traces: Path, tmp_path: Path
) -> None:
    candidate = tmp_path / "candidate"
    words = ["--model", "tiny", "--steps", "120", "--from", str(traces), "--out", str(candidate)]
    told = done(small, "distill", "train", *words)
    assert "tokens/s" in told and "validation after" in told
    assert (candidate / "curves.png").stat().st_size > 0
    told = done(
        small, "distill", "evaluate", str(candidate), "--incumbent", str(beginner),
        "--model", "tiny", "--count", "60",
    )  # fmt: skip
    assert json.loads(told)["verdict"] == "better"
    with (
        openai.OpenAI(base_url=f"{small.url}/v1", api_key="none", timeout=60) as client,
        load(replace(small, report={})) as seen,
    ):
        before = answer(client)
        done(small, "distill", "promote", str(candidate), "--model", "routine")
        promoted, at = answer(client), len(seen.answers)
        seen.wait_for(3 * CLIENTS)
        done(small, "distill", "rollback", "--model", "routine")
        returned = answer(client)
    assert seen.errors == []
    assert promoted != before and returned == before
    # What was asked before the old engine left may end a little later, and nothing after that.
    assert before not in seen.answers[at + CLIENTS : at + 3 * CLIENTS]
    assert history(small) == ["promote", "rollback"]


def test_a_model_of_two_layers_is_refused_in_the_place_of_the_shipped_one(
    demo: Demo, beginner: Path
) -> None:
    refused = demo.mainspring("distill", "promote", str(beginner), "--model", "routine")
    assert refused.returncode == 1
    assert "vocabulary" in refused.stderr
    assert "Traceback" not in refused.stderr


# Last in this file: once there is a key, this stack lets nobody in without one.
def test_a_key_holds_what_it_may_and_may_spend_through_a_live_gateway(small: Demo) -> None:
    made = done(small, "keys", "create", "a shop", "--tenant", "shop", "--requests-per-minute", "3")
    key, account = made.split()[0], re.findall(r"account (\S+),", made)[0]

    def asks(path: str = "/v1/chat/completions", **headers: str) -> httpx.Response:
        said = [{"role": "user", "content": "Hello"}]
        body = {"model": "routine", "messages": said, "max_tokens": 4}
        method = "POST" if "chat" in path else "GET"
        return httpx.request(method, small.url + path, json=body, headers=headers, timeout=60)

    def code(answer: httpx.Response) -> tuple[int, str]:
        return answer.status_code, answer.json().get("error", {}).get("code", "")

    own = {"authorization": f"Bearer {key}"}
    # Each gateway believes for a second that there is no key yet.
    until(lambda: code(asks("/v1/models")) == (401, "invalid_api_key"))
    assert code(asks(authorization="Bearer ms-wrong")) == (401, "invalid_api_key")
    assert code(asks("/v1/runs", **own)) == (403, "insufficient_scope")
    assert code(asks(**own)) == (200, "")
    assert "shop" in done(small, "usage", "--by", "tenant,key", "--tenant", "shop")
    done(small, "budgets", "set", "key", account, "0.000000001", "--tenant", "shop")
    assert code(asks(**own)) == (429, "budget_exceeded")
    done(small, "budgets", "remove", "key", account, "--tenant", "shop")
    until(lambda: code(asks(**own)) == (429, "rate_limited"))
    done(small, "keys", "revoke", key.split("-")[1])
    until(lambda: code(asks(**own)) == (401, "invalid_api_key"))


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 15
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.3)
