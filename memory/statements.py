"""PURE: what is said in a conversation, sentence by sentence: by whom, with which values, whether
it binds anyone.

A sentence is compared by its `terms`: its words in order, with values as what they mean, "I" and
"you" as who is meant, without words that carry nothing; and by its `marks`: what denies, hedges or
asks. Sentences with the same terms and marks say the same.

A promise says what will be done, by whomever ("we'll refund", "the lamp will be with you", "you get
it by Friday"); an open task ("don't forget to", "still have to") counts as one. A rule says what
holds for all cases ("always", "never", "must not", "only"). A question is neither.

Covered: English; the commonest forms in German, French and Spanish. Not covered: promises without
such a word ("consider it done"), irony, what is said between the lines.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal

from memory.dates import anchored
from memory.values import Value, values

Bond = Literal["promise", "rule", ""]

_END: Final = re.compile(
    r"(?<=[.!?;])(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\b[Nn]o\.)(?<!\bMr\.)(?<!\bMs\.)(?<!\bDr\.)"
    r"(?<!\bMrs\.)(?<!\bapprox\.)(?<!\bca\.)(?<!\bz\.B\.)[\"')\]]{0,3}\s+"
    r"(?!(?:Januar|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember)\b)"
    r"(?!\d{1,2}\.\s?\d{4})|\s*\n\s*"
)
_WORD: Final = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_PRIVATE: Final = re.compile("[\ue000-\uf7ff]")  # stands for a value, see _plain
_PART: Final = re.compile(rf"{_PRIVATE.pattern}|{_WORD.pattern}")
_SHORT: Final = (
    (re.compile(r"\bwon['’]t\b", re.IGNORECASE), "will not"),
    (re.compile(r"\bcan(?:['’]t|not)\b", re.IGNORECASE), "can not"),
    (re.compile(r"n['’]t\b", re.IGNORECASE), " not"),
    (re.compile(r"['’]ll\b", re.IGNORECASE), " will"),
    (re.compile(r"['’]m going to\b", re.IGNORECASE), " will"),
    (re.compile(r"\b(?:am|are|is|['’]re) going to\b", re.IGNORECASE), " will"),
    (re.compile(r"['’](?:m|re|ve|d|s)\b", re.IGNORECASE), " "),
)
_FIRST: Final = frozenset(
    "i we me us my our mine ours myself ourselves ich wir mir mich uns mein unser je nous mon notre"
    " yo nosotros mi nuestro".split()
)
_SECOND: Final = frozenset(
    "you your yours yourself u du ihr dir dich dein euch sie ihnen vous votre te tu usted".split()
)
_EMPTY: Final = frozenset(
    "a an the of to and so then also just please oh ok okay well yes hi hello dear sure course is"
    " are be am was were been that this it its there here for on in at with very really actually"
    " too do does did has have had der die das ein eine und le la les un une et el los las una"
    " y".split()
)
_NEGATIONS: Final = frozenset(
    "not no never none nothing neither nor nobody without refuse refused refuses decline declined"
    " unable nicht kein keine keinen nie niemals pas jamais nunca".split()
)
_HEDGES: Final = frozenset(
    "could might may perhaps maybe possibly would if unless should probably hopefully try könnte"
    " vielleicht falls".split()
)
_PROMISE: Final = re.compile(
    r"\b(?:will|shall|promise[ds]?|guarantee[ds]?|commit(?:ted|s)?|make sure|ensure|let me"
    r"|do not forget|remember to|remind|todo|to-do|(?:still )?(?:need|have|has) to|owe[sd]?"
    r"|werde[nt]?|wird|verspreche[n]?|vais|allons|recevrez|promets|voy a|vamos a|prometo)\b",
    re.IGNORECASE,
)
_DEADLINE: Final = re.compile(r"\b(?:by|until|before|no later than|bis|avant|antes del?)\W*$", re.I)
_RULE: Final = re.compile(
    r"\b(?:always|never|must|only|at most|at least|no more than|not allowed|allowed|forbidden"
    r"|prohibited|required|under no circumstances|ought to|should not|may not|do not|immer|nie"
    r"|niemals|muss|müssen|darf|dürfen|toujours|jamais|siempre|nunca|debe)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Line:
    """A message: who said it (in lower case), when (seconds since the epoch), and the id of its
    record."""

    id: str
    who: str
    text: str
    at: float


@dataclass(frozen=True)
class Statement:
    """A sentence of the line with index `line`, said by `who` ("" when that is not known) in a
    conversation of `names`."""

    text: str
    who: str
    names: tuple[str, ...]
    line: int
    at: float | None = field(default=None, compare=False)

    @cached_property
    def values(self) -> tuple[Value, ...]:
        return values(self.text, self.at)

    @cached_property
    def keys(self) -> frozenset[str]:
        """What its values mean."""
        return frozenset(value.key for value in self.values)

    @cached_property
    def _plain(self) -> str:
        """The text with contractions written out, and each value as one character: U+E000 for the
        first, U+E001 for the second."""
        told = _PRIVATE.sub(" ", self.text)
        parts: list[str] = []
        end = 0
        for number, value in enumerate(self.values):
            parts += told[end : value.start], f" {chr(0xE000 + number % 0x1800)} "
            end = value.end
        text = "".join((*parts, told[end:]))
        for pattern, long in _SHORT:
            text = pattern.sub(long, text)
        return text

    @cached_property
    def _tokens(self) -> tuple[str, ...]:
        return tuple(_PART.findall(self._plain))

    @cached_property
    def terms(self) -> tuple[str, ...]:
        """What is said, in order; a value as its key, a person as "@" and the name."""
        terms: list[str] = []
        held = iter(self.values)
        for token in self._tokens:
            term = next(held).key if "\ue000" <= token <= "\uf7ff" else self._term(token.lower())
            if term and (not terms or terms[-1] != term):
                terms.append(term)
        return tuple(terms)

    def _term(self, word: str) -> str:
        if word in _FIRST:
            return f"@{self.who}"
        if word in _SECOND:
            return f"@{_other(self.who, self.names)}"
        if word in self.names:
            return f"@{word}"
        if word in _NEGATIONS:
            return "not"
        if word in _EMPTY:
            return ""
        return word[:-1] if len(word) > 3 and word[-1] == "s" else word

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The terms that are neither values nor persons."""
        return tuple(t for t in self.terms if ":" not in t and not t.startswith("@"))

    @cached_property
    def marks(self) -> tuple[int, frozenset[str], bool]:
        """How often it denies, what hedges it, whether it asks. Where a denial stands is told by
        the terms."""
        words = [token.lower() for token in self._tokens]
        return (
            sum(word in _NEGATIONS for word in words),
            frozenset(words) & _HEDGES,
            self.text.rstrip("\"')] ").endswith("?"),
        )

    @cached_property
    def bond(self) -> Bond:
        """What it binds to, if anything."""
        if self.marks[2]:
            return ""
        if _PROMISE.search(self._plain) or self._has_deadline():
            return "promise"
        return "rule" if _RULE.search(self._plain) else ""

    def _has_deadline(self) -> bool:
        return any(
            value.kind in ("date", "time") and _DEADLINE.search(self.text[: value.start])
            for value in self.values
        )


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text, trimmed; each is one line."""
    for part in _END.split(text):
        if part and part.strip():
            yield " ".join(part.split())


def statements(lines: Sequence[Line]) -> list[Statement]:
    """What the lines say, with the day behind every word that needs one."""
    names = speakers(lines)
    return [
        Statement(sentence, line.who, names, index, line.at)
        for index, line in enumerate(lines)
        for sentence in sentences(anchored(line.text, line.at))
    ]


def speakers(lines: Sequence[Line]) -> tuple[str, ...]:
    """Who speaks, in order of first appearance."""
    return tuple(dict.fromkeys(line.who for line in lines if line.who))


def _other(who: str, names: Sequence[str]) -> str:
    """Whom `who` speaks to: the other one of two, else anyone."""
    rest = [name for name in names if name != who]
    return rest[0] if len(rest) == 1 else ""
