"""Embedders other than MiniLM, by setting: an OpenAI-compatible endpoint, or a model of
sentence-transformers.

Whatever makes the vectors is held to what its space was made with: every answer has one finite
vector of the space's length a text, none of them zero, and a fixed sentence must become what it
became when the space was made. So an endpoint that was given other weights under the same name is
noticed at the first call, and not by answers that get worse.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from cluster.errors import ConfigError, DataError, InvalidInput, Unavailable
from cluster.settings import EmbedderSection, MemorySection
from memory import minilm
from memory.embed import MINILM, Embedder, Space, require_texts
from memory.endpoint import Endpoint
from memory.recent import Recent, Vectors, key_of
from memory.space_rows import SpaceRow, State

BUILT_IN: Final = "minilm"
"""The name of the embedder that is always there."""
CANARY: Final = "The parcel left Vienna on a Tuesday and came on Friday, unopened."
_SAME: Final = 0.99  # cosine; other kernels and batches move the last digits only
_MOST_DIMENSIONS: Final = 32_768  # what Milvus takes
_WEIGHTS: Final = ("*.safetensors", "pytorch_model*.bin")


class Outside(Embedder, Protocol):
    """An embedder that is opened and closed."""

    async def close(self) -> None:
        """Let go; a later call opens it again."""


class SentenceModel:
    """A model of sentence-transformers in this process; it is loaded by the first call. Raises
    ConfigError where the extra is not installed, or there is no such model."""

    def __init__(self, section: EmbedderSection) -> None:
        self._section = section
        self._model: Any = None
        self._loading = asyncio.Lock()

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """See Embedder; the work happens beside the event loop."""
        async with self._loading:
            if self._model is None:
                self._model = await asyncio.to_thread(self._loaded)
            return await asyncio.to_thread(self._encoded, list(texts))

    async def close(self) -> None:
        """Let go of the model."""
        self._model = None

    def _loaded(self) -> Any:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            extra = "pip install 'mainspring[sentence-transformers]'"
            raise ConfigError("memory.embedders", self._section.name, extra) from None
        try:
            return SentenceTransformer(self._section.model, device="cpu")
        except (OSError, ValueError) as error:
            expected = f"a folder or a hub's name of a model ({error})"
            raise ConfigError("memory.embedders.model", self._section.model, expected) from None

    def _encoded(self, texts: list[str]) -> Vectors:
        # it sorts by length itself
        found: Vectors = self._model.encode(
            texts, batch_size=self._section.batch, show_progress_bar=False, convert_to_numpy=True
        )
        return found


class Pinned:
    """An embedder that is held to its space, with the vectors of recent texts at hand."""

    def __init__(self, inner: Outside, row: SpaceRow, max_chars: int) -> None:
        self._inner, self._row, self._max_chars = inner, row, max_chars
        self._recent = Recent()
        self._same = False

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """See Embedder. DataError when the model is not the one that the space was made with."""
        require_texts(texts)
        cut = [text[: self._max_chars] for text in texts]
        known, missing = self._recent.missing(cut)
        if missing:
            known.update(zip(missing, await self._computed(list(missing.values())), strict=True))
        used = {key: known[key] for key in map(key_of, cut)}
        self._recent.keep(used)
        if not texts:
            return np.empty((0, self._row.space.dimension), np.float32)
        return np.stack([known[key_of(text)] for text in cut])

    async def close(self) -> None:
        """Let go of what computes."""
        await self._inner.close()

    async def _computed(self, texts: list[str]) -> Vectors:
        asked = texts if self._same else [*texts, CANARY]
        name = self._row.embedder
        rows = sound(await self._inner.embed(asked), len(asked), name, self._row.space.dimension)
        if not self._same:
            if float(rows[-1] @ self._row.canary) < _SAME:
                raise DataError(
                    f"embedder {name}",
                    f"its vectors are others than those that {self._row.space.name} was made with; "
                    "give it a name of its own and prepare a space for it",
                )
            self._same = True
        return rows[: len(texts)]


def sound(vectors: Vectors, count: int, name: str, dimension: int | None = None) -> Vectors:
    """The vectors with length 1. Raises Unavailable unless there are `count`, finite, not zero, and
    of the dimension."""
    rows = np.asarray(vectors, np.float32)
    what = f"embedder {name}"
    if rows.ndim != 2 or len(rows) != count:
        raise Unavailable(what, f"it gave vectors of shape {rows.shape} for {count} texts")
    if rows.shape[1] != (dimension or rows.shape[1]):
        raise Unavailable(
            what, f"its vectors have {rows.shape[1]} numbers, the space's have {dimension}"
        )
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    if not np.isfinite(lengths).all():
        raise Unavailable(what, "it gave NaN or infinity for a number")
    if count and lengths.min() < 1e-6:
        raise Unavailable(what, "it gave a zero vector")
    unit: Vectors = (rows / lengths).astype(np.float32)
    return unit


def section_of(settings: MemorySection, name: str) -> EmbedderSection:
    """What the settings say of an embedder. InvalidInput when they name none such."""
    for section in settings.embedders:
        if section.name == name:
            return section
    known = ", ".join([BUILT_IN, *(s.name for s in settings.embedders)])
    raise InvalidInput("embedder", name, f"one of memory.embedders: {known}")


async def described(settings: MemorySection, name: str, state: State) -> SpaceRow:
    """The space that an embedder of the settings makes; asks it for a vector, once.

    Raises InvalidInput for an unknown name or another dimension than the setting's, Unavailable
    when the embedder does not answer or answers with what is no vector, ConfigError and DataError
    for a model that is not there or has other weights.
    """
    if name == BUILT_IN:
        # its weights' hash is in its name, and its encoder may still be starting
        return SpaceRow(MINILM, name, minilm.WEIGHTS_SHA256, np.empty(0, np.float32), state)
    section = section_of(settings, name)
    fingerprint = await asyncio.to_thread(fingerprint_of, section)
    outside = raw(section)
    try:
        canary = sound(await outside.embed([CANARY]), 1, name)[0]
    finally:
        await outside.close()
    dimension = len(canary)
    if dimension != (section.dimension or dimension) or dimension > _MOST_DIMENSIONS:
        wanted = section.dimension or f"at most {_MOST_DIMENSIONS}"
        expected = f"{wanted} numbers a vector; {name} gives {dimension}"
        raise InvalidInput("memory.embedders.dimension", section.dimension, expected)
    space = Space(f"{name}{dimension}_{fingerprint[:8]}", dimension)
    return SpaceRow(space, name, fingerprint, canary, state)


def opened(settings: MemorySection, row: SpaceRow, built_in: Embedder) -> Embedder:
    """What makes the space's vectors. ConfigError when the settings have it no more, DataError
    when its weights are others."""
    if row.embedder == BUILT_IN:
        return built_in
    try:
        section = section_of(settings, row.embedder)
    except InvalidInput:
        expected = f"the embedder {row.embedder!r}, with which {row.space.name} was made"
        raise ConfigError("memory.embedders", "...", expected) from None
    if (found := fingerprint_of(section)) != row.fingerprint:
        reason = f"it is {found[:8]}, and {row.space.name} was made with {row.fingerprint[:8]}"
        raise DataError(f"embedder {row.embedder}", reason)
    return Pinned(raw(section), row, section.max_chars)


def raw(section: EmbedderSection) -> Outside:
    """The embedder of a section as it is."""
    return Endpoint(section) if section.kind == "endpoint" else SentenceModel(section)


def fingerprint_of(section: EmbedderSection) -> str:
    """What the embedder is made from: the SHA-256 of its weights where they lie in a folder, else
    that of its model's name. DataError when the weights are not those that the settings pin."""
    folder = Path(section.model)
    if section.kind == "endpoint" or not folder.is_dir():
        return hashlib.sha256(section.model.encode()).hexdigest()
    digest = hashlib.sha256()
    files = sorted(file for pattern in _WEIGHTS for file in folder.rglob(pattern))
    if not files:
        raise ConfigError("memory.embedders.model", section.model, "a folder with weights")
    for file in files:
        with file.open("rb") as content:
            while part := content.read(1 << 20):
                digest.update(part)
    found = digest.hexdigest()
    if section.sha256 and found != section.sha256:
        raise DataError(str(folder), f"SHA-256 of the weights is {found}, not {section.sha256}")
    return found
