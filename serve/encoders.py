"""Embeddings and intents as one Serve deployment with dynamic batching, and how to reach it.

`Encoder` is a plain class; requests that come at the same time share a forward pass. The network
runs beside the event loop, so a replica answers its health checks while it computes. A replica
imports neither torch nor vLLM.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from ray import serve as ray_serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from cluster.errors import InvalidInput, MainspringError, NotFound, Overloaded, Unavailable
from cluster.settings import EncoderSection
from memory.embed import DIMENSION, MiniLM, Vectors, require_texts
from serve.intents import IntentHead

DEPLOYMENT: Final = "encoder"
"""Name of the deployment and of its application."""
MAX_TEXTS: Final = 2_048
_CPUS: Final = 0.2  # logical: an encoder waits most of the time
_ONGOING: Final = 256


class Encoder:
    """MiniLM and the intent heads by name.

    `heads` are folders written by `serve.intents`. Raises DataError when one is damaged.
    """

    def __init__(
        self, section: EncoderSection, heads: dict[str, str], network: Path | None = None
    ) -> None:
        self._model = MiniLM(network, threads=section.threads)
        self._heads = {name: IntentHead.load(Path(folder)) for name, folder in heads.items()}

        async def together(texts: list[str]) -> list[Vectors]:
            return list(await self._model.embed(texts))

        self._one: Callable[[str], Awaitable[Vectors]] = ray_serve.batch(
            together,
            max_batch_size=section.max_batch_size,
            batch_wait_timeout_s=section.batch_wait_s,
        )

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """See memory.embed.Embedder. Raises InvalidInput for more than MAX_TEXTS texts."""
        if len(texts) > MAX_TEXTS:
            raise InvalidInput("input", f"{len(texts)} texts", f"at most {MAX_TEXTS} texts")
        # before they are batched: a wrong text must not fail its neighbours
        require_texts(texts)
        if not texts:
            return np.empty((0, DIMENSION), np.float32)
        return np.stack(await asyncio.gather(*(self._one(text) for text in texts)))

    async def classify(self, texts: Sequence[str], head: str) -> list[dict[str, Any]]:
        """One IntentScore a text, as a dict. Raises NotFound for an unknown head."""
        if head not in self._heads:
            raise NotFound("intent head", head)
        vectors = await self.embed(texts)
        scores = await asyncio.to_thread(self._heads[head].classify, vectors, list(texts))
        return [asdict(score) for score in scores]


def encoder_deployment(section: EncoderSection, heads: dict[str, str]) -> ray_serve.Application:
    """The application to run under the name DEPLOYMENT."""
    deployment = ray_serve.deployment(
        Encoder,
        name=DEPLOYMENT,
        num_replicas=section.replicas,
        max_ongoing_requests=_ONGOING,
        max_queued_requests=section.max_queued_requests,
        ray_actor_options={"num_cpus": _CPUS},
    )
    return deployment.bind(section, heads)


def apart(one: NDArray[Any], other: NDArray[Any]) -> float:
    """How far two embeddings are from each other: 1 less their cosine, within 0 and 1."""
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return min(1.0, max(0.0, 1.0 - float(one @ other) / norm)) if norm else 1.0


class ServeEmbedder:
    """Embedder over the encoder's deployment.

    Pickles: the handle is made where it is first used.
    """

    def __init__(self, name: str = DEPLOYMENT, app: str = DEPLOYMENT) -> None:
        self._name = name
        self._app = app
        self._handle: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_name": self._name, "_app": self._app, "_handle": None}

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """See memory.embed.Embedder; also raises Overloaded when the encoder's queue is full."""
        try:
            if self._handle is None:
                self._handle = ray_serve.get_deployment_handle(self._name, self._app)
            vectors: Vectors = await self._handle.embed.remote(list(texts))
        except RayTaskError as error:
            if isinstance(error.cause, MainspringError):
                raise error.cause from error
            raise
        except BackPressureError as error:
            raise Overloaded("the encoder", "its queue is full") from error
        except (DeploymentUnavailableError, RayActorError) as error:
            raise Unavailable("the encoder", str(error)) from error
        return vectors
