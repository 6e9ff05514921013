"""Labelled sentences with personal data: templates of ours, filled with drawn values.

Two sets of templates that share none: `tuning` is what `agents/pii.py` may be mended by, `held_out`
what figures are taken on; the people of the two are different ones as well. A `+` behind the
language means that the customer's account is at hand. All values are drawn, and those with a
checksum are valid; what looks like them and is none (`badcard`, `badiban`) is not.
"""

import itertools
import random
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import phonenumbers
from stdnum import iban, luhn
from stdnum.de import idnr
from stdnum.es import dni, nie
from stdnum.fr import nir
from stdnum.iso7064 import mod_11_10
from stdnum.it import codicefiscale
from stdnum.nl import bsn
from stdnum.pl import pesel
from stdnum.us import ssn

Which = Literal["tuning", "held_out"]
Label = tuple[str, int, int]
"""Kind, start and end."""

DATA: Final = Path(__file__).parent / "pii_data"
STRUCTURED: Final = ("EMAIL", "PHONE", "CARD", "IBAN", "ID", "IP")
FROM_ACCOUNT: Final = ("NAME", "ADDRESS")
_SLOT: Final = re.compile(r"\{(\w+)\}")
_REGION: Final = {
    "en": "US",
    "de": "DE",
    "fr": "FR",
    "es": "ES",
    "it": "IT",
    "nl": "NL",
    "pl": "PL",
}


@dataclass(frozen=True)
class Sentence:
    """A text, what is personal in it, and the customer's account where that is known."""

    text: str
    labels: tuple[Label, ...]
    account: dict[str, str] | None
    language: str


_PEOPLE: Final[dict[str, tuple[str, str, str]]] = {
    "tuning": (
        "Anna Jonas Marie Luca Sofia Piotr Emma Grace Will Claire José Femke",
        "Weber Schmidt Martin Rossi García Kowalski Brown King Lefèvre Visser Hall",
        "Lindenstraße 4, 50674 Köln|12 Baker Street, London NW1 6XE|8 rue des Lilas, 69003 Lyon"
        "|Calle Mayor 5, 28013 Madrid|Via Roma 12, 20121 Milano|Keizersgracht 100, 1015 CV "
        "Amsterdam|ul. Długa 7, 00-238 Warszawa|Am Markt 3a, 04109 Leipzig",
    ),
    "held_out": (
        "Hannah Björn Élodie Matteo Lucía Agnieszka Oliver Rose Mark Chloé Íñigo Sanne Dieter Mia",
        "Krüger O'Brien Dubois Moretti Fernández Nowak Taylor Young Müller-Lange Jansen Costa Li "
        "Wójcik Stein",
        "Goethestr. 17b, 10625 Berlin|221 Elm Avenue, Bristol BS8 1TH|3 bis avenue de la "
        "République, 33000 Bordeaux|Avenida del Puerto 44, 46023 Valencia|Corso Garibaldi 88, "
        "80142 Napoli|Prinsenlaan 26, 3066 KA Rotterdam|ul. Kwiatowa 15/3, 61-881 Poznań|Schulweg "
        "9, 22119 Hamburg|Flat 2, 45 Castle Hill, Lincoln LN1 3AA|Große Gasse 1, 1010 Wien",
    ),
}


class Drawn:
    """Values of one sentence."""

    def __init__(self, which: Which, language: str, rng: random.Random) -> None:
        self._rng, self._language = rng, language
        first, last, places = _PEOPLE[which]
        self.first, self.last = rng.choice(first.split()), rng.choice(last.split())
        self.address = rng.choice(places.split("|"))
        self.own_email = _email(rng, self.first, self.last)
        self.own_phone = _phone(rng, _REGION[language])
        self.street = self.address.rpartition(",")[0]

    @property
    def account(self) -> dict[str, str]:
        return {
            "name": f"{self.first} {self.last}", "email": self.own_email,
            "phone": self.own_phone, "address": self.address,
        }  # fmt: skip

    def value(self, slot: str) -> tuple[str, str]:
        """What stands in a slot, and its kind, empty when it is nothing personal."""
        full = f"{self.first} {self.last}"
        known = {
            "full": ("NAME", full), "first": ("NAME", self.first), "last": ("NAME", self.last),
            "last_first": ("NAME", f"{self.last}, {self.first}"), "upper": ("NAME", full.upper()),
            "lower": ("NAME", full.lower()), "street": ("ADDRESS", self.street),
            "address": ("ADDRESS", self.address), "own_email": ("EMAIL", self.own_email),
            "own_phone": ("PHONE", self.own_phone),
        }  # fmt: skip
        if slot in known:
            return known[slot]
        kind = slot.upper() if slot.upper() in STRUCTURED else ""
        draw = _DRAWN[slot] if slot != "id" else _IDS[self._language]
        if slot == "phone":
            return kind, _phone(self._rng, _REGION[self._language])
        return kind, draw(self._rng)


