"""Personal data leaves a text before any model or log sees it, and comes back only on the way out.

A `Vault` belongs to one ticket. It replaces what is personal by [NAME_1], [EMAIL_1], [PHONE_1],
[CARD_1], [IBAN_1], [ID_1], [IP_1] and [ADDRESS_1], in the numbering of `agents/references.py`, and
alone can put the values back. The same text and the same account give the same placeholders every
time, so a vault is never stored: its owner (`agents/helpdesk.py`) builds it anew and keeps it in
its process. Where that text is erased, the placeholders bring nothing back any more.

Covered:
- what the account holds, in any case and with any spacing: the full name, first and last name
  alone, the e-mail address, the phone number with or without its country code, the street line,
  postcode and city together;
- e-mail addresses; payment card numbers that pass Luhn; IBANs that pass mod-97; phone numbers that
  `phonenumbers` finds valid and that begin with +, 0 or ( or follow a word such as "phone";
- national numbers, IP addresses, phone numbers as they are written in other countries: see
  `agents/pii_numbers.py`;
- streets with a house number in English, German, French and Spanish, British postcodes;
- names in "my name is X" and "ich heiße X" (also French and Spanish) and behind a closing formula.

Not covered: names of other people in running text, a city or postcode on its own, dates of birth,
passport numbers, mistyped card numbers and IBANs (their digits become [NUMBER_1] later),
personal data written in words, and other scripts than Latin. A first or last name that is also an
everyday word ("Will", "Rose") is only seen with a capital or as the last word. A placeholder that a
customer types is taken for ours; it can only bring back that customer's own data. From the
hundredth value of a kind on, values are replaced but not put back.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

import phonenumbers
from stdnum import iban, luhn

from agents import pii_numbers
from agents.references import REFERENCE, References

Account = Mapping[str, str]
"""What the desk knows of a customer. Keys used: name, email, phone, address; each may be absent."""

Span = tuple[int, int]
Finder = Callable[[str], Iterator[Span]]
Found = tuple[str, int, int]
"""A kind of `references.PERSONAL`, where it starts and where it stops."""
Detector = Callable[[str], Iterable[Found]]
"""What finds more than the patterns here, leftmost first."""

DEFAULT_REGION: Final = "DE"

_EMAIL = re.compile(r"[\w.+%-]{1,64}@(?:[\w-]{1,63}\.){1,4}[^\W\d_]{2,24}")
# Each step of the long patterns can be read in one way only: no text makes them slow.
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,30}", re.IGNORECASE)
_CARD = re.compile(r"(?<![\w+])\d(?:[ .-]?\d){12,18}")

# What looks like digits of a phone number and is none: order, tracking, amount, date, reference.
_SHIELD = re.compile(
    r"\b[A-Z]{2}-\d{5}\b|\b[A-Z]{2}\d{9}[A-Z]{2}\b|\[[A-Z]{2,8}_\d{1,2}\]"
    r"|(?:€|\$|£|\bEUR|\bUSD|\bGBP)\s?\d+(?:[.,]\d+)?"
    r"|\d+(?:[.,]\d+)?\s?(?:€|\$|£|(?:EUR|USD|GBP|euros?|dollars?|pounds?)\b)"
    r"|\b\d{4}-\d{2}-\d{2}\b|\b\d{1,2}[./]\d{1,2}[./]\d{2,4}\b",
    re.IGNORECASE,
)
_PHONE_HINT = re.compile(r"(?:\d[ ()/.-]{0,3}){7}")

_WORD = r"[^\W\d_]{1,40}(?:['’-][^\W\d_]{1,40}){0,2}"
_CAPITAL = r"[A-ZÀ-ÖØ-ÞŁŚŻŠČŽ](?:[^\W\d_]|['’-](?=[^\W\d_])){0,40}"
_CITY = rf"{_CAPITAL}(?: (?:am|an der|sur|upon|de|del|la) {_CAPITAL}| {_CAPITAL})?"
_UK_CODE = r"[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}"
_PLACE = rf"(?:,?\s+(?:D-|F-|A-)?\d{{4,5}},?\s+{_CITY}|(?:,\s*{_CITY})?,?\s+{_UK_CODE}\b)?"
_STREETS: Final = (
    rf"\b\d{{1,4}}[a-zA-Z]?,? (?:{_CAPITAL} ){{1,3}}(?i:street|st|road|rd|avenue|ave|lane|ln"
    r"|drive|close|square|way|court|place|terrace|gardens|row|hill|crescent|quay)\b",
    rf"\b\d{{1,4}}[a-z]? (?:{_WORD} ){{1,2}}(?i:street|road|avenue|lane)\b",
    r"\b[^\W\d_]{3,40}(?i:stra(?:ß|ss)e|str\.|weg|platz|allee|gasse|ring|ufer|damm) ?\d{1,4}"
    r"(?: ?[a-z]\b|\b)",
    rf"\b{_CAPITAL}[ -](?:Stra(?:ß|ss)e|Str\.|Weg|Platz|Allee|Gasse|Ring|Ufer|Damm)"
    r" \d{1,4}(?: ?[a-z]\b|\b)",
    r"\b\d{1,4}(?: bis| ter)?,? (?i:rue|avenue|boulevard|bd|place|chemin|impasse|allée|quai)"
    rf" (?:(?:de|du|des|la|le|les) |[dl]['’])*{_WORD}(?: {_CAPITAL}){{0,3}}",
    rf"\b(?i:calle|c/|avenida|avda\.?|plaza|paseo|carrer) ?(?:(?:de|del|la|las|los|el) )*"
    rf"{_CAPITAL}(?: {_CAPITAL}){{0,3}},? (?:n[º°o]\.? ?)?\d{{1,4}}\b",
)
_ADDRESSES: Final = (
    *(re.compile(street + _PLACE) for street in _STREETS),
    re.compile(rf"\b{_UK_CODE}\b"),
)

_INTRODUCTION = re.compile(
    r"\b(?i:my name is|mein name ist|ich hei(?:ß|ss)e|je m['’]appelle|mon nom est|me llamo"
    rf"|mi nombre es)\s+({_WORD}(?:\s+{_WORD}){{0,2}})"
)
_CLOSING = re.compile(
    r"(?:^|(?<=[\s.,!?;]))(?i:regards|wishes|sincerely|faithfully|yours|cheers|thanks|thank you"
    r"|gr(?:ü|ue)(?:ß|ss)en?|gru(?:ß|ss)|lg|mfg|vg|danke|cordialement|bien à vous|merci|salutations"
    r"|saludos?|atentamente|gracias)(?:[\s,!–-]+|\.\s*\n\s*)"
    rf"({_CAPITAL}(?:[ ]{_CAPITAL}){{0,2}})\.?(?=\s*(?:$|[\n,;(\[]))"
)
# Where an introduction's name ends when it is written without capitals.
_NO_NAME: Final = frozenset(
    "a an and are as at but by for from have i im in is it my not of on or spelled still that the "
    "this to was with wrong written misspelled missing und aber ich nicht falsch habe mit wie bin "
    "et mais je pas ne sur est y pero no en mi es con que tengo quiero".split()
)
_PARTICLES: Final = frozenset("de del der den da das dos du la le van von zu zur el y ter".split())
# First and last names that mean something else in lower case.
_EVERYDAY: Final = frozenset(
    "amber angel art august autumn baker bill black blue brown carter case chance christian church "
    "cook dale dawn dean drew earl faith field fisher ford forest frank gene glen gold good grace "
    "grant gray green groß grün hall heath hill holly hope hunter iris ivy jack jade joy june keen "
    "king klein koch kurz lance lang lily long mark marina mason max may melody mercedes miles "
    "miller nick olive page park patience pearl penny pepper peter petit pierce poppy porter price "
    "ray red reich rich rob robin rose ruby rush sage schwarz sky sonny star stein stone storm "
    "summer sunny taylor violet walker ward weiß wells west white will winter wolf wood "
    "young".split()
)


class Vault:
    """The personal data of one ticket: text to placeholders and back. `references` that it is
    given are taken: new values are numbered behind them. `more` look at what the patterns here
    leave."""

    def __init__(self, references: References | None = None, more: Sequence[Detector] = ()) -> None:
        self._references, self._more = references or References(), more

    def redact(self, text: str, account: Account | None = None) -> str:
        """`text` without personal data. Text that is redacted already comes back as it is.

        With an account, [NAME_1] is the customer's full name whether or not it stands in `text`.
        One value (whatever its case) has one placeholder in all texts of a vault.
        """
        known = _known(*(account.get(k, "") for k in _FIELDS)) if account else _NOBODY
        if account and account.get("name", "").strip():
            self._references.refer("NAME", " ".join(account["name"].split()))
        for kind, find in (*known, *_FINDERS):
            text = self._replace(text, ((kind, *span) for span in find(text)))
        for detect in self._more:
            text = self._replace(text, detect(text))
        return text

    def render(self, text: str) -> str:
        """`text` with this vault's placeholders replaced by their values; others stay."""
        return self._references.render(text)

    def _replace(self, text: str, found: Iterable[Found]) -> str:
        parts: list[str] = []
        end = 0
        held: list[Span] | None = None
        for kind, start, stop in found:
            held = [m.span() for m in REFERENCE.finditer(text)] if held is None else held
            if start < end or any(a < stop and start < b for a, b in held):
                continue
            parts += text[end:start], self._references.refer(kind, text[start:stop])
            end = stop
        return "".join((*parts, text[end:])) if parts else text


