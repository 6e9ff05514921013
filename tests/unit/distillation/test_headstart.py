"""The head start: an untrained routine model copies what it has been shown."""

from random import Random

import torch

from serve.distill.drills import copy_drill
from serve.distill.shapes import new_model, parameters
from serve.distill.tokenizer import build_tokenizer


def test_a_fresh_routine_model_copies_most_tokens_of_random_lines() -> None:
    tokenizer = build_tokenizer(1, count=200)
    model = new_model("routine", tokenizer, seed=3)
    rng = Random(1)
    right = asked = 0
    for _ in range(10):
        prompt, answer = copy_drill(rng, tokenizer)
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        right += int((logits.argmax(-1) == torch.tensor(answer)).sum())
        asked += len(answer)
    assert right > 0.8 * asked


def test_both_models_stay_within_their_sizes() -> None:
    tokenizer = build_tokenizer(1, count=200)
    assert parameters(new_model("planner", tokenizer, seed=1)) <= 5_000_000
    assert parameters(new_model("routine", tokenizer, seed=1)) <= 2_500_000
