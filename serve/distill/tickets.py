"""Made-up tickets, with what their honest part asks for. Raw values, as a customer types them."""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Final

from serve.distill.grammar import expand, part, words

ORDER_INTENTS: Final = ("order_status", "delivery_late", "return_item")
REFUND_INTENTS: Final = ("refund_request", "damaged_item", "wrong_item")
PERSON_INTENTS: Final = ("cancel_order", "change_address", "complaint")
POLICY_INTENTS: Final = (
    "invoice_copy",
    "payment_failed",
    "discount_code",
    "warranty",
    "account_access",
    "delivery_options",
)
INTENTS: Final = ORDER_INTENTS + REFUND_INTENTS + PERSON_INTENTS + POLICY_INTENTS

_MONTHS: Final = (
    "January February March April May June July August September October November December"
)
_EXAMPLES: Final = Path(__file__).parents[2] / "infra" / "support" / "intents.jsonl"
_PLACEHOLDER: Final = re.compile(r"\[(ORDER|AMOUNT|DATE|NUMBER|TRACKING)_([1-9])\]")
_PERSON: Final = re.compile(
    r"human|real person|a person|manager|supervisor|mensch|persona real|humain|lawyer|anwalt", re.I
)
_SLOTS: Final = {"ORDER": "order", "AMOUNT": "amount", "DATE": "date", "NUMBER": "count"}


@dataclass(frozen=True)
class Request:
    """One thing a customer asks for: its intent, the raw order ids and the raw amount named."""

    intent: str
    orders: tuple[str, ...] = ()
    amount: str | None = None


@dataclass(frozen=True)
class Ticket:
    """A ticket as written. `intent` is what the intent head would say; `reason` is the escalation
    that the text itself calls for, beyond what its requests do."""

    text: str
    intent: str
    requests: tuple[Request, ...]
    reason: str | None = None


class Values:
    """Raw values of one ticket: each slot keeps its value until `renew`."""

    def __init__(self, rng: Random, split: str) -> None:
        self._rng = rng
        self._split = split
        self._made: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        if name in ("item", "count", "date", "n", "money", "noun", "adj", "amount2"):
            return self._make(name)
        return self._made.setdefault(name, self._make(name))

    def get(self, name: str) -> str | None:
        """The value of a slot that was used, or None."""
        return self._made.get(name)

    def renew(self, *names: str) -> None:
        """Forget slots, so that their next use makes other values."""
        for name in names:
            self._made.pop(name, None)

    def _make(self, name: str) -> str:
        rng = self._rng
        if name.startswith("order"):
            letters = "LO" if rng.random() < 0.8 else rng.choice(("LK", "HO", "WX"))
            number = f"{letters}-{rng.randrange(10_000, 100_000)}"
            return number.lower() if rng.random() < 0.1 else number
        if name.startswith("intent"):
            return rng.choice(INTENTS)
        if name in ("count", "n"):
            return str(rng.randrange(2, 60))
        if name.startswith("amount") or name == "money":
            return amount(rng)
        if name == "date":
            return date(rng)
        return item(rng, self._split) if name == "item" else word(rng, name, self._split)


def word(rng: Random, kind: str, split: str) -> str:
    """A noun or an adjective of the lexicon, or one that nobody has seen before."""
    if rng.random() < 0.25:
        syllables = words("passages", "syllables", split)
        return "".join(rng.choices(syllables, k=rng.randrange(2, 4)))
    return rng.choice(words("passages", "nouns" if kind == "noun" else "adjectives", split))


def item(rng: Random, split: str) -> str:
    """The name of an article."""
    adjectives = [word(rng, "adj", split) for _ in range(rng.randrange(0, 3))]
    name = " ".join([*adjectives, word(rng, "noun", split)])
    if rng.random() < 0.15:
        count = rng.choice(("two", "three", "four", "five", "six"))
        return rng.choice((f"set of {count} {name}s", f"{name} (set of {count})", f"{name} (pair)"))
    return name


def amount(rng: Random) -> str:
    """An amount of money as people write it."""
    value = f"{rng.randrange(2, 400)}.{rng.choice(('00', '90', '50', '95', '99'))}"
    forms = (f"{value} EUR", f"{value} EUR", f"€{value}", f"{value.replace('.', ',')} €")
    return rng.choice((*forms, f"{value.split('.')[0]} euros"))


def date(rng: Random) -> str:
    """A date as people write it."""
    day, month = rng.randrange(1, 29), rng.randrange(12)
    name = _MONTHS.split()[month]
    forms = (f"{day} {name} 2026", f"{day} {name}", f"{day}.{month + 1}.2026", f"{name} {day}")
    return rng.choice((*forms, f"2026-{month + 1:02d}-{day:02d}"))


