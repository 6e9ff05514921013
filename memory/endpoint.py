"""Vectors from an OpenAI-compatible endpoint: `POST URL/embeddings`, through the openai client.

The client keeps connections and repeats what may be repeated (no answer, 408, 409, 429, 5xx) with
its own back-off; a deadline holds over all of that. The endpoint sees the texts: it is named by the
operator's settings only.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from cluster.errors import DeadlineExceeded, InvalidInput, MainspringError, Overloaded, Unavailable
from cluster.settings import EmbedderSection
from memory.recent import Vectors, batches

_TOGETHER: Final = 64_000  # characters in one request, padded
_REFUSED: Final = frozenset({400, 413, 422})


class Endpoint:
    """An Embedder over HTTP; connects with its first call. For one event loop."""

    def __init__(self, section: EmbedderSection) -> None:
        self._section = section
        self._what = f"embedder {section.name}"
        self._client: Any = None

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """See Embedder; whatever the endpoint gave, unchecked but for its count.

        Raises InvalidInput for a text that it refuses, Unavailable when it is down or answers with
        something else, Overloaded when it asks to come later, DeadlineExceeded.
        """
        vectors: list[Any] = [None] * len(texts)
        for batch in batches([len(text) for text in texts], self._section.batch, _TOGETHER):
            rows = await self._asked([texts[i] for i in batch])
            for i, row in zip(batch, rows, strict=True):
                vectors[i] = row
        try:
            return np.asarray(vectors, np.float32)
        except (ValueError, TypeError):
            raise Unavailable(self._what, "its vectors are no lists of equal length") from None

    async def close(self) -> None:
        """Let go of the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _asked(self, texts: list[str]) -> list[Any]:
        import openai

        try:
            async with asyncio.timeout(self._section.timeout_s):
                answer = await self._connected().embeddings.create(
                    model=self._section.model, input=texts, encoding_format="float"
                )
        except (TimeoutError, openai.APITimeoutError):
            raise DeadlineExceeded(self._what, self._section.timeout_s) from None
        except openai.APIError as error:
            raise _ours(self._what, error) from None
        except (ValueError, TypeError) as error:
            raise Unavailable(self._what, f"no answer of this form ({error})") from None
        return self._in_order(answer, len(texts))

    def _in_order(self, answer: Any, count: int) -> list[Any]:
        data = getattr(answer, "data", None) or []
        if len(data) != count:
            raise Unavailable(self._what, f"it gave {len(data)} vectors for {count} texts")
        places = [entry.index for entry in data]
        if sorted(places) != list(range(count)):
            raise Unavailable(self._what, f"it numbered {count} vectors {places[:5]}...")
        return [entry.embedding for entry in sorted(data, key=lambda entry: entry.index)]

    def _connected(self) -> Any:
        if self._client is None:
            from openai import AsyncOpenAI

            section = self._section
            self._client = AsyncOpenAI(
                base_url=section.url, api_key=section.api_key or "none",
                timeout=section.timeout_s, max_retries=section.retries,
            )  # fmt: skip
        return self._client


def _ours(what: str, error: Any) -> MainspringError:
    status = getattr(error, "status_code", None)
    said = str(getattr(error, "message", error))[:200]
    if status == 429:
        return Overloaded(what, said, 5.0)
    if status in _REFUSED:
        return InvalidInput("text", f"refused by {what} with {status}: {said}", "another text")
    reason = "it can't be reached" if status is None else f"it answered {status}"
    return Unavailable(what, f"{reason}: {said}", 2.0)
