"""Summaries of support conversations that keep every id, every amount and every promise.

The summary has one right wording: a phrase for what was asked, the references in order of first
appearance, the agent's promises copied, and whose turn it is. A promise is a sentence in which the
agent says what the shop will do. Offers, questions, refusals, what has happened already, and what
the customer says was promised are none.
"""

from dataclasses import dataclass
from random import Random
from typing import Any, Final

from agents.references import REFERENCE, References, references_in
from agents.workflows.prompts import Message, summary_messages
from serve.distill.grammar import expand, lexicon, part
from serve.distill.tickets import Values, item

WAITING_FOR_CUSTOMER: Final = "waiting for the customer"
WAITING_FOR_US: Final = "waiting for us"
NOTHING_OPEN: Final = "nothing"
OPEN: Final = (WAITING_FOR_CUSTOMER, WAITING_FOR_US, NOTHING_OPEN)
_FIELDS: Final = ("Asked", "Orders", "Parcels", "Amounts", "Promised", "Open")
_NONE: Final = "none"
_EXCHANGES: Final = ("question", "question", "offer", "offer", "fact", "refusal")
# The customer's answer to what the agent has said.
_ANSWERS: Final = {
    "question": ("questions", ("replies",)),
    "offer": ("offers", ("refused",)),
    "fact": ("facts", ("claims", "more", "chatter")),
    "refusal": ("refusals", ("claims", "chatter")),
}


@dataclass(frozen=True)
class Summary:
    """What a summary says, field by field; empty where it says `none`."""

    asked: str
    orders: tuple[str, ...]
    parcels: tuple[str, ...]
    amounts: tuple[str, ...]
    promised: tuple[str, ...]
    open: str

    def text(self) -> str:
        """The summary in its fixed form."""
        lists = (
            ", ".join(self.orders),
            ", ".join(self.parcels),
            ", ".join(self.amounts),
            "; ".join(self.promised),
        )
        values = (self.asked, *(text or _NONE for text in lists), self.open)
        return "\n".join(f"{f}: {v}" for f, v in zip(_FIELDS, values, strict=True))


def parse(text: str) -> Summary | None:
    """The summary that `text` is, or None when it does not have the form."""
    pairs = [line.split(": ", 1) for line in text.strip().split("\n")]
    if [p[0] for p in pairs] != list(_FIELDS) or any(len(p) != 2 for p in pairs):
        return None
    asked, orders, parcels, amounts, promised, left = (p[1].strip() for p in pairs)
    if left not in OPEN:
        return None
    return Summary(
        asked,
        _split(orders, ", "),
        _split(parcels, ", "),
        _split(amounts, ", "),
        _split(promised, "; "),
        left,
    )


def keeps_all(expected: str, answer: str) -> bool:
    """Whether `answer` has the form, every reference and every promise of `expected`, and neither
    a reference nor a promise beside them."""
    wanted, got = parse(expected), parse(answer)
    if wanted is None or got is None:
        return False
    lists = ("orders", "parcels", "amounts", "promised")
    return all(set(getattr(wanted, n)) == set(getattr(got, n)) for n in lists) and (
        references_in(expected) == references_in(answer)
    )


def make_summary(rng: Random, split: str) -> tuple[list[Message], str]:
    """A conversation's prompt and the summary of it."""
    topic = rng.choice(lexicon("summaries")["topics"])
    talk = _Talk(rng, split)
    _open(talk, rng, topic)
    rounds = rng.choice((0, 0, 1, 1, 1, 2))
    for _ in range(rounds):
        _exchange(talk, rng)
    left = _close(talk, rng, topic, last=rounds == 2)
    return summary_messages(talk.lines()), talk.summary(topic["phrase"], left).text()


