"""Evidence from memory: policy passages and past answers, made up or the shop's own."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Final

from serve.distill.grammar import expand, words
from serve.distill.tickets import Values

_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+")
_POLICIES: Final = Path(__file__).parents[2] / "infra" / "support" / "policies"
_SHOP_SHARE: Final = 0.35
_CHAPTERS: Final = 0.15  # of the policies stand in a longer document
_HANDBOOKS: Final = ("Help", "FAQ", "Our terms", "Shop handbook", "Customer service")
_PLAIN_TEXTS: Final = 0.12
_ANSWERS_ALONE: Final = 0.7
_MAX_SENTENCES: Final = 3
# Which topics a paragraph of the shop's own policies answers, by file and a word in it. A
# paragraph that no line names serves as a distractor only.
_SHOP_TOPICS: Final[dict[str, str]] = {
    "account": "account_access",
    "delivery-options": "delivery_options",
    "delivery": "delivery_late",
    "discount-codes": "discount_code",
    "invoices": "invoice_copy",
    "payment": "payment_failed",
    "returns": "return_item",
    "warranty": "warranty",
    "refunds": "refund_request",
    "damaged-or-wrong": "damaged_item",
}


@dataclass(frozen=True)
class Passage:
    """`text` as it stands in the evidence; `answer` are the sentences that a reply copies."""

    topic: str
    source: str
    text: str
    answer: tuple[str, ...]


def make_passage(rng: Random, topic: str, split: str) -> Passage:
    """A passage that answers `topic`."""
    values = Values(rng, split)
    # What the shop itself says is no test of copying what was never seen.
    own = _shop().get(topic, ()) if split == "train" else ()
    if own and rng.random() < _SHOP_SHARE:
        title, sentences = rng.choice(own)
    else:
        title = rng.choice(words("passages", f"titles.{topic}", split))
        templates = words("passages", f"topics.{topic}", split)
        chosen = rng.sample(templates, min(len(templates), rng.choice((1, 1, 2, 2))))
        sentences = tuple(_capital(expand(rng, t, values)) for t in chosen)
    answer = sentences[:_MAX_SENTENCES]
    body = list(sentences)
    if rng.random() < 0.07:
        trap = _capital(expand(rng, rng.choice(words("passages", "injections", split)), values))
        body.insert(rng.randrange(len(body) + 1), trap)
    text = " ".join(body)
    # As `memory.chunking` cuts documents: a plain text has no title, a long one has chapters.
    form = rng.random()
    if form < _CHAPTERS:
        title = f"{rng.choice(_HANDBOOKS)} - {title}"
    if form < 1 - _PLAIN_TEXTS:
        text = f"{title}: {text}"
    return Passage(topic, f"policy:{topic}", text, answer)


def make_past_answer(rng: Random, topic: str, split: str, question: Callable[[], str]) -> Passage:
    """What was answered to a past ticket, as memory gives it back: the answer alone, or the text
    of a record that holds both."""
    passage = make_passage(rng, topic, split)
    answer = " ".join(passage.answer)
    text = answer
    if rng.random() >= _ANSWERS_ALONE:
        slots = {"answer": answer, "question": question()}
        template = rng.choice(words("passages", "past", split))
        text = _capital(expand(rng, template, slots.__getitem__))
    return Passage(topic, f"ticket:{rng.randrange(1, 3000)}", text, passage.answer)


def make_trap(rng: Random, split: str) -> Passage:
    """A passage that only tries to give the model orders."""
    template = rng.choice(words("passages", "injections", split))
    return Passage("trap", "ticket:1", _capital(expand(rng, template, Values(rng, split))), ())


@cache
def _shop() -> dict[str, tuple[tuple[str, tuple[str, ...]], ...]]:
    """The shop's policies by topic: (title, sentences) of each paragraph."""
    found: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {}
    for path in sorted(_POLICIES.glob("*.md")):
        blocks = path.read_text(encoding="utf-8").split("\n\n")
        title = blocks[0].lstrip("# ").strip()
        topic = _SHOP_TOPICS.get(path.stem, "other")
        for block in blocks[1:]:
            sentences = tuple(_SENTENCE.split(" ".join(block.split())))
            found[topic] = (*found.get(topic, ()), (title, sentences))
    return found


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
