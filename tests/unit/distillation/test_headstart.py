"""The head start: an untrained routine model copies what it has been shown."""

from random import Random

import pytest
import torch

from serve.distill.drills import copy_drill
from serve.distill.shapes import SHAPES, grown, new_model, parameters
from serve.distill.tokenizer import build_tokenizer


@pytest.mark.parametrize("name", ["planner", "routine"])
def test_a_fresh_model_copies_most_tokens_of_random_lines(name: str) -> None:
    tokenizer = build_tokenizer(1, count=200)
    model = new_model(name, tokenizer, seed=3)
    rng = Random(1)
    right = asked = 0
    for _ in range(10):
        prompt, answer = copy_drill(rng, tokenizer)
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        right += int((logits.argmax(-1) == torch.tensor(answer)).sum())
        asked += len(answer)
    assert right > 0.8 * asked


def test_a_grown_model_writes_what_it_wrote_before_and_is_as_large_as_it_ships() -> None:
    tokenizer = build_tokenizer(1, count=200)
    young = new_model("planner", tokenizer, seed=1)
    grown_up = grown(young, SHAPES["planner"].layers)
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(grown_up(tokens).logits, young(tokens).logits)
    assert parameters(young) < 4_100_000 < parameters(grown_up) < 7_500_000
    assert parameters(new_model("routine", tokenizer, seed=1)) < 2_200_000