class _Talk:
    """A conversation in the making. Sentences of one speaker in a row make one line; values are
    replaced as they are said, so references are numbered in reading order."""

    def __init__(self, rng: Random, split: str) -> None:
        self._rng, self._split = rng, split
        self._refs = References()
        self._values = Values(rng, split)
        self._kept: dict[str, str] = {}
        self._lines: list[tuple[str, list[str]]] = []
        self._said: set[str] = set()
        self._promised: list[str] = []

    def say(self, who: str, templates: list[str]) -> str:
        """A sentence by `who`, from a template not used before in this conversation."""
        fresh = [t for t in part(templates, self._split) if t not in self._said]
        template = self._rng.choice(fresh or part(templates, self._split))
        self._said.add(template)
        text = self._refs.rewrite(expand(self._rng, template, self._slot))
        if who == "agent":
            text = text[0].upper() + text[1:]
        if not self._lines or self._lines[-1][0] != who:
            self._lines.append((who, []))
        self._lines[-1][1].append(text)
        return text

    def promise(self, templates: list[str]) -> None:
        """A sentence by the agent that binds the shop."""
        text = self.say("agent", templates).rstrip(".")
        if text not in self._promised:
            self._promised.append(text)

    def lines(self) -> list[tuple[str, str]]:
        """(who, text) of each line."""
        return [(who, " ".join(said)) for who, said in self._lines]

    def summary(self, asked: str, left: str) -> Summary:
        """What the conversation comes to; references as they stand in its lines."""
        found = [m.group() for _, text in self.lines() for m in REFERENCE.finditer(text)]
        orders, parcels, amounts = (
            tuple(dict.fromkeys(r for r in found if r.startswith(f"[{kind}_")))
            for kind in ("ORDER", "TRACKING", "AMOUNT")
        )
        return Summary(asked, orders, parcels, amounts, tuple(self._promised), left)

    def _slot(self, name: str) -> str:
        if name == "thing":
            return self._kept.setdefault(name, item(self._rng, self._split))
        if name == "track":
            return self._kept.setdefault(name, f"LX{self._rng.randrange(10**8, 10**9)}DE")
        return self._values(name)


def _open(talk: _Talk, rng: Random, topic: dict[str, Any]) -> None:
    words = lexicon("summaries")
    if rng.random() < 0.3:
        talk.say("customer", words["greetings"])
    beside = rng.choice(("chatter", "chatter", "claims")) if rng.random() < 0.5 else None
    first = rng.random() < 0.35
    if beside and first:
        talk.say("customer", words[beside])
    talk.say("customer", topic["asks"])
    if beside and not first:
        talk.say("customer", words[beside])


def _exchange(talk: _Talk, rng: Random) -> None:
    """Something by the agent that is no promise, and what the customer says to it."""
    words = lexicon("summaries")
    said, answers = _ANSWERS[rng.choice(_EXCHANGES)]
    if rng.random() < 0.2:
        talk.say("agent", words["courtesies"])
    talk.say("agent", words[said])
    talk.say("customer", words[rng.choice(answers)])


def _close(talk: _Talk, rng: Random, topic: dict[str, Any], *, last: bool) -> str:
    """The agent's closing line, perhaps the customer's (not where the agent's is the `last`);
    what is open then."""
    words = lexicon("summaries")
    if rng.random() < 0.3:
        talk.say("agent", words["courtesies"])
    promises = rng.choice((0, 0, 1, 1, 1, 1, 2, 2))
    if not promises or rng.random() < 0.25:
        talk.say("agent", words[rng.choice(("facts", "refusals"))])
    for group in rng.sample(topic["promises"], promises):
        talk.promise(words["promises"][group])
    if rng.random() < 0.25:
        talk.say("agent", words["needs"])
        return WAITING_FOR_CUSTOMER
    if not last and rng.random() < 0.5:
        if rng.random() < 0.3:
            talk.say("customer", words["more"])
            return WAITING_FOR_US
        talk.say("customer", words["thanks"])
    return WAITING_FOR_US if promises else NOTHING_OPEN


def _split(text: str, separator: str) -> tuple[str, ...]:
    return () if text == _NONE else tuple(t.strip() for t in text.split(separator))


__all__ = ["OPEN", "Summary", "keeps_all", "make_summary", "parse"]
