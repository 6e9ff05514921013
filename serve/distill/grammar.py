"""The small grammar of the corpus: `{a|b}` is a choice, `<slot>` is filled in."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final, cast

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


def part(entries: Iterable[str], split: str) -> tuple[str, ...]:
    """The entries (templates or words) of `split`: `train`, `validation` or `test`.

    The three are disjoint, stable over runs, and never empty: by the rank of an entry's hash, 12 %
    are for test, 8 % for validation. Raises InvalidInput for a list too short to be divided.
    """
    parts = _divided(tuple(entries))
    if split not in parts:
        raise InvalidInput("split", split, f"one of {', '.join(SPLITS)}")
    return parts[split]


@cache
def words(name: str, kind: str, split: str) -> tuple[str, ...]:
    """The entries of `split` in the list `kind` of `NAME.yaml`; `topics.warranty` is the list
    `warranty` within `topics`.

    Training is given those of `NAME.train.yaml` too: a list there can grow without another chat
    in validation or test.
    """
    found = part(_listed(lexicon(name), kind), split)
    if split == "train" and (_HERE / f"{name}.train.yaml").is_file():
        found += tuple(_listed(lexicon(f"{name}.train"), kind))
    return found


def _listed(words: Mapping[str, Any], kind: str) -> Iterable[str]:
    found: Any = words
    for key in kind.split("."):
        found = found.get(key, {})
    return cast(Iterable[str], found)


@cache
def _divided(entries: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    ranked = tuple(sorted(set(entries), key=_hash))
    if len(ranked) < len(SPLITS):
        raise InvalidInput("templates", list(entries), "at least three, one for each split")
    test = max(1, round(_TEST_SHARE * len(ranked)))
    validation = test + max(1, round(_VALIDATION_SHARE * len(ranked)))
    return {
        "train": ranked[validation:], "validation": ranked[test:validation], "test": ranked[:test],
    }  # fmt: skip


@cache
def lexicon(name: str) -> dict[str, Any]:
    """The words and templates of `NAME.yaml` beside this file."""
    loaded = yaml.safe_load((_HERE / f"{name}.yaml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
