"""Texts become vectors: MiniLM on ONNX Runtime, with no hub and no torch.

One vector is 384 float32, L2-normalised; texts beyond 256 tokens are cut there. The same text has
the same vector in every batch up to about 1e-6. `python -m memory.embed --build` writes the network
once; whoever opens a `MiniLM` first writes it when it is missing.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from cluster.errors import ConfigError, DataError, InvalidInput
from memory import minilm
from memory.recent import MOST, Recent, batches, key_of
from memory.recent import Vectors as Vectors

DIMENSION: Final = minilm.DIMENSION
SPACE: Final = f"minilm384_{minilm.WEIGHTS_SHA256[:8]}"
"""Names MiniLM's embedding space; vectors of two spaces are never compared."""
MAX_TOKENS: Final = 256
_BATCH: Final = 32
_BATCH_TOKENS: Final = 2048  # padded; bounds the memory of a batch of long texts


@dataclass(frozen=True, slots=True)
class Space:
    """Vectors that may be compared with each other, and how many numbers one has."""

    name: str
    dimension: int


MINILM: Final = Space(SPACE, DIMENSION)


class Embedder(Protocol):
    """Whatever turns texts into comparable vectors."""

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """One row per text, in order, shape (n, dimension), each of length 1.

        Raises InvalidInput for a text without a visible character, Unavailable when the part that
        computes is not there.
        """


def default_path() -> Path:
    """Where the network lies unless the caller says otherwise: beside the installed packages."""
    return Path(sys.prefix) / "share" / "mainspring" / "minilm.onnx"


def require_texts(texts: Sequence[str]) -> None:
    """Raises InvalidInput for a text that holds nothing to embed."""
    for number, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise InvalidInput(f"input[{number}]", text, "a text with a visible character")


class MiniLM:
    """The encoder in this process. Safe to share between threads.

    `cached` is the number of recent texts whose vectors are kept (1.5 KB each).
    """

    def __init__(self, path: Path | None = None, threads: int = 1, cached: int = MOST) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(minilm.package_folder() / "tokenizer.json"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.no_padding()
        self._session = _opened(path or default_path(), threads)
        self._recent = Recent(cached)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """See Embedder; the work happens beside the event loop."""
        return await asyncio.to_thread(self.encode, texts)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """The same, blocking."""
        require_texts(texts)
        if not texts:
            return np.empty((0, DIMENSION), np.float32)
        known, missing = self._recent.missing(texts)
        known.update(zip(missing, self._compute(list(missing.values())), strict=True))
        used = {key: known[key] for key in map(key_of, texts)}
        self._recent.keep(used)
        return np.stack([known[key_of(text)] for text in texts])

    def _compute(self, texts: list[str]) -> list[Vectors]:
        # one by one: the tokenizer's own batches would start a thread per core
        tokens = [self._tokenizer.encode(_valid(text)).ids for text in texts]
        vectors: list[Vectors] = [np.empty(0, np.float32)] * len(tokens)
        for batch in batches([len(t) for t in tokens], _BATCH, _BATCH_TOKENS):
            rows = self._forward([tokens[i] for i in batch])
            for i, row in zip(batch, rows, strict=True):
                vectors[i] = row.copy()
        return vectors

    def _forward(self, batch: list[list[int]]) -> Vectors:
        shape = (len(batch), max(map(len, batch)))
        ids, mask = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        (result,) = self._session.run(["embedding"], {"ids": ids, "mask": mask})
        vectors: Vectors = np.asarray(result, np.float32)
        return vectors


def _valid(text: str) -> str:
    """The text without lone surrogates, which no tokenizer accepts."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _opened(path: Path, threads: int) -> Any:
    """A session on the network at `path`, which is written when missing or of another origin."""
    if not path.exists():
        minilm.build(path)
    try:
        return _session(path, threads)
    except DataError:
        minilm.build(path)
        return _session(path, threads)


def _session(path: Path, threads: int) -> Any:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # the arena keeps the largest batch's memory for good; plain allocation costs about nothing
    options.enable_cpu_mem_arena = False
    broken = (
        ort_errors.InvalidProtobuf,
        ort_errors.InvalidGraph,
        ort_errors.InvalidArgument,
        ort_errors.Fail,
        ort_errors.RuntimeException,
    )
    try:
        session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    except broken as error:
        raise DataError(str(path), f"not an ONNX network ({error})") from error
    except ort_errors.NoSuchFile as error:
        raise ConfigError("embedding cache", str(path), "a readable file") from error
    about = session.get_modelmeta().custom_metadata_map
    if (about.get("weights"), about.get("graph")) != (minilm.WEIGHTS_SHA256, minilm.GRAPH_VERSION):
        raise DataError(str(path), "written from other weights or by another version")
    return session


def main(arguments: Sequence[str] | None = None) -> int:
    """`--build [--out FILE]`: write the network and say where."""
    parser = argparse.ArgumentParser(prog="python -m memory.embed", description=main.__doc__)
    parser.add_argument("--build", action="store_true", required=True)
    parser.add_argument("--out", type=Path, default=default_path())
    print(minilm.build(parser.parse_args(arguments).out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
