"""The small grammar of the corpus: `{a|b}` is a choice, `<slot>` is filled in."""

import hashlib
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final

import yaml

_CHOICE = re.compile(r"\{([^{}]*)\}")
_SLOT = re.compile(r"<([a-z0-9]+)>")
_HERE: Final = Path(__file__).parent
_HELD_OUT_PERCENT: Final = 12


def expand(rng: Random, template: str, slot: Callable[[str], str]) -> str:
    """One sentence of `template`: inner choices first, then each slot by `slot(name)`."""
    while match := _CHOICE.search(template):
        choice = rng.choice(match.group(1).split("|"))
        template = template[: match.start()] + choice + template[match.end() :]
    text = _SLOT.sub(lambda m: slot(m.group(1)), template)
    return re.sub(r" (?=[.,!?] |[.,!?]$)|(?<= ) +", "", " ".join(text.split()))


def part(templates: list[str], split: str) -> list[str]:
    """The templates of `split` (`train` or `validation`), disjoint and stable over runs. A list
    too short to be divided serves both."""
    held_out = [t for t in templates if _hash(t) % 100 < _HELD_OUT_PERCENT]
    kept = [t for t in templates if t not in held_out]
    if not held_out or not kept:
        return templates
    return kept if split == "train" else held_out


@cache
def lexicon(name: str) -> dict[str, Any]:
    """The words and templates of `NAME.yaml` beside this file."""
    loaded = yaml.safe_load((_HERE / f"{name}.yaml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
