"""PURE: labels of values: who may have written them, and who may read them.

A label has an integrity (memory's trust: untrusted, tenant, trusted) and a confidentiality (public,
tenant, personal). Joined, the least trust and the narrowest confidentiality hold; what has no label
is untrusted and personal. Labels stand in the journal's events and are folded with them, by run: a
crash loses none, and no run sees another one's.

`agents/origins.py` says which values of a step are trusted.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Final, Literal, get_args

from memory.records import TRUSTS, Record, Trust

Sharing = Literal["public", "tenant", "personal"]
SHARINGS: Final = get_args(Sharing)
"""Rising: for anybody, for the tenant's own people, about one person."""


@dataclass(frozen=True)
class Label:
    """What holds of a value; without anything said, the worst."""

    trust: Trust = "untrusted"
    sharing: Sharing = "personal"

    def __str__(self) -> str:
        return f"{self.trust}/{self.sharing}"

    def joined(self, other: "Label") -> "Label":
        """The label of what was made from both."""
        trust = min(self.trust, other.trust, key=TRUSTS.index)
        return Label(trust, max(self.sharing, other.sharing, key=SHARINGS.index))


UNKNOWN: Final = Label()
PUBLIC: Final = Label("trusted", "public")
"""Of nothing: what every join begins with."""
OWN: Final = Label("trusted", "personal")
"""What our own records say of a customer."""
GIVEN: Final = Label("trusted", "tenant")
"""A run's input, as the caller gave it."""
_BY_NAME: Final = {str(each): each for each in (Label(t, s) for t in TRUSTS for s in SHARINGS)}


def parse(text: str) -> Label:
    """What `str` gave; UNKNOWN for anything else."""
    return _BY_NAME.get(text, UNKNOWN)


def join(labels: Iterable[Label]) -> Label:
    """The label of what was made from all of them; PUBLIC for nothing at all."""
    return reduce(Label.joined, labels, PUBLIC)


def of_input(untrusted: Iterable[str]) -> Label:
    """The label of a run's input some of whose fields hold outside text."""
    return UNKNOWN if any(untrusted) else GIVEN


# --- into memory and out of it


def of_record(record: Record) -> Label:
    """The label of a recalled record: personal unless its labels say public or tenant; personal
    if they say that as well, whatever else it was made from."""
    said = [sharing for sharing in SHARINGS if sharing in record.labels]
    sharing: Sharing = said[-1] if said else "personal"
    return Label(record.trust, sharing)


def for_record(label: Label) -> tuple[str, ...]:
    """The labels of a record that is made from what has this label. Its trust is memory's to say:
    an agent's word makes nothing trusted."""
    return (label.sharing,)
