"""The small grammar of the corpus: `{a|b}` is a choice, `<slot>` is filled in."""

import hashlib
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final

import yaml

from cluster.errors import InvalidInput

SPLITS: Final = ("train", "validation", "test")
_CHOICE = re.compile(r"\{([^{}]*)\}")
_SLOT = re.compile(r"<([a-z0-9]+)>")
_HERE: Final = Path(__file__).parent
_TEST_SHARE: Final = 0.12
_VALIDATION_SHARE: Final = 0.08


def expand(rng: Random, template: str, slot: Callable[[str], str]) -> str:
    """One sentence of `template`: inner choices first, then each slot by `slot(name)`."""
    while match := _CHOICE.search(template):
        choice = rng.choice(match.group(1).split("|"))
        template = template[: match.start()] + choice + template[match.end() :]
    text = _SLOT.sub(lambda m: slot(m.group(1)), template)
    return re.sub(r" (?=[.,!?] |[.,!?]$)|(?<= ) +", "", " ".join(text.split()))


def part(entries: list[str], split: str) -> list[str]:
    """The entries (templates or words) of `split`: `train`, `validation` or `test`.

    The three are disjoint, stable over runs, and never empty: by the rank of an entry's hash, 12 %
    are for test, 8 % for validation. Raises InvalidInput for a list too short to be divided.
    """
    ranked = sorted(set(entries), key=_hash)
    if len(ranked) < len(SPLITS):
        raise InvalidInput("templates", entries, "at least three, one for each split")
    test = max(1, round(_TEST_SHARE * len(ranked)))
    validation = test + max(1, round(_VALIDATION_SHARE * len(ranked)))
    bounds = {"test": (0, test), "validation": (test, validation), "train": (validation, None)}
    if split not in bounds:
        raise InvalidInput("split", split, f"one of {', '.join(SPLITS)}")
    return ranked[slice(*bounds[split])]


@cache
def words(name: str, kind: str, split: str) -> list[str]:
    """The entries of `split` in the list `kind` of `NAME.yaml`."""
    return part(list(lexicon(name)[kind]), split)


@cache
def lexicon(name: str) -> dict[str, Any]:
    """The words and templates of `NAME.yaml` beside this file."""
    loaded = yaml.safe_load((_HERE / f"{name}.yaml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
