"""PURE: finds national numbers, network addresses and phone numbers of other countries in a text.

Covered: the numbers that states give to people, where their checksum holds: Spanish DNI and NIE,
Italian codice fiscale, French NIR, US social security numbers in their usual form; behind a word
that says so also German tax ids, Dutch BSN, Polish PESEL, Belgian and Portuguese numbers, British
NHS and national insurance numbers. IPv4 and IPv6 addresses, but for what follows a word such as
"version". Phone numbers behind a word such as "call", where any of REGIONS has such numbers.

Not covered: passports, driving licences, numbers that were mistyped or are written in words.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Final

import phonenumbers
from stdnum.be import nn
from stdnum.de import idnr
from stdnum.es import dni, nie
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.it import codicefiscale
from stdnum.nl import bsn
from stdnum.pl import pesel
from stdnum.pt import nif
from stdnum.us import ssn

Span = tuple[int, int]
Finder = Callable[[str], Iterator[Span]]
Valid = Callable[[str], bool]

REGIONS: Final = ("US", "GB", "FR", "ES", "IT", "NL", "PL", "AT", "CH", "BE", "PT", "DE")

PHONE_WORD: Final = re.compile(
    r"(?:phone|mobile|\bcell|\bcall|\bring|\btext|\bsms|\bdial|\btél|\btel|fon|handy|mobil"
    r"|portable|joindre|appel|móvil|ll[aá]m|localiz|whatsapp|reach|cellulare|chiam|\bbel\b|\bbellen"
    r"|bereik|dzwo|komórk)[^\n\d]{0,25}$",
    re.IGNORECASE,
)
_PHONE: Final = re.compile(r"(?<![\w+.,/-])\(?\d[\d ()/.-]{5,18}\d(?![\w-])")
_US_PHONE: Final = re.compile(r"\(\d{3}\) ?\d{3}-\d{4}\b")

# Each with the check that its digits must pass.
_TELLING: Final[tuple[tuple[re.Pattern[str], Valid], ...]] = (
    (re.compile(r"\b\d{8}[ -]?[A-Z]\b", re.I), dni.is_valid),
    (re.compile(r"\b[XYZ][ -]?\d{7}[ -]?[A-Z]\b", re.I), nie.is_valid),
    (re.compile(r"\b[A-Z]{6}\d{2}[A-Z]\d{2}[A-Z]\d{3}[A-Z]\b", re.I), codicefiscale.is_valid),
    (
        re.compile(r"(?<![\w+-])[12] ?\d{2} ?\d{2} ?\d[\dAB] ?\d{3} ?\d{3} ?\d{2}\b(?!-)"),
        nir.is_valid,
    ),
    (re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])"), ssn.is_valid),
)
_NATIONAL_WORD: Final = re.compile(
    r"(?:steuer|identifikationsnummer|idnr|\btax\b|\btin\b|\bssn\b|social security|\bbsn\b"
    r"|burgerservice|pesel|sécu|insurance|\bnino\b|\bnhs\b|\bnif\b|rijksregister|registre national"
    r"|contribuinte|national)[^\n\d]{0,30}$",
    re.IGNORECASE,
)
_NATIONAL: Final = re.compile(r"(?<![\w-])\d(?:[ .-]?\d){8,10}(?![\w-])")
_INSURANCE: Final = re.compile(r"(?<!\w)[A-CEGHJ-PR-TW-Z]{2} ?(?:\d{2} ?){3}[A-D]\b", re.I)
_CHECKS: Final[tuple[Valid, ...]] = tuple(m.is_valid for m in (idnr, bsn, pesel, nn, nif, nhs, ssn))

_IPV4: Final = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\.?\w)")
_IPV6: Final = re.compile(r"(?<![\w:.])[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7}(?![\w:])", re.I)
_VERSION_WORD: Final = re.compile(
    r"(?:\bv\.?|version|versión|versie|versione|wersja|firmware|release|build|update|driver)\W{0,3}$",
    re.IGNORECASE,
)


def ids(text: str) -> Iterator[Span]:
    """National numbers."""
    if not re.search(r"\d{2}", text):
        return iter(())
    spans = [m.span() for p, valid in _TELLING for m in p.finditer(text) if valid(m.group())]
    for pattern, checks in ((_NATIONAL, _CHECKS), (_INSURANCE, ())):
        for match in pattern.finditer(text):
            said = _NATIONAL_WORD.search(text, max(0, match.start() - 60), match.start())
            if said and (not checks or any(valid(match.group()) for valid in checks)):
                spans.append(match.span())
    return iter(sorted(spans, key=lambda s: (s[0], -s[1])))


def addresses(text: str) -> Iterator[Span]:
    """IP addresses."""
    for pattern in (_IPV4, _IPV6):
        for match in pattern.finditer(text):
            before = text[max(0, match.start() - 20) : match.start()]
            if _is_ip(match.group()) and not _VERSION_WORD.search(before):
                yield match.span()


def _is_ip(text: str) -> bool:
    try:
        return not ipaddress.ip_address(text).is_unspecified
    except ValueError:
        return False


def phones_abroad(text: str, shielded: str) -> Iterator[Span]:
    """Phone numbers that are written as in one of REGIONS. In `shielded`, what is no phone number
    is hidden; `text` has the words before it."""
    for match in _US_PHONE.finditer(shielded):
        if _is_phone(match.group(), ("US",)):
            yield match.span()
    for match in _PHONE.finditer(shielded):
        before = text[max(0, match.start() - 40) : match.start()]
        if PHONE_WORD.search(before) and _is_phone(match.group(), REGIONS):
            yield match.span()


def _is_phone(text: str, regions: tuple[str, ...]) -> bool:
    for region in regions:
        try:
            number = phonenumbers.parse(text, region)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_valid_number(number):
            return True
    return False
