"""Packing and tokens: rows hold whole chats, each blind to the others."""

import torch

from serve.distill.corpus import Example
from serve.distill.packing import IGNORED, batches
from serve.distill.tokenizer import VOCABULARY, build_tokenizer, encode


def test_a_chat_sees_itself_and_nothing_of_its_row_mates() -> None:
    (batch,) = batches([([1, 2], [3]), ([4], [5, 6]), ([7] * 6, [8])], rows=1, length=8)
    assert batch.tokens.tolist() == [[1, 2, 3, 4, 5, 6, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1, 2, 0, 0]]
    seen = batch.mask()[0, 0]
    assert seen[5].tolist() == [False, False, False, True, True, True, False, False]
    assert not seen[0, 1]


def test_only_answers_are_learned() -> None:
    stream = [([1, 2], [3, 9]), ([4], [5]), ([1] * 6, [2])]
    batch = next(batches(stream, rows=1, length=8))
    assert batch.targets.tolist() == [[IGNORED, 3, 9, IGNORED, 5, IGNORED, IGNORED, IGNORED]]


def test_a_chat_longer_than_a_row_is_left_out() -> None:
    stream = [([1] * 20, [2]), ([3], [4]), ([5] * 6, [6])]
    batch = next(batches(stream, rows=1, length=8))
    assert 1 not in batch.tokens
    assert torch.equal(batch.tokens[0, :2], torch.tensor([3, 4]))


def test_references_are_one_token_and_any_text_comes_back() -> None:
    tokenizer = build_tokenizer(1, count=200)
    assert len(tokenizer) <= VOCABULARY
    for reference in ("[ORDER_1]", "[AMOUNT_2]", "E3", "<tool_call>"):
        assert len(tokenizer(reference)["input_ids"]) == 1
    text = "Größe? ¿Dónde está [ORDER_2] (E1)! 漢字 42 [ORDER_77]\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_an_example_ends_its_turn() -> None:
    tokenizer = build_tokenizer(1, count=200)
    prompt, answer = encode(tokenizer, Example("chat", [{"role": "user", "content": "hi"}], "Hey."))
    assert tokenizer.decode(prompt) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(answer) == "Hey.<|im_end|>"