def masked(text: str, more: Sequence[Detector] = ()) -> str:
    """`text` with [EMAIL], [PHONE] and so on where something personal stands; nothing brings it
    back."""
    return REFERENCE.sub(lambda m: f"[{m.group(1)}]", Vault(more=more).redact(text))


def belongs(value: str, account: Account) -> bool:
    """Whether all of `value` is what the account holds, in whatever writing it is known by."""
    left = value
    for _, find in _known(*(account.get(k, "") for k in _FIELDS)):
        for start, stop in find(value):
            left = left[:start] + " " * (stop - start) + left[stop:]
    return bool(value.strip()) and not re.search(r"\w", left)


def _matches(*patterns: re.Pattern[str], group: int = 0) -> Finder:
    def find(text: str) -> Iterator[Span]:
        spans = [m.span(group) for pattern in patterns for m in pattern.finditer(text)]
        # Leftmost first, and the longest of those that begin together.
        return iter(sorted(spans, key=lambda s: (s[0], -s[1])))

    return find


def _numbers(candidate: re.Pattern[str], valid: Callable[[str], bool]) -> Finder:
    """Grouped numbers with a checksum. A candidate may hold more groups than the number has, before
    or behind it, so each group is tried as its start, and each as its end, the longest first."""

    def find(text: str) -> Iterator[Span]:
        match = candidate.search(text)
        while match:
            end = _longest_valid(match, valid)
            if end:
                yield match.start(), end
            match = candidate.search(text, end or match.start() + 1)

    return find


