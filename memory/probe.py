"""PURE: does a summary keep what must not be lost, and does it say nothing else?

Kept must be every value (id, amount, date, time, number, address), every promise and every rule
of the originals. A value may be spelt otherwise; a promise and a rule must be there whole: the same
terms in the same order, the same denials and hedges, by the same speaker.

Founded is a sentence whose values all stand in the originals and whose words do too: each of them
where there is a value, most of them where there is none. It denies, hedges, asks and names persons
as the sentence does that it is nearest to; its promises somebody made; and it does not give one
thing the value of another.

Not covered: what needs understanding. A sentence without values, promises and rules may be lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from memory.dates import UNANCHORED
from memory.statements import Statement
from memory.values import Value

_SUPPORT: Final = 0.6  # of a sentence's words must stand in what it cites
_WHOLE: Final = 0.8  # of a promise's terms must be there for it to be that promise
_SHOWN: Final = 100
_REPORTS: Final = frozenset("ask asked asking want wanted wonder wondered whether question".split())


@dataclass(frozen=True, slots=True)
class Loss:
    """A critical fact that a summary lacks: a promise or rule, or a value. `holder` is the sentence
    that holds it."""

    what: str
    text: str
    holder: Statement
    value: Value | None = None

    def kept_by(self, keys: frozenset[str]) -> bool:
        """Whether it is a value that one of these keys says."""
        return self.value is not None and self.value.kept_by(keys)

    def __str__(self) -> str:
        return f"lost {self.what}: {self.text}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said of a summary's sentence: a `fault` that no summary may have; else the
    `lines` that it rests on, none for a sentence that rests on nothing."""

    lines: tuple[int, ...] = ()
    fault: str = ""


class Probe:
    """The critical facts of the originals, and the summary's sentences held against them."""

    def __init__(self, originals: Sequence[Statement]) -> None:
        self._originals = originals
        self._holders: dict[str, Statement] = {}
        self._values: dict[str, tuple[Value, Statement]] = {}
        self._twins: dict[tuple[object, ...], Statement] = {}
        for statement in originals:
            self._twins.setdefault((statement.terms, statement.marks, statement.who), statement)
            self._twins.setdefault((statement.terms, statement.marks, ""), statement)
            for value in statement.values:
                self._values.setdefault(value.key, (value, statement))
                for key in value.supports:
                    self._holders.setdefault(key, statement)
        self.bonds: Final = tuple(s for s in originals if s.bond and self._is_first(s))
        """The promises and rules, each once for each speaker."""

    def _is_first(self, statement: Statement) -> bool:
        return self._twins[(statement.terms, statement.marks, statement.who)] is statement

    @property
    def count(self) -> int:
        """How many critical facts there are."""
        return len(self._values) + len(self.bonds)

    def lost(self, summary: Sequence[Statement]) -> list[Loss]:
        """The critical facts that `summary` lacks, in the originals' order."""
        keys = frozenset(key for s in summary for key in s.keys)
        lost = [
            Loss(value.kind, value.text, holder, value)
            for value, holder in self._values.values()
            if not value.kept_by(keys)
        ]
        said = {(s.terms, s.marks, s.who) for s in summary}
        lost += [
            Loss(s.bond, s.text, s)
            for s in self.bonds
            if (s.terms, s.marks, s.who) not in said and not any(_keeps(s, t) for t in summary)
        ]
        return sorted(lost, key=lambda loss: loss.holder.line)

    def judge(self, statement: Statement) -> Verdict:
        """Whether the originals say what `statement` says."""
        invented = [v for v in statement.values if v.key not in self._holders]
        if invented:
            value = invented[0]
            loose = UNANCHORED in value.key
            why = "a day without its date" if loose else "not in the originals"
            return Verdict(fault=f"{value.kind} {value.text}: {why}")
        twin = self._twins.get((statement.terms, statement.marks, statement.who))
        if twin and statement.terms:
            return Verdict(lines=(twin.line,))
        return self._bound(statement) if statement.bond else self._told(statement)

    def _bound(self, statement: Statement) -> Verdict:
        for made in self.bonds:
            if _repeats(statement, made):
                return Verdict(lines=(made.line,))
        return Verdict(fault=f"{statement.bond} that nobody made: {statement.text[:_SHOWN]}")

    def _told(self, statement: Statement) -> Verdict:
        held = tuple(self._holders[v.key].line for v in statement.values)
        if held and len(statement.words) <= 1 and not statement.who and not _persons(statement):
            return Verdict(lines=tuple(sorted(set(held))))
        nearest = self._nearest(statement)
        if not nearest:
            return Verdict()
        if not any(_alike(statement, s) for s in nearest):
            return Verdict(fault=f"turned round: {statement.text[:_SHOWN]}")
        swapped = next((v for v in statement.values if self._swapped(statement, v)), None)
        if swapped:
            return Verdict(fault=f"{swapped} said of something else: {statement.text[:_SHOWN]}")
        lines = tuple(sorted({nearest[0].line, *held}))
        return Verdict(lines=lines if not held or self._said_in(statement, lines) else ())

    def _said_in(self, statement: Statement, lines: Sequence[int]) -> bool:
        """Whether each word of a sentence with values stands in these lines."""
        there = {word for s in self._originals if s.line in lines for word in s.words}
        return there.issuperset(set(statement.words) - _REPORTS)

    def _nearest(self, statement: Statement) -> list[Statement]:
        """The sentences with the most of its terms; none when no one holds enough of them."""
        words, terms = set(statement.words) - _REPORTS, set(statement.terms)
        if not words:
            return []
        shares = [(len(terms & set(s.terms)), s) for s in self._originals]
        most = max(share for share, _ in shares)
        best = [s for share, s in shares if share == most]
        enough = any(len(words & set(s.words)) >= _SUPPORT * len(words) for s in best)
        return best if most and enough else []

    def _swapped(self, statement: Statement, value: Value) -> bool:
        """Whether the originals give another value of its kind to the word beside it, and nobody
        gives it this one."""
        word = _beside(statement.terms, value.key)
        given = {near for s in self._originals for near in _given(s, word, value.kind)}
        return bool(given) and given.isdisjoint({value.key, *value.supports})


