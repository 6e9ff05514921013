"""Asks the promoted quality head about a request: the embedding, then each model's chance.

Routing must not wait for it: without a head nothing is embedded, a head that cannot be asked in
time is gone without, and what went wrong is told in the reason.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from cluster.errors import MainspringError
from cluster.ids import Clock
from cluster.telemetry import logger
from serve.quality import SURE, QualityHead
from serve.quality_versions import Versions
from serve.ranking import Quality
from serve.routes.openai import Embed

log = logger("predictor")

EMBED_S: Final = 0.15
LOOK_S: Final = 5.0
ASKED_CHARS: Final = 8_000  # the encoder reads less; the words beyond are a share of the decision
_NONE: Final[Mapping[str, Quality]] = {}


class Predictor:
    """The head in use among `versions`, looked for every LOOK_S seconds; `embed` is the encoder."""

    def __init__(self, versions: Versions, embed: Embed | None, clock: Clock) -> None:
        self._versions, self._embed, self._clock = versions, embed, clock
        self._version: int | None = None
        self._head: QualityHead | None = None
        self._looked, self._trouble = -LOOK_S, ""

    async def predict(
        self, text: str, models: Sequence[str], left_s: float
    ) -> tuple[Mapping[str, Quality], str]:
        """Each model's quality, or none and why. Takes EMBED_S seconds at most, and no more than a
        quarter of what is left of the request's time."""
        if self._clock.monotonic() - self._looked >= LOOK_S:
            await self._look()
        if self._head is None or self._embed is None:
            return _NONE, self._trouble
        if unknown := [i for i in models if i not in self._head.models]:
            return _NONE, f"the predictor does not know {unknown[0]}"
        if not text.strip():
            return _NONE, "no text to predict by"
        try:
            return await self._asked(self._head, self._embed, text[:ASKED_CHARS], models, left_s)
        except TimeoutError:
            return _NONE, "the encoder is late"
        except MainspringError as error:
            log.warning("the predictor: %s", error)
            return _NONE, "the encoder or the quality head fails"

    async def _asked(
        self, head: QualityHead, embed: Embed, text: str, models: Sequence[str], left_s: float
    ) -> tuple[Mapping[str, Quality], str]:
        async with asyncio.timeout(min(EMBED_S, left_s / 4)):
            vectors = np.asarray(await embed([text]))
        chances = head.chances(vectors, [text])
        lows = chances - SURE * head.uncertainty(chances)
        at = {name: column for column, name in enumerate(head.models)}
        found = {i: (float(chances[0, at[i]]), float(lows[0, at[i]])) for i in models}
        return {i: Quality(chance, max(0.0, low)) for i, (chance, low) in found.items()}, ""

    async def _look(self) -> None:
        self._looked = self._clock.monotonic()
        try:
            version = await asyncio.to_thread(self._versions.current)
            if version != self._version or self._trouble:
                self._head = await asyncio.to_thread(self._versions.head)
            self._version, self._trouble = version, ""
        except MainspringError as error:
            log.warning("no quality head: %s", error)
            self._head, self._trouble = None, "the quality head cannot be read"