def sentences(which: Which, draws: int, seed: int) -> Iterator[Sentence]:
    """`draws` sentences of each template of a set, in its order."""
    rng = random.Random(f"{which}-{seed}")
    for line in (DATA / f"{which}.txt").read_text("utf-8").splitlines():
        if line.startswith("#") or not line.strip():
            continue
        language, _, template = line.partition(" | ")
        for _ in range(draws):
            drawn = Drawn(which, language.removesuffix("+"), rng)
            text, labels = _filled(template, drawn)
            account = drawn.account if language.endswith("+") else None
            yield Sentence(text, labels, account, language.removesuffix("+"))


def _filled(template: str, drawn: Drawn) -> tuple[str, tuple[Label, ...]]:
    text, labels, end = "", list[Label](), 0
    for slot in _SLOT.finditer(template):
        text += template[end : slot.start()]
        kind, value = drawn.value(slot.group(1))
        if kind:
            labels.append((kind, len(text), len(text) + len(value)))
        text += value
        end = slot.end()
    return text + template[end:], tuple(_joined(labels))


def _joined(labels: list[Label]) -> list[Label]:
    """A first and a last name beside each other are one name."""
    joined: list[Label] = []
    for label in labels:
        last = joined[-1] if joined else None
        if last and last[0] == label[0] == "NAME" and last[2] + 1 == label[1]:
            joined[-1] = ("NAME", last[1], label[2])
        else:
            joined.append(label)
    return joined


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choices("0123456789", k=count))


def _letters(rng: random.Random, count: int) -> str:
    return "".join(rng.choices("ABCDEFGHJKLMNPRSTUVWXYZ", k=count))


def _email(rng: random.Random, first: str = "", last: str = "") -> str:
    words = ["maple", "tom.t", "k_lee", "info+shop", "j-p", "r2d2", "olga99", "X.Y"]
    host = rng.choice(["example.com", "mail.example.org", "firma-x.de", "exemple.fr", "uni.ac.uk"])
    plain = f"{first}.{last}".lower() if first else rng.choice(words)
    bare = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    safe = re.sub(r"[^\w.+-]", "", bare)
    made = f"{safe}@{host}"
    return made.upper() if rng.random() < 0.1 else made


def _phone(rng: random.Random, region: str) -> str:
    example = phonenumbers.example_number_for_type(region, phonenumbers.PhoneNumberType.MOBILE)
    assert example is not None
    national = str(example.national_number)
    while True:
        tried = national[:3] + _digits(rng, len(national) - 3)
        number = phonenumbers.parse(tried, region)
        if phonenumbers.is_valid_number(number):
            break
    forms = phonenumbers.PhoneNumberFormat
    form = rng.choice([forms.E164, forms.INTERNATIONAL, forms.NATIONAL, forms.NATIONAL])
    return str(phonenumbers.format_number(number, form))


def _grouped(rng: random.Random, digits: str, size: int = 4, gaps: str = " -") -> str:
    gap: str = rng.choice(["", *gaps])
    return gap.join(digits[i : i + size] for i in range(0, len(digits), size))


def _card(rng: random.Random) -> str:
    length, start = rng.choice([(16, "4"), (16, "51"), (16, "55"), (15, "37"), (16, "6011")])
    body = start + _digits(rng, length - len(start) - 1)
    whole = body + str(luhn.calc_check_digit(body))
    if length == 15:
        return rng.choice([whole, f"{whole[:4]} {whole[4:10]} {whole[10:]}"])
    return _grouped(rng, whole)


def _badcard(rng: random.Random) -> str:
    body = "7" + _digits(rng, 14)
    return body + str((int(luhn.calc_check_digit(body)) + rng.randrange(1, 10)) % 10)


def _iban(rng: random.Random) -> str:
    made = {
        "DE": lambda: _digits(rng, 18), "AT": lambda: _digits(rng, 16),
        "GB": lambda: _letters(rng, 4) + _digits(rng, 14), "PL": lambda: _digits(rng, 24),
        "FR": lambda: _digits(rng, 10) + _letters(rng, 1) + _digits(rng, 12),
        "ES": lambda: _digits(rng, 20), "NL": lambda: _letters(rng, 4) + _digits(rng, 10),
        "IT": lambda: _letters(rng, 1) + _digits(rng, 22), "BE": lambda: _digits(rng, 12),
    }  # fmt: skip
    country = rng.choice(sorted(made))
    body = made[country]()
    whole = country + iban.calc_check_digits(f"{country}00{body}") + body
    shown = _grouped(rng, whole, gaps=" ")
    return shown.lower() if rng.random() < 0.1 else shown