def make_ticket(rng: Random, split: str, *, answerable: bool = False) -> Ticket:
    """A random ticket; `answerable` leaves out the kinds that are always escalated."""
    values = Values(rng, split)
    kind = rng.random()
    if not answerable and kind < 0.18:
        return _unusual(rng, values, split)
    intents = [i for i in INTENTS if not (answerable and i in PERSON_INTENTS)]
    first, core = _request(rng, values, rng.choice(intents), split)
    requests = [first]
    if rng.random() < 0.14:
        second, more = _second(rng, values, first, intents, split)
        requests.append(second)
        joiner = expand(rng, rng.choice(words("tickets", "joiners", split)), values)
        core = f"{_end(core)} {joiner} {more}"
    reason = None
    if not answerable and rng.random() < 0.06:
        core = _shuffled(rng, [core, expand(rng, rng.choice(_texts("person", split)), values)])
        reason = "needs_person"
    text = _dressed(rng, values, core, split)
    if rng.random() < 0.1:
        trap = expand(rng, rng.choice(_texts("injections", split)), values)
        text = _shuffled(rng, [text, trap])
    return Ticket(text, first.intent, tuple(requests), reason)


def _unusual(rng: Random, values: Values, split: str) -> Ticket:
    kind = rng.choice(("person", "out_of_scope", "out_of_scope", "not_allowed", "missing"))
    core = expand(rng, rng.choice(_texts(kind, split)), values)
    intent = rng.choice((*INTENTS, "out_of_scope"))
    if kind == "person":
        return Ticket(
            _dressed(rng, values, core, split),
            rng.choice(("complaint", intent)),
            (),
            "needs_person",
        )
    if kind == "not_allowed":
        return Ticket(_dressed(rng, values, core, split), intent, (), "not_allowed")
    if kind == "missing":
        return Ticket(core, intent, (), "missing_information")
    return Ticket(_dressed(rng, values, core, split), "out_of_scope", (), "out_of_scope")


def _request(rng: Random, values: Values, intent: str, split: str) -> tuple[Request, str]:
    values.renew("order", "order2", "amount")
    text = expand(rng, rng.choice(_texts(intent, split)), values)
    named = [v for name in ("order", "order2") if (v := values.get(name))]
    named.sort(key=text.find)
    return Request(intent, tuple(named), values.get("amount")), text


def _second(
    rng: Random, values: Values, first: Request, intents: list[str], split: str
) -> tuple[Request, str]:
    others = [i for i in intents if i != first.intent]
    if first.orders:
        # At most two orders in a ticket: a plan has at most five steps.
        others = [i for i in others if i in POLICY_INTENTS or len(first.orders) == 1]
    return _request(rng, values, rng.choice(others), split)


def _dressed(rng: Random, values: Values, core: str, split: str) -> str:
    """`core` with the things people write around it."""

    def said(kind: str) -> str:
        return expand(rng, rng.choice(words("tickets", kind, split)), values)

    before = [said("greetings")] if rng.random() < 0.5 else []
    for kind, share in (("chatter", 0.2), ("anger", 0.12)):
        if rng.random() < share:
            core = _shuffled(rng, [core, said(kind)])
    after = [said("closers")] if rng.random() < 0.5 else []
    text = " ".join([*before, _end(core) if after else core, *after])
    text = text[0].upper() + text[1:] if rng.random() < 0.5 else text
    if rng.random() < 0.05:
        text = re.sub(r"[a-z]+", lambda m: m.group().upper(), text)
    return _typos(rng, text) if rng.random() < 0.3 else text


def _typos(rng: Random, text: str) -> str:
    typed = text.split(" ")
    for _ in range(rng.randrange(1, 4)):
        i = rng.randrange(len(typed))
        if len(typed[i]) > 3 and typed[i].isalpha():
            j = rng.randrange(1, len(typed[i]) - 1)
            swapped = typed[i][:j] + typed[i][j + 1] + typed[i][j] + typed[i][j + 2 :]
            typed[i] = rng.choice((swapped, typed[i][:j] + typed[i][j + 1 :]))
    return " ".join(typed)


def _shuffled(rng: Random, parts: list[str]) -> str:
    rng.shuffle(parts)
    return " ".join(_end(p) for p in parts)


def _end(text: str) -> str:
    return text if text[-1] in ".!?:,]" else text + "."


@cache
def _texts(kind: str, split: str) -> tuple[str, ...]:
    """The templates of a kind or an intent: ours, and the examples of the shop's intent head."""
    ours = words("tickets", f"requests.{kind}" if kind in INTENTS else kind, split)
    written = _examples().get(kind)
    return ours + (part(written, split) if written else ())


@cache
def _examples() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    if not _EXAMPLES.is_file():
        return found
    for line in _EXAMPLES.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        text = _PLACEHOLDER.sub(_slot, row["text"])
        if _PERSON.search(text):
            continue  # a request of its own, which `person` teaches
        if "<" not in text.replace("<order", "").replace("<amount", "") or "[" not in text:
            found.setdefault(row["intent"], []).append(text)
    return found


def _slot(match: re.Match[str]) -> str:
    kind, number = match.groups()
    if kind == "TRACKING" or (kind == "ORDER" and number not in "12"):
        return match.group()
    suffix = "2" if kind == "ORDER" and number == "2" else ""
    return f"<{_SLOTS[kind]}{suffix}>"