def _keeps(bond: Statement, said: Statement) -> bool:
    """Whether `said` holds all of the promise or rule."""
    return (
        bond.marks == said.marks
        and said.who in ("", bond.who)
        and bool(said.bond)
        and _within(bond.terms, said.terms)
    )


def _repeats(said: Statement, made: Statement) -> bool:
    """Whether the promise or rule `said` is the one that was made, with hardly a word less."""
    return (
        said.marks == made.marks
        and said.who in ("", made.who)
        and said.keys == made.keys
        and len(said.terms) >= _WHOLE * len(made.terms)
        and _within(said.terms, made.terms)
    )


def _within(part: Sequence[str], whole: Sequence[str]) -> bool:
    """Whether `part`'s terms stand in `whole` in their order."""
    rest = iter(whole)
    return all(term in rest for term in part)


def _alike(said: Statement, near: Statement) -> bool:
    """Whether both deny, hedge, ask and name persons alike, by the same speaker."""
    asks = near.marks[2] and not said.marks[2] and _REPORTS.isdisjoint(said.words)
    persons, others = _persons(said), _persons(near)
    turned = persons and others and not _within(persons, others)
    same = said.who in ("", near.who) and said.marks[:2] == near.marks[:2]
    return same and not asks and not turned


def _persons(statement: Statement) -> list[str]:
    return [term for term in statement.terms if term.startswith("@") and len(term) > 1]


def _beside(terms: Sequence[str], key: str) -> str:
    """The word before the value with this key, or else the one behind it."""
    place = terms.index(key)
    words = [*reversed(terms[:place]), *terms[place + 1 :]]
    return next((t for t in words if ":" not in t and not t.startswith("@")), "")


def _given(statement: Statement, word: str, kind: str) -> list[str]:
    """The key of the value of `kind` that stands nearest to `word`; two at the same distance."""
    terms = statement.terms
    if not word or word not in terms:
        return []
    place = terms.index(word)
    far = {t: abs(i - place) for i, t in enumerate(terms) if t.startswith(f"{kind}:")}
    return [t for t, distance in far.items() if distance == min(far.values())]
