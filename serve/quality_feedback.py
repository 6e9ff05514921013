"""Examples for a quality head from what people said of answers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import numpy as np

from cluster.errors import InvalidInput
from serve.calls import drawn
from serve.quality_training import LEAST_OF_MODEL, Examples
from serve.questions import JudgedQuestion

PASS: Final = 0.5
"""The least score of a right answer, where nothing but a score was said."""
HELD_BACK: Final = 0.2

Part = Literal["taught", "held back"]


def examples_of(
    judged: Sequence[JudgedQuestion], part: Part, names: Mapping[str, str] | None = None
) -> Examples:
    """One part of the judged questions: four fifths teach, one is held back to judge heads by.
    Which part a request is in follows from its id, so that no head is judged by what taught it or
    the one before. `names` renames models; those with too few labels are left out.

    An answer is right when it was accepted; corrected or rejected it is not. Raises InvalidInput
    when fewer than two models are left."""
    renamed = names or {}
    rows = [(j.question, renamed.get(j.model, j.model), _right(j)) for j in judged]
    counts = Counter(model for _, model, _ in rows)
    models = tuple(sorted(m for m, n in counts.items() if n >= LEAST_OF_MODEL))
    if len(models) < 2:
        told = ", ".join(f"{n} of {m}" for m, n in sorted(counts.items())) or "none"
        raise InvalidInput(
            "--from-feedback", f"judged answers: {told}",
            f"at least {LEAST_OF_MODEL} of each of two models, with their questions kept "
            "(gateway.questions)",
        )  # fmt: skip
    held = [drawn(j.request_id, HELD_BACK, "held back") == (part == "held back") for j in judged]
    taken = [row for row, here in zip(rows, held, strict=True) if here and row[1] in models]
    right = np.zeros((len(taken), len(models)), bool)
    known = np.zeros_like(right)
    for at, (_, model, answered) in enumerate(taken):
        column = models.index(model)
        right[at, column], known[at, column] = answered, True
    return Examples(models, [question for question, _, _ in taken], right, known)


def _right(judged: JudgedQuestion) -> bool:
    if judged.verdict is not None:
        return judged.verdict == "accepted"
    return (judged.score or 0.0) >= PASS