def _longest_valid(match: re.Match[str], valid: Callable[[str], bool]) -> int | None:
    text, start = match.string, match.start()
    gaps = [start + m.start() for m in re.finditer(r"[ .-]", match.group())]
    whole = not text[match.end() : match.end() + 1].isalnum()
    ends = (*([match.end()] if whole else []), *reversed(gaps))
    return next((end for end in ends if valid(text[start:end])), None)


def _is_card(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and bool(luhn.is_valid(digits))


def _is_iban(text: str) -> bool:
    return len(text) >= 15 and bool(iban.is_valid(text, check_country=False))


def _phones(region: str) -> Finder:
    def find(text: str) -> Iterator[Span]:
        if not _PHONE_HINT.search(text):
            return
        shielded = _SHIELD.sub(lambda m: "#" * len(m.group()), text)
        if not _PHONE_HINT.search(shielded):
            return
        spans = [*pii_numbers.phones_abroad(text, shielded)]
        for match in phonenumbers.PhoneNumberMatcher(shielded, region):
            sure = match.raw_string.startswith(("+", "0", "("))
            before = text[max(0, match.start - 40) : match.start]
            if sure or pii_numbers.PHONE_WORD.search(before):
                spans.append((match.start, match.end))
        yield from sorted(spans, key=lambda s: (s[0], -s[1]))

    return find


def _introductions(text: str) -> Iterator[Span]:
    for match in _INTRODUCTION.finditer(text):
        start, stop = match.span(1)
        words = list(re.finditer(_WORD, text[start:stop]))
        capital = words[0].group()[0].isupper()
        end = 0
        for word in words:
            plain = word.group().lower() in _NO_NAME and word.group().lower() not in _PARTICLES
            if plain or (capital and not word.group()[0].isupper()):
                break
            end = word.end()
        if end:
            yield start, start + end


_FINDERS: Final[tuple[tuple[str, Finder], ...]] = (
    ("EMAIL", _matches(_EMAIL)),
    ("IBAN", _numbers(_IBAN, _is_iban)),
    ("ID", pii_numbers.ids),
    ("IP", pii_numbers.addresses),
    ("CARD", _numbers(_CARD, _is_card)),
    ("PHONE", _phones(DEFAULT_REGION)),
    ("ADDRESS", _matches(*_ADDRESSES)),
    ("NAME", _introductions),
    ("NAME", _matches(_CLOSING, group=1)),
)
_FIELDS: Final = ("name", "email", "phone", "address")
_NOBODY: Final[tuple[tuple[str, Finder], ...]] = ()


@lru_cache(maxsize=1024)
def _known(name: str, email: str, phone: str, address: str) -> tuple[tuple[str, Finder], ...]:
    """What finds an account's own data, surest first."""
    found: list[tuple[str, Finder]] = []
    if email.strip():
        found.append(("EMAIL", _matches(_loose(email))))
    if phone.strip():
        found.append(("PHONE", _own_phone(phone)))
    if lines := _address_lines(address):
        found.append(("ADDRESS", _matches(*(_loose(line) for line in lines))))
    if words := name.split():
        found.append(("NAME", _matches(*_name_patterns(words))))
    return tuple(found)


def _loose(value: str) -> re.Pattern[str]:
    """`value` as whole words in any case, with any white space or comma between them."""
    words = [re.escape(word) for word in re.split(r"[\s,]+", value.strip()) if word]
    return re.compile(r"(?<!\w)" + r"[\s,]+".join(words) + r"(?!\w)", re.IGNORECASE)


def _address_lines(address: str) -> list[str]:
    lines = [line.strip() for line in re.split(r"[,\n]", address)]
    # A line without a digit is a city or a country: everyday words, left alone by themselves.
    numbered = [line for line in (address.strip(), *lines) if re.search(r"\d", line)]
    return [line for line in numbered if re.search(r"[^\W\d]", line)]


def _name_patterns(words: list[str]) -> list[re.Pattern[str]]:
    patterns = [_loose(" ".join(words))]
    if len(words) > 1:
        patterns.append(_loose(" ".join((words[-1], *words[:-1]))))
    for word in words:
        low = word.lower()
        if len(word) < 2 or low in _PARTICLES:
            continue
        if low in _EVERYDAY:
            forms = sorted({re.escape(w) for w in (word.capitalize(), word.upper(), word)})
            last = rf"{re.escape(low)}(?=\W*$)"
            patterns.append(re.compile(rf"(?<!\w)(?:{'|'.join(forms)}|{last})(?!\w)"))
        else:
            patterns.append(_loose(word))
    return patterns


def _own_phone(phone: str) -> Finder:
    """The account's number in any grouping, with country code, with 0, or bare."""
    try:
        parsed = phonenumbers.parse(phone, DEFAULT_REGION)
    except phonenumbers.NumberParseException:
        return _matches(_loose(phone))
    gap = r"[\s()/.-]{0,3}"
    national = gap.join(str(parsed.national_number))
    code = gap.join(str(parsed.country_code))
    prefix = rf"\(?(?:\+|00){gap}{code}{gap}(?:\(?0\)?{gap})?|\(?0{gap}"
    pattern = rf"(?<![\w+])(?:{prefix})?{national}(?!\w)"
    region = phonenumbers.region_code_for_number(parsed)
    own = _matches(re.compile(pattern))
    if region in (None, DEFAULT_REGION):
        return own
    abroad = _phones(region)
    return lambda text: iter(sorted({*own(text), *abroad(text)}))
