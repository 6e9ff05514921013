import asyncio
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import DataError, InvalidInput
from memory import minilm
from memory.embed import DIMENSION, MiniLM, main
from memory.recent import batches

# the first components that torch and transformers compute from the same weights
PUBLISHED = (-0.0353523, -0.0421367, -0.0027571, 0.0319369)


@pytest.fixture(scope="module")
def encoder() -> MiniLM:
    return MiniLM()


def test_vectors_have_length_one_and_come_in_the_order_of_the_texts(encoder: MiniLM) -> None:
    texts = ["where is my parcel", "a much longer question about a broken lamp " * 9, "hi"]
    together = encoder.encode(texts)
    assert together.shape == (3, DIMENSION)
    assert together.dtype == np.float32
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for text, row in zip(texts, together, strict=True):
        alone = MiniLM(cached=0).encode([text])[0]
        assert np.abs(alone - row).max() < 1e-5


def test_near_meanings_are_nearer_than_far_ones(encoder: MiniLM) -> None:
    a, b, c = encoder.encode(
        ["Where is my order?", "When does my parcel arrive?", "The recipe needs two eggs."]
    )
    assert a @ b > a @ c + 0.3


def test_a_known_text_has_the_published_vector(encoder: MiniLM) -> None:
    vector = encoder.encode(["I am still waiting on my card?"])[0]
    assert np.allclose(vector[:4], PUBLISHED, atol=1e-5)


def test_a_repeated_text_is_answered_from_the_cache(
    encoder: MiniLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encoder.encode(["said twice"])
    computed: list[str] = []

    def compute(texts: list[str]) -> list[object]:
        computed.extend(texts)
        return []

    monkeypatch.setattr(encoder, "_compute", compute)
    assert np.array_equal(first, encoder.encode(["said twice"]))
    assert encoder.encode(["said twice", "said twice"]).shape == (2, DIMENSION)
    assert computed == []


def test_the_cache_keeps_no_more_than_it_may() -> None:
    small = MiniLM(cached=2)
    small.encode(["one", "two", "three", "four"])
    known, missing = small._recent.missing(["one", "two", "three", "four"])
    assert (len(known), sorted(missing.values())) == (2, ["one", "two"])


@pytest.mark.parametrize("text", ["", " \n\t"])
async def test_a_text_without_content_is_refused_by_name(encoder: MiniLM, text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await encoder.embed(["fine", text])
    assert caught.value.field == "input[1]"


def test_no_texts_give_no_rows(encoder: MiniLM) -> None:
    assert encoder.encode([]).shape == (0, DIMENSION)


def test_any_unicode_is_embedded(encoder: MiniLM) -> None:
    vectors = encoder.encode(["\ud800 lone surrogate", "日本語のテキスト", "\u200d\u0301 emoji 🪔"])
    assert np.isfinite(vectors).all()


def test_text_beyond_256_tokens_is_cut(encoder: MiniLM) -> None:
    cut, longer = encoder.encode(["lamp " * 300, "lamp " * 600])
    assert np.allclose(cut, longer, atol=1e-6)


async def test_embedding_leaves_the_event_loop_free(encoder: MiniLM) -> None:
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.005)
            beats += 1

    heart = asyncio.create_task(beat())
    await encoder.embed([f"text {n} " + "some words of it " * 20 for n in range(24)])
    heart.cancel()
    assert beats >= 3


def test_batches_keep_both_limits_and_lose_nothing() -> None:
    lengths = [256, 3, 100, *[9] * 70, 256, 256, 200, 256, 256, 256, 256, 256, 256]
    made = list(batches(lengths, 32, 2048))
    assert sorted(i for batch in made for i in batch) == list(range(len(lengths)))
    for batch in made:
        assert len(batch) <= 32
        assert len(batch) * max(lengths[i] for i in batch) <= 2048


def test_a_broken_network_file_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "minilm.onnx"
    path.write_bytes(b"not a network")
    assert MiniLM(path).encode(["works"]).shape == (1, DIMENSION)
    assert [p.name for p in tmp_path.iterdir()] == ["minilm.onnx"]


def test_weights_of_another_hash_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(DataError, match="SHA-256"):
        minilm.read_weights(path)


def test_the_command_writes_the_network_where_it_is_told(tmp_path: Path) -> None:
    assert main(["--build", "--out", str(tmp_path / "a" / "net.onnx")]) == 0
    assert (tmp_path / "a" / "net.onnx").stat().st_size > 80_000_000
