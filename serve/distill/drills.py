"""Copying drills: lines of random tokens, to be written again line by line in another order.

A draft copies sentences and article names from its evidence. Real chats ask for that in a few
tokens each, too thinly for a small model to find out how within half an hour; a drill asks for
nothing else. No token of a drill can be guessed except from the line above it.
"""

from random import Random
from typing import Any

from serve.distill.packing import Encoded

_FIRST_PLAIN = 260


def copy_drill(rng: Random, tokenizer: Any) -> Encoded:
    """Token ids of a drill: lines keyed E1, E2, ..., then the same lines by key, reordered."""
    keys = tokenizer.convert_tokens_to_ids([f"E{i}" for i in range(1, 6)])
    top = tokenizer.convert_tokens_to_ids("<tool_call>")
    chosen = rng.sample(keys, rng.randrange(2, 5))
    lines = [
        [key, *(rng.randrange(_FIRST_PLAIN, top) for _ in range(rng.randrange(4, 30)))]
        for key in chosen
    ]
    prompt = [token for line in lines for token in line]
    rng.shuffle(lines)
    # The first line starts the answer off, so that every answer is determined by the prompt.
    answer = [token for line in lines for token in line]
    return prompt + answer[:1], answer[1:]
