"""PURE: the kinds of batches there are, each known by the endpoint that its lines are for.

A kind says which key of a line's body names who works on it; all lines of a batch have the same.
What works on a line of each kind stands in `workers.py`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

EMBEDDINGS: Final = "/v1/embeddings"
RUNS: Final = "/v1/runs"
INGESTION: Final = "/v1/memory/ingest"
SPACE: Final = "/v1/memory/space"
EVALUATION: Final = "/v1/evaluations"


@dataclass(frozen=True)
class Kind:
    """`name` is what people call it; `field` the key of a body that all lines share."""

    name: str
    field: str


_PROMPTS: Final = Kind("prompts", "model")
KINDS: Final[Mapping[str, Kind]] = {
    "/v1/chat/completions": _PROMPTS,
    "/v1/completions": _PROMPTS,
    EMBEDDINGS: _PROMPTS,
    "/v1/responses": _PROMPTS,
    RUNS: Kind("runs", "workflow"),
    INGESTION: Kind("ingestion", "place"),
    SPACE: Kind("re-embedding", "embedder"),
    EVALUATION: Kind("evaluation", "workflow"),
}
PROMPTS: Final = tuple(endpoint for endpoint, kind in KINDS.items() if kind is _PROMPTS)
OFFERED: Final = (*PROMPTS, RUNS)
"""What a client may ask for by the API. The others read files of the machine, or change what serves
every tenant: they are its operator's, by `mainspring batch`."""

Known = Mapping[str, Iterable[str]]
"""By a kind's `field`, the names that lines may give; without an entry any."""
