import asyncio
import pickle
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import serve as ray_serve
from ray.exceptions import RayTaskError
from ray.serve.exceptions import BackPressureError

from cluster.errors import InvalidInput, NotFound, Overloaded
from cluster.settings import EncoderSection
from memory.embed import DIMENSION, MiniLM
from serve.encoders import DEPLOYMENT, Encoder, ServeEmbedder, encoder_deployment
from serve.intent_training import train

Many = Callable[[list[str]], Awaitable[list[Any]]]


def one_by_one(many: Many, **limits: Any) -> Callable[[str], Awaitable[Any]]:
    """Stands in for Serve's batching, which needs a replica around it."""

    async def one(text: str) -> Any:
        (result,) = await many([text])
        return result

    return one


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Encoder:
    monkeypatch.setattr(ray_serve, "batch", one_by_one)
    examples = [(f"{words} {n}", words) for words in ("lamp broke", "send bill") for n in range(6)]
    train(examples, MiniLM().encode([text for text, _ in examples]), tmp_path)
    return Encoder(EncoderSection(), {"small": str(tmp_path)})


async def test_texts_are_embedded_as_the_model_does_it(encoder: Encoder) -> None:
    texts = ["one", "two three"]
    assert np.allclose(await encoder.embed(texts), MiniLM().encode(texts), atol=1e-5)
    assert (await encoder.embed([])).shape == (0, DIMENSION)


async def test_texts_are_classified_by_the_named_head(encoder: Encoder) -> None:
    (score,) = await encoder.classify(["the lamp broke"], "small")
    assert score["intent"] == "lamp broke"
    assert 0 <= score["confidence"] <= 1
    assert set(score) >= {"out_of_scope", "gate", "why", "margin", "agreement"}
    with pytest.raises(NotFound):
        await encoder.classify(["x"], "large")


async def test_a_wrong_text_is_refused_before_it_joins_a_batch(encoder: Encoder) -> None:
    good, bad = await asyncio.gather(
        encoder.embed(["fine"]), encoder.embed(["fine", ""]), return_exceptions=True
    )
    assert isinstance(good, np.ndarray)
    assert isinstance(bad, InvalidInput)
    with pytest.raises(InvalidInput, match="2048"):
        await encoder.embed(["x"] * 2_049)


def test_the_deployment_has_its_limits_set() -> None:
    application = encoder_deployment(EncoderSection(max_queued_requests=7), {})
    deployment = application._bound_deployment
    assert deployment.name == DEPLOYMENT
    assert deployment.max_queued_requests == 7
    assert deployment.max_ongoing_requests < 1_000
    assert deployment.ray_actor_options["num_cpus"] <= 0.5


class Refusing:
    """A handle whose calls fail."""

    def __init__(self, error: Exception) -> None:
        self.embed = self
        self.error = error

    async def remote(self, texts: list[str]) -> None:
        raise self.error


async def test_errors_of_the_encoder_arrive_as_ours() -> None:
    embedder = ServeEmbedder()
    cause = InvalidInput("input[0]", "", "a text")
    embedder._handle = Refusing(RayTaskError("embed", "trace", cause).as_instanceof_cause())
    with pytest.raises(InvalidInput) as caught:
        await embedder.embed([""])
    assert caught.value.field == "input[0]"
    embedder._handle = Refusing(BackPressureError(num_queued_requests=1, max_queued_requests=1))
    with pytest.raises(Overloaded):
        await embedder.embed(["x"])


def test_an_embedder_pickles_without_its_handle() -> None:
    embedder = ServeEmbedder()
    embedder._handle = lambda: None
    assert pickle.loads(pickle.dumps(embedder))._handle is None
