"""The vectors of recent texts, so that the same text is computed once."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
MOST: Final = 2048


class Recent:
    """The last `most` texts' vectors by the texts' hashes, the least recently used leaving first.
    Safe to share between threads."""

    def __init__(self, most: int = MOST) -> None:
        self._kept: OrderedDict[bytes, Vectors] = OrderedDict()
        self._most = most
        self._lock = threading.Lock()

    def missing(self, texts: Sequence[str]) -> tuple[dict[bytes, Vectors], dict[bytes, str]]:
        """What is known of the texts, and the texts that are not, each once, by key."""
        keys = [key_of(text) for text in texts]
        with self._lock:
            known = {key: self._kept[key] for key in keys if key in self._kept}
        return known, {k: t for k, t in zip(keys, texts, strict=True) if k not in known}

    def keep(self, vectors: Mapping[bytes, Vectors]) -> None:
        """The vectors were used just now."""
        with self._lock:
            for key in list(vectors)[-self._most :] if self._most else ():
                self._kept[key] = vectors[key]
                self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)


def key_of(text: str) -> bytes:
    """What a text is known by."""
    return hashlib.blake2b(text.encode("utf-8", "replace")).digest()


def batches(lengths: Sequence[int], most: int, together: int) -> Iterator[list[int]]:
    """Positions grouped by similar length, shortest first: at most `most` in a batch, and the
    longest's length times their number at most `together` unless it is alone."""
    batch: list[int] = []
    for position in sorted(range(len(lengths)), key=lengths.__getitem__):
        padded = lengths[position] * (len(batch) + 1)
        if batch and (len(batch) == most or padded > together):
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch
