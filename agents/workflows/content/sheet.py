"""PURE: facts as a model sees them, and what it wrote of them read back.

A sheet has numbers of its own (E1, [NUMBER_1]): the reference model is taught short ones.
"""

from collections.abc import Sequence
from typing import Any, Final

from agents.grounding import STOCK, check
from agents.references import References
from agents.workflows.content.evidence import Fact, own_words
from agents.workflows.prompts import Evidence, cited, without_citations

SIZE: Final = 6
"""The most facts of a sheet."""


class Sheet:
    """`own` are words which a text may hold that are in no fact: its opening, its topic."""

    def __init__(self, facts: Sequence[Fact], own: str = "") -> None:
        self.facts = list(facts)
        self._references = References()
        self._own = own
        self.evidence = [
            Evidence(f"E{number}", "brief", self._references.rewrite(fact.text))
            for number, fact in enumerate(facts, 1)
        ]
        self._by_id = {e.id: fact for e, fact in zip(self.evidence, self.facts, strict=True)}

    def fact(self, id: str) -> Fact | None:
        """The fact behind an evidence id."""
        return self._by_id.get(id)

    def id_of(self, fact: Fact) -> str:
        """The evidence id of one of its facts."""
        return next(id for id, known in self._by_id.items() if known == fact)

    def findings(self, text: str) -> list[str]:
        """What a text says that its facts do not. Each longer word has to be theirs, or one that
        a polite letter holds: a small model misspells what it copies, and a large one decorates."""
        found = [str(f) for f in check(text, self.evidence, self._references, self._own)]
        known = " ".join((*(fact.text for fact in self.facts), self._own, *STOCK))
        strange = own_words(self.rendered(text), known) if not found else []
        return [*found, *(f"word in no fact: {word}" for word in strange)]

    def rendered(self, text: str) -> str:
        """A text as people read it: with the values, without the citations."""
        return " ".join(self._references.render(without_citations(text)).split())

    def passages(self, text: str) -> list[dict[str, Any]]:
        """What a text says after each citation, and the ids of the facts that it cites there."""
        return [
            {"text": said, "facts": [self._by_id[id].id for id in ids if id in self._by_id]}
            for ids, between in cited(text)
            if ids and (said := self.rendered(between))
        ]

    def cited(self, text: str) -> list[Fact]:
        """The facts that a text cites, in order."""
        ids = [id for found, _ in cited(text) for id in found]
        return [self._by_id[id] for id in dict.fromkeys(ids) if id in self._by_id]


def sheets(facts: Sequence[Fact]) -> list[Sheet]:
    """The facts on as many sheets as they need."""
    return [Sheet(facts[at : at + SIZE]) for at in range(0, len(facts), SIZE)]
