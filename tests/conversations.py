"""Conversations in which what must not be lost is known beforehand: between a customer and an agent
of a shop, a tenant and a landlord's office, two colleagues. What is planted is told apart from
what was only said, so that a summary can be judged without the probe that let it pass."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

from memory.records import Origin, Record

BEGIN: Final = 1_795_424_400.0  # 2026-11-23 09:00 UTC
_MINUTE: Final = 60.0

_CHATTER: Final = (
    "Thank you for getting back to me so quickly.", "I hope you had a good weekend.",
    "I understand how annoying this is.", "That sounds good to me.",
    "I am sorry for all the trouble this has caused.", "Let us look at it together, one by one.",
    "It was a present for my mother, and she was looking forward to it very much.",
    "I have been a happy customer for years, so this came as a surprise.",
    "The box looked fine from the outside, but inside everything was upside down.",
    "I looked everywhere in the house and asked the neighbours as well.",
    "Honestly, I did not expect that it would take this much back and forth.",
    "Our systems were a bit slow this morning, so thank you for your patience.",
    "I spoke with a colleague about it, and she had seen the same thing before.",
    "The colour is lovely, by the way, much nicer than in the pictures.",
    "That is what the description on the page says, as far as I remember.",
    "My dog was very interested in the box, which made unpacking quite an adventure.",
    "No worries, these things happen to all of us.", "Good to know, thanks for explaining.",
    "I have attached the pictures again, in case they got lost on the way.",
    "We had a lot of rain here, so perhaps the cardboard got wet on the porch.",
    "It does make a strange noise when it is switched on, a kind of humming.",
    "I read the manual twice, and it says nothing about that.",
    "That makes sense, I had not thought of it that way.", "I see, that explains a lot.",
    "Could you tell me a little more about what happened?",
    "Is there anything else that I can do for you?", "Which colour did you have in mind?",
    "The courier was friendly, but he seemed to be in a hurry.",
    "I can imagine that this is the last thing you needed in such a busy week.",
    "We are a small team, and everyone here cares about getting it right.",
)  # fmt: skip
_GREETINGS: Final = ("Hello,", "Hi there,", "Good morning,", "Thanks.", "Dear team,", "")
_FACTS: Final = {
    "customer": (
        "My order is {id}.", "I paid {amount} for it on {date}.", "The invoice says {amount}.",
        "It is about ticket {id}.", "The parcel came on {date} at {time}.",
        "You can reach me at {phone}.", "My address for receipts is {mail}.",
        "I ordered {count} of them under {id}.", "The tracking number is {track}.",
        "I was charged {amount} twice.", "Someone called me {near} about {id}.",
    ),
    "agent": (
        "I see order {id} over {amount} in your account.", "The parcel {track} left us on {date}.",
        "The part costs {amount} without the lamp.", "Your case number is {id}.",
        "We booked {amount} on {date}.", "The warehouse counted {count} of them on {date}.",
    ),
}  # fmt: skip
_BONDS: Final = {
    "customer": (
        "I will send the old one back by {date}.", "I'll pay the remaining {amount} {near}.",
        "You must never leave a parcel with the neighbours.",
        "I will be at home on {date} from {time}.", "Please always ring twice, the bell is broken.",
    ),
    "agent": (
        "We will refund {amount} to your card by {date}.", "I'll call you {near} at {time}.",
        "We will send a new lamp for {id} on {date}.", "You will get a label {near}.",
        "I promise you an answer by {date}.", "We'll take {amount} off your next order.",
        "Our team will collect {count} boxes on {date}.", "I will not charge you for {track}.",
        "Returns must be registered before {date}.", "We never ask for a card number by mail.",
    ),
}  # fmt: skip
_MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip


@dataclass
class Conversation:
    """Records of one session, and what was planted in them: `values` as they were written, and
    `bonds`, the promises and rules, word by word."""

    records: list[Record]
    values: list[str] = field(default_factory=list)
    bonds: list[str] = field(default_factory=list)


def message(
    number: int, who: str, text: str, session: str = "s1", *, pinned: bool = False
) -> Record:
    """One message, `number` minutes after the begin."""
    return Record(
        "acme", "message", f"session:{session}#{number}", text, BEGIN + _MINUTE * number,
        {"who": who}, tier="session", session=session, pinned=pinned,
        origin=Origin("user" if who == "customer" else "model", "" if who == "customer" else "m"),
    )  # fmt: skip


def conversation(seed: int, messages: int | None = None) -> Conversation:
    """A conversation of 20 to 40 messages (or `messages`), a third of which hold a fact, and one in
    seven a promise or a rule."""
    rng = Random(seed)
    made = Conversation([])
    for number in range(1, (messages or rng.randrange(20, 41)) + 1):
        who = "customer" if number % 2 else "agent"
        parts = [rng.choice(_GREETINGS), *rng.sample(_CHATTER, rng.choice((1, 2, 2, 3)))]
        if number == 1 or rng.random() < 0.3:
            parts.insert(rng.randrange(1, len(parts) + 1), _said(rng, made, _FACTS[who]))
        if rng.random() < 0.14:
            bond = _said(rng, made, _BONDS[who])
            made.bonds.append(bond)
            parts.insert(rng.randrange(1, len(parts) + 1), bond)
        text = " ".join(part for part in parts if part)
        made.records.append(message(number, who, text, f"s{seed}"))
    return made


def _said(rng: Random, made: Conversation, templates: tuple[str, ...]) -> str:
    template = rng.choice(templates)
    for name, make in _SLOTS.items():
        if "{" + name + "}" in template:
            value = make(rng)
            made.values.append(value)
            template = template.replace("{" + name + "}", value)
    return template


def _amount(rng: Random) -> str:
    cents = rng.randrange(100, 250_000)
    plain = f"{cents // 100}.{cents % 100:02}"
    german = f"{cents // 100:,}".replace(",", ".") + f",{cents % 100:02}"
    forms = (f"{plain} EUR", f"€{plain}", f"{german} €", f"EUR {cents // 100}", f"${plain}")
    return rng.choice(forms)


def _date(rng: Random) -> str:
    month, day, year = rng.randrange(1, 13), rng.randrange(1, 29), rng.choice((2026, 2027))
    name = _MONTHS[month - 1]
    forms = (
        f"{day} {name} {year}", f"{name} {day}, {year}", f"{year}-{month:02}-{day:02}",
        f"{day:02}.{month:02}.{year}", f"{day} {name[:3]}",
    )  # fmt: skip
    return rng.choice(forms)


def _id(rng: Random) -> str:
    number = rng.randrange(10_000, 100_000)
    return rng.choice(
        (f"LO-{number}", f"#{number}", f"INV-2026-{number}", f"PT-{number % 1000:03}")
    )


_SLOTS: Final[dict[str, Callable[[Random], str]]] = {
    "id": _id,
    "amount": _amount,
    "date": _date,
    "time": lambda rng: rng.choice((f"{rng.randrange(1, 12)} pm", f"{rng.randrange(8, 20)}:30")),
    "near": lambda rng: rng.choice(("tomorrow", "in 3 days", "on Friday", "next week", "today")),
    "phone": lambda rng: f"+49 170 {rng.randrange(10**6, 10**7)}",
    "mail": lambda rng: f"k{rng.randrange(1000)}@example.org",
    "count": lambda rng: str(rng.randrange(2, 60)),
    "track": lambda rng: f"LX{rng.randrange(10**8, 10**9)}DE",
}


Damage = Callable[[Random, str], str]
"""A summary becomes one with a flaw, or stays as it is where there is nothing to harm."""


def _drop(rng: Random, text: str) -> str:
    rows = [n for n, row in enumerate(text.splitlines()) if re.search(r"will|'ll|must|never", row)]
    gone = rng.choice(rows) if rows else -1
    return "\n".join(row for n, row in enumerate(text.splitlines()) if n != gone)


def _digit(rng: Random, text: str) -> str:
    place = rng.choice([m.start() for m in re.finditer(r"\d", text)])
    return text[:place] + str((int(text[place]) + rng.randrange(1, 10)) % 10) + text[place + 1 :]


def _deny(rng: Random, text: str) -> str:
    found = [*re.finditer(r" will(?! not)|'ll", text)]
    match = rng.choice(found) if found else None
    return text[: match.start()] + " will not" + text[match.end() :] if match else text


def _swap(rng: Random, text: str) -> str:
    """Another speaker for a row that says "I" or "we"."""
    rows = text.splitlines()
    own = [n for n, row in enumerate(rows) if re.search(r": (?:I|We)\b.*(?:will|'ll|promise)", row)]
    if own:
        n = rng.choice(own)
        was, now = ("agent", "customer") if rows[n].startswith("agent") else ("customer", "agent")
        rows[n] = rows[n].replace(was, now, 1)
    return "\n".join(rows)


def _invent(rng: Random, text: str) -> str:
    invented = ("agent: We will send a voucher.", "Amounts: 12.34 EUR.", "Order LO-00001 is lost.")
    return f"{text}\n{rng.choice(invented)}"


DAMAGES: Final[dict[str, Damage]] = {
    "a promise or rule dropped": _drop,
    "a digit changed": _digit,
    "a promise denied": _deny,
    "a promise by another speaker": _swap,
    "something invented": _invent,
}
