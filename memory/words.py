"""PURE: the words of a text as weights, for the keyword leg of recall.

A text becomes terms: NFKC, case folded, English stop words dropped, English words stemmed
(Snowball, through PyStemmer), numbers and ids kept whole and in parts, Chinese and Japanese and
Korean as pairs of characters. A term is known by a 32-bit number, so an index that holds only these
holds no text. The inner product of `keywords` and `Vocabulary.weights` is BM25 with the length of
an average passage fixed, divided by what the question asks for: about 1 means that a passage of
ordinary length says every word of the question once.

Not covered: stemming and stop words of other languages than English; their words count as written.
"""

import math
import re
import threading
import unicodedata
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

import Stemmer

from memory.store import Keywords

VERSION: Final = 1
"""Of the normaliser: weights of two versions are never compared."""
REACH: Final = 2
"""Up to which distance the neighbours of a passage lend it their words."""
_SHARE: Final = (1.0, 0.5, 0.25)  # of a word's count, by the distance of the passage that says it
_SATURATION: Final = 1.0  # BM25's k1
_BY_LENGTH: Final = 0.5  # BM25's b
_NEGLIGIBLE: Final = 0.02  # of what all terms of a question are worth
_ORDINARY: Final = 40.0  # terms in a passage with its neighbours; fixed, so weights never age

_TOKEN: Final = re.compile(r"\w+(?:[-./'’@_]\w+)*")
_NAMES_SOMETHING: Final = re.compile(r"[\d@]")  # an id, an amount, a date, an address
_PART: Final = re.compile(r"[^\W_]+")
_EAST_ASIAN: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{2,}")
_STOP: Final = frozenset(
    "a about after again all also am an and any are aren as at be because been before being but "
    "by can could couldn d did didn do does doesn doing don down during each few for from further "
    "had hadn has hasn have haven having he her here hers him his how i if in into is isn it its "
    "itself just let ll m me more most my no nor not now of off on once only or other our ours "
    "out over own re s same she should shouldn so some such t than that the their theirs them "
    "then there these they this those through to too under until up ve very was wasn we were "
    "weren what when where which while who whom whose why will with won would wouldn you your "
    "yours".split()
)
_LOCAL: Final = threading.local()  # a stemmer must not be shared by threads


def terms(text: str) -> list[str]:
    """The text's terms in order, as often as it says them."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return [term for token in _TOKEN.findall(folded) for term in _of_token(token)]


@lru_cache(maxsize=50_000)
def _of_token(token: str) -> tuple[str, ...]:
    parts = _PART.findall(token)
    found = [stemmed for part in parts for stemmed in _of_part(part)]
    if len(parts) > 1 and _NAMES_SOMETHING.search(token):
        found.append(token)
    return tuple(found)


def _of_part(part: str) -> Iterator[str]:
    if part in _STOP:
        return
    if _EAST_ASIAN.fullmatch(part):
        yield from (part[i : i + 2] for i in range(len(part) - 1))
    elif part.isascii() and part.isalpha():
        yield _stemmer().stemWord(part)
    else:
        yield part


def _stemmer() -> Stemmer.Stemmer:
    if not hasattr(_LOCAL, "stemmer"):
        _LOCAL.stemmer = Stemmer.Stemmer("english")
    stemmer: Stemmer.Stemmer = _LOCAL.stemmer
    return stemmer


def number(term: str) -> int:
    """The term's number, the same on every machine; Milvus takes those below 2**32 - 1, and the
    last is left free for an index that wants to mark rows without words."""
    return zlib.crc32(term.encode("utf-8", "replace")) % (2**32 - 2)


def keywords(text: str, neighbours: Sequence[tuple[int, str]] = ()) -> Keywords:
    """The weights of a passage. `neighbours` are the passages around it in the same document, each
    with its distance, 1 to REACH: what is asked is often said in one turn and answered in the next.
    Empty for a text without words.
    """
    counts: defaultdict[int, float] = defaultdict(float)
    for distance, said in ((0, text), *neighbours):
        for term in terms(said):
            counts[number(term)] += _SHARE[distance]
    length = 1 - _BY_LENGTH + _BY_LENGTH * sum(counts.values()) / _ORDINARY
    return {
        term: count * (_SATURATION + 1) / (count + _SATURATION * length)
        for term, count in counts.items()
    }


class Vocabulary:
    """How many of one tenant's texts say each term. Safe to read while another thread adds."""

    def __init__(self) -> None:
        self._texts = 0
        self._saying: Counter[int] = Counter()

    def add(self, text: str) -> None:
        """Count a text in."""
        self._texts += 1
        self._saying.update({number(term) for term in terms(text)})

    def remove(self, text: str) -> None:
        """Count a text out that was counted in."""
        self._texts -= 1
        for term in {number(term) for term in terms(text)}:
            self._saying[term] -= 1
            if self._saying[term] <= 0:
                del self._saying[term]

    def weights(self, question: str) -> Keywords:
        """What each term of the question is worth, together 1 at most: rare terms more than common
        ones, and terms that nobody says most of all. Left out are terms that together are worth
        less than _NEGLIGIBLE: most texts say them, and all those would have to be looked at. Empty
        for a question of stop words only."""
        asked = Counter(number(term) for term in terms(question))
        worth = {term: count * self._rarity(term) for term, count in asked.items()}
        total = sum(worth.values())
        least, left_out = sorted(worth, key=lambda term: (worth[term], term)), 0.0
        while least and (left_out := left_out + worth[least[0]]) < _NEGLIGIBLE * total:
            del worth[least.pop(0)]
        return {term: value / total for term, value in worth.items()}

    def _rarity(self, term: int) -> float:
        saying = self._saying.get(term, 0)
        texts = max(self._texts, saying)
        return math.log(1 + (texts - saying + 0.5) / (saying + 0.5))
