"""A shipped checkpoint behind the real engine, as `make bench-reference` asks it."""

import json
import shutil
from pathlib import Path

import pytest

from agents.workflows.prompts import plan_messages
from cluster.errors import DataError, DeadlineExceeded, Unavailable
from serve.catalog import resolve_source
from serve.distill.sampling import Prompt, answers

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

PLANNER = Path(resolve_source("checkpoint:planner"))


ORDER = "Where is my order [ORDER_1]?"
PERSON = "I want to talk to a real person."


def asked(ticket: str) -> Prompt:
    """A plan's prompt, with the tools that the workflow offers for it."""
    tools = ["lookup_account()", "reply()", "escalate(reason)"]
    if "ORDER" in ticket:
        tools[1:1] = ["lookup_order(order)", "refund(order,amount)"]
    intent = "order_status" if "ORDER" in ticket else "complaint"
    return Prompt(plan_messages(ticket=ticket, intent=intent, history="", evidence=[], tools=tools))


def test_the_engine_answers_a_batch_in_the_order_of_its_prompts() -> None:
    too_long = Prompt([{"role": "user", "content": "word " * 2000}])
    prompts = [asked(ORDER), asked(PERSON), asked(ORDER), too_long]
    prompts += [asked(PERSON), asked(PERSON), asked(ORDER), asked(PERSON)]
    sampled = answers(PLANNER, prompts, max_tokens=64, batch=4)
    assert (len(sampled.texts), sampled.texts[3], sampled.refused) == (8, "", 1)
    for prompt, text in zip(prompts, sampled.texts, strict=True):
        if prompt is not too_long:
            first = json.loads(text)["steps"][0]
            ordered = "[ORDER_1]" in prompt.messages[-1]["content"]
            assert first["tool"] == ("lookup_order" if ordered else "escalate")
    assert 7 * 4 < sampled.tokens <= 7 * 64
    assert sampled.tokens_per_s > 0


def test_for_speed_every_answer_has_the_same_length() -> None:
    prompts = [asked(ORDER)] * 3
    assert answers(PLANNER, prompts, max_tokens=40, whole=True).tokens == 3 * 40


def test_a_corrupt_checkpoint_is_an_error_with_the_engine_s_words(tmp_path: Path) -> None:
    corrupt = tmp_path / "corrupt"
    shutil.copytree(PLANNER, corrupt)
    for weights in corrupt.glob("*.safetensors"):
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(Unavailable) as caught:
        answers(corrupt, [asked(ORDER)])
    assert str(corrupt) in str(caught.value)
    assert caught.value.reason.startswith("safetensors")


def test_a_folder_without_a_checkpoint_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config\.json"):
        answers(tmp_path, [asked(ORDER)])


def test_an_engine_that_takes_too_long_is_ended() -> None:
    with pytest.raises(DeadlineExceeded):
        answers(PLANNER, [asked(ORDER)], limit_s=1.0)
