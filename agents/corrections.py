"""PURE: what a person wrote instead of a draft, as the model should have written it."""

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Final

from agents.references import References
from agents.workflows.prompts import citation, citations, cited

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_ALIKE: Final = 0.6


def as_draft(correction: str, draft: str, values: Mapping[str, str]) -> str:
    """`correction` with references in place of `values` (reference to value; an unknown value gets
    a reference that is not among them), without empty lines, and with the citations that
    hold for the sentences of `draft` that are most like its own. One that cites by itself keeps
    its own."""
    known = {r: v for r, v in values.items() if r != v}
    # References without a value here are taken all the same: no new value may get their number.
    known |= {r: r for r in values if r not in known}
    references = References.holding(known)
    # The number of a citation is no value.
    parts = [(citation(ids) if ids else "") + references.rewrite(p) for ids, p in cited(correction)]
    lines = [" ".join(line.split()) for line in "".join(parts).splitlines() if line.strip()]
    if citations("\n".join(lines)):
        return "\n".join(lines)
    claims = _claims(draft)
    return "\n".join(_cite(line, claims) for line in lines)


def _claims(draft: str) -> list[tuple[str, str]]:
    """Each sentence of `draft` that rests on a citation, after that citation."""
    return [
        (citation(ids), sentence)
        for line in draft.splitlines()
        for ids, said in cited(line)[1:]
        for sentence in _SENTENCE.split(said.strip())
    ]


def _cite(line: str, claims: Sequence[tuple[str, str]]) -> str:
    """`line` with a citation before each sentence that does not rest on the one before it."""
    sentences: list[str] = []
    holding = ""
    for sentence in _SENTENCE.split(line):
        found = _fitting(sentence, claims)
        new = found not in ("", holding)
        sentences.append(f"{found} {sentence}" if new else sentence)
        holding = found or holding
    return " ".join(sentences)


def _fitting(sentence: str, claims: Sequence[tuple[str, str]]) -> str:
    alike = [(_likeness(sentence, claim), -i) for i, (_, claim) in enumerate(claims)]
    share, best = max(alike, default=(0.0, 0))
    return claims[-best][0] if share >= _ALIKE else ""


def _likeness(sentence: str, claim: str) -> float:
    words = sentence.lower().split(), claim.lower().split()
    return SequenceMatcher(None, *words, autojunk=False).ratio()
