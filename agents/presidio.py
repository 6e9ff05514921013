"""Presidio's recognisers behind our own patterns, for who wants both: an extra.

    pip install 'mainspring[presidio]'       agents: {pii: {engine: presidio}}

What ours take, Presidio never sees; it adds national numbers that ours do not know. Its spaCy
models are blank ones: they split words and have learnt nothing, so no model is loaded from anywhere
and no name of a person or a place is found by it. Nothing reaches out: the recogniser of e-mail
addresses does without the list of domains that it would fetch, those of links are left out.

An engine has a lock, and what spaCy would remember of a text is dropped with it. Change the setting
while no ticket is open: the placeholders of one are counted anew each time it is read.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Final

from agents.pii import Detector, Found
from cluster.errors import ConfigError
from cluster.settings import PiiSection

KINDS: Final[Mapping[str, str]] = {
    "EMAIL_ADDRESS": "EMAIL", "PHONE_NUMBER": "PHONE", "CREDIT_CARD": "CARD", "IBAN_CODE": "IBAN",
    "IP_ADDRESS": "IP",
    **dict.fromkeys(
        ("AU_ABN", "AU_ACN", "AU_TFN", "AU_MEDICARE", "DE_TAX_ID", "ES_NIF", "ES_NIE",
         "FI_PERSONAL_IDENTITY_CODE", "IN_AADHAAR", "IN_PAN", "IT_FISCAL_CODE", "IT_PASSPORT",
         "IT_IDENTITY_CARD", "IT_DRIVER_LICENSE", "KR_RRN", "PL_PESEL", "SG_NRIC_FIN", "UK_NHS",
         "UK_NINO", "US_SSN", "US_ITIN", "US_PASSPORT", "MEDICAL_LICENSE", "CRYPTO"),
        "ID",
    ),
}  # fmt: skip
"""Our kinds for its entities. What is none of ours (dates, links) stays."""
SURE: Final = 0.5
"""The least score, of 1, that counts; below it stand numbers of nine digits and the like."""
PATTERNS: Final = PiiSection()
"""Our own patterns alone."""
_PACKAGES: Final = ("presidio_analyzer", "spacy")


def require(section: PiiSection) -> None:
    """ConfigError when the settings name an engine that is not installed."""
    if section.engine == "presidio" and not all(find_spec(name) for name in _PACKAGES):
        right = "an installed engine: pip install 'mainspring[presidio]'"
        raise ConfigError("agents.pii.engine", section.engine, right)


def detectors(section: PiiSection) -> tuple[Detector, ...]:
    """What the settings want beside our own patterns. Raises as `require`; takes seconds where it
    is Presidio."""
    require(section)
    return () if section.engine == "patterns" else (Presidio(section.languages),)


class Presidio:
    """A `Detector` for these languages, one after the other."""

    def __init__(self, languages: Sequence[str]) -> None:
        """ConfigError for a language that spaCy does not know."""
        import spacy
        from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
        from presidio_analyzer.nlp_engine import SpacyNlpEngine
        from presidio_analyzer.predefined_recognizers import EmailRecognizer

        class Blank(SpacyNlpEngine):  # type: ignore[misc]
            def load(self) -> None:
                """There is nothing to load."""

        class Mail(EmailRecognizer):  # type: ignore[misc]
            def validate_result(self, pattern_text: str) -> None:
                """No opinion: the original fetches a list of domains for one."""

        self._languages, self._lock = tuple(languages), threading.Lock()
        try:
            self._words = {name: spacy.blank(name) for name in languages}
        except ImportError:
            known = "languages that spaCy knows by two letters"
            raise ConfigError("agents.pii.languages", list(languages), known) from None
        engine = Blank(models=[{"lang_code": n, "model_name": n} for n in languages])
        engine.nlp = self._words
        registry = RecognizerRegistry(supported_languages=list(languages))
        registry.load_predefined_recognizers(languages=list(languages))
        for name in ("EmailRecognizer", "UrlRecognizer"):
            registry.remove_recognizer(name)
        for name in languages:
            registry.add_recognizer(Mail(supported_language=name))
        self._engine: Any = AnalyzerEngine(
            registry=registry, nlp_engine=engine, supported_languages=list(languages)
        )
        self._entities = {
            n: [e for e in KINDS if e in self._engine.get_supported_entities(n)] for n in languages
        }

    def __call__(self, text: str) -> Iterator[Found]:
        """Leftmost first; of those that begin together the longest, then the surest."""
        spans: set[tuple[int, int, float, str]] = set()
        with self._lock:
            for name in self._languages:
                with self._words[name].memory_zone():
                    spans.update(self._of(text, name))
        for start, minus_stop, _, kind in sorted(spans):
            yield kind, start, -minus_stop

    def _of(self, text: str, language: str) -> Iterator[tuple[int, int, float, str]]:
        entities = self._entities[language]
        found = self._engine.analyze(text, language, entities=entities, score_threshold=SURE)
        for each in found:
            yield each.start, -each.end, -each.score, KINDS[each.entity_type]