def _badiban(rng: random.Random) -> str:
    while True:
        whole = "DE" + _digits(rng, 20)
        if not iban.is_valid(whole, check_country=False):
            return _grouped(rng, whole, gaps=" ")


def _valid(draw: Callable[[], str], valid: Callable[[str], bool]) -> str:
    while not valid(value := draw()):
        pass
    return value


def _pesel(rng: random.Random) -> str:
    day = f"{rng.randrange(50, 99)}{rng.randrange(1, 13):02}{rng.randrange(1, 29):02}"
    body = day + _digits(rng, 4)
    return body + str(pesel.calc_check_digit(body))


def _idnr(rng: random.Random) -> str:
    order = rng.sample("0123456789", 10)
    order[rng.randrange(1, 10)] = order[0]
    if order[0] == "0":
        return _idnr(rng)
    body = "".join(order)
    whole = body + str(mod_11_10.calc_check_digit(body))
    if not idnr.is_valid(whole):
        return _idnr(rng)
    return rng.choice([whole, f"{whole[:2]} {whole[2:5]} {whole[5:8]} {whole[8:]}"])


def _nir(rng: random.Random) -> str:
    month = f"{rng.randrange(1, 13):02}"
    place = f"{rng.randrange(1, 95):02}{_digits(rng, 6)}"
    body = f"{rng.choice('12')}{rng.randrange(40, 99)}{month}{place}"
    whole = f"{body}{nir.calc_check_digits(body)}"
    ends = (0, 1, 3, 5, 7, 10, 13, 15)
    spaced = " ".join(whole[a:b] for a, b in itertools.pairwise(ends))
    return rng.choice([whole, spaced])


def _spanish(rng: random.Random) -> str:
    number = _digits(rng, 8)
    if rng.random() < 0.5:
        return f"{number}{dni.calc_check_digit(number)}"
    body = rng.choice("XYZ") + number[:7]
    return f"{body}{nie.calc_check_digit(body)}"


def _fiscale(rng: random.Random) -> str:
    body = (
        f"{_letters(rng, 6)}{rng.randrange(40, 99)}{rng.choice('ABCDEHLMPRST')}"
        f"{rng.randrange(1, 29):02}{rng.choice('ABFHL')}{_digits(rng, 3)}"
    )
    return f"{body}{codicefiscale.calc_check_digit(body)}"


def _ssn(rng: random.Random) -> str:
    def draw() -> str:
        return f"{_digits(rng, 3)}-{_digits(rng, 2)}-{_digits(rng, 4)}"

    return _valid(draw, ssn.is_valid)


_IDS: Final[dict[str, Callable[[random.Random], str]]] = {
    "en": _ssn, "de": _idnr, "fr": _nir, "es": _spanish, "it": _fiscale, "pl": _pesel,
    "nl": lambda rng: _valid(lambda: _digits(rng, 9), bsn.is_valid),
}  # fmt: skip
_DRAWN: Final[dict[str, Callable[[random.Random], str]]] = {
    "email": _email, "card": _card, "iban": _iban, "badcard": _badcard, "badiban": _badiban,
    "phone": lambda rng: "",
    "ip": lambda rng: ".".join(str(rng.randrange(1, 255)) for _ in range(4)),
    "order": lambda rng: f"{_letters(rng, 2)}-{_digits(rng, 5)}",
    "tracking": lambda rng: f"{_letters(rng, 2)}{_digits(rng, 9)}DE",
    "parcel": lambda rng: "3" + _digits(rng, 11),
    "amount": lambda rng: f"{rng.randrange(1, 2000)}.{_digits(rng, 2)} EUR",
    "version": lambda rng: f"{rng.randrange(1, 20)}.{rng.randrange(20)}.{rng.randrange(99)}",
    "date": lambda rng: f"{rng.randrange(1, 29):02}.{rng.randrange(1, 13):02}.2026",
    "sku": lambda rng: f"{_letters(rng, 3)}-{_digits(rng, 4)}-{_letters(rng, 1)}",
    "serial": lambda rng: f"SN{_digits(rng, 4)}{_letters(rng, 2)}{_digits(rng, 5)}",
    "number": lambda rng: str(rng.randrange(10, 99_999)),
}  # fmt: skip
