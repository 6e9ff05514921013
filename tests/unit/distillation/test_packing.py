"""Packing and tokens: a row holds whole chats, each blind to the others."""

import pytest
import torch

from serve.distill.corpus import Example
from serve.distill.packing import CHATWISE, IGNORED, _block_mask, batches
from serve.distill.shapes import new_model
from serve.distill.tokenizer import VOCABULARY, build_tokenizer, encode


def test_chats_stand_end_to_end_and_only_answers_are_learned() -> None:
    (batch,) = batches([([1, 2], [3, 9]), ([4], [5])], tokens=8, longest=8)
    assert batch.tokens.tolist() == [[1, 2, 3, 9, 4, 5]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 0, 1]]
    assert batch.targets.tolist() == [[IGNORED, 3, 9, IGNORED, 5, IGNORED]]
    assert batch.bounds == (0, 4, 6)


def test_a_batch_counts_the_chats_drawn_for_it_the_too_long_ones_too() -> None:
    stream = [([1] * 20, [2]), ([3], [4]), ([5] * 6, [6]), ([7], [8])]
    first, *others = batches(stream, tokens=8, longest=8)
    assert first.tokens.tolist() == [[3, 4]]
    assert [first.drawn, *(b.drawn for b in others)] == [2, 3, 4]


@pytest.mark.parametrize("name", ["planner", "routine", "tiny"])
def test_in_a_packed_row_a_chat_is_read_as_it_is_alone(name: str) -> None:
    tokenizer = build_tokenizer(1, count=200)
    model = new_model(name, tokenizer, seed=3)
    (batch,) = batches([([5, 6, 7], [8]), ([9] * 9, [10, 11]), ([12], [13])], tokens=64, longest=64)
    with torch.no_grad():
        alone = model(input_ids=batch.tokens[:, 4:15]).logits
        model.set_attn_implementation(CHATWISE)
        packed = model(
            input_ids=batch.tokens, position_ids=batch.positions, bounds=batch.bounds,
            attention_mask={"full_attention": None}, use_cache=False,
        ).logits  # fmt: skip
    torch.testing.assert_close(packed[:, 4:15], alone, atol=1e-4, rtol=1e-4)


def test_the_mask_of_a_gpu_lets_a_position_see_its_own_chat_up_to_itself() -> None:
    mask = _block_mask((0, 2, 5), torch.device("cpu"))
    assert mask[1].tolist() == [True, True, False, False, False]
    assert mask[3].tolist() == [False, False, True, True, False]


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
