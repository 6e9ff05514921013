"""Tokens that must be refused, by how they came about: for the tests and for the benchmark."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

from biscuit_auth import Biscuit, BlockBuilder
from hypothesis import strategies as st

from agents.guarding import KEYS, REFUSED
from agents.intent_keys import Signing, Trusted, ensure, rotate
from agents.intents import Call, Guard, Mint
from agents.refusals import Refusals
from cluster.ids import Clock

Draw = Callable[[st.SearchStrategy[Any]], Any]

KINDS: Final[dict[str, set[str]]] = {
    "replayed": {"replayed"},
    "expired": {"expired"},
    "altered": {"altered", "rotated", "missing"},
    "widened": {"other arguments", "altered", "narrowed", "other run"},
    "other arguments": {"other arguments"},
    "other run": {"other run"},
    "rotated key": {"rotated"},
    "another's key": {"altered"},
}
"""The reasons that are right, by kind."""

_NAMES: Final = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
_CENTS: Final = st.integers(1, 10**9)
_CALLS: Final = st.builds(
    Call,
    tool=st.just("refund"),
    key=st.text("0123456789abcdef", min_size=40, max_size=40),
    ticket=_NAMES,
    args=st.fixed_dictionaries({"order": _NAMES, "amount_cents": _CENTS}),
)


class Steps(Clock, Protocol):
    def step(self, seconds: float) -> None:
        """Go on by so many seconds."""


class Office:
    """An orchestrator's mint and a connector's guard, on the keys of one folder."""

    def __init__(self, folder: Path, clock: Steps) -> None:
        self.folder, self.file = folder / KEYS, folder / REFUSED
        ensure(self.folder)
        self.clock = clock
        self.refusals = Refusals(self.file, self.clock)
        self.mint = Mint(Signing(self.folder), self.clock, 30.0)
        self.trusted = Trusted(self.folder)
        self.guard = Guard(self.trusted, self.clock, self.refusals.record)


def forged(office: Office, kind: str, draw: Draw) -> tuple[bytes, Call]:
    """A token of this kind, and the call that it is shown for."""
    call: Call = draw(_CALLS)
    run, step = draw(_NAMES), draw(_NAMES)
    token = office.mint.mint(run, step, call)
    if kind == "replayed":
        office.guard.require(token, call)
    elif kind == "expired":
        office.clock.step(draw(st.floats(30.001, 1e6)))
    elif kind == "altered":
        place = draw(st.integers(0, len(token) - 1))
        token = _flipped(token, place, draw(st.integers(1, 255)))
    elif kind == "rotated key":
        rotate(office.folder)
    elif kind == "another's key":
        other = Office(office.folder.parent / "other", office.clock)
        token = other.mint.mint(run, step, call)
    elif kind == "other run":
        call = replace(call, key=call.key[::-1] if call.key != call.key[::-1] else "f" * 40)
    else:
        call = replace(call, args={**call.args, **_other(draw, call, kind)})
        token = _appended(office, token, call) if kind == "widened" else token
    return token, call


def _other(draw: Draw, call: Call, kind: str) -> dict[str, Any]:
    more = call.cents + draw(_CENTS)
    if kind == "widened":
        return {"amount_cents": more}
    changes: st.SearchStrategy[dict[str, Any]] = st.one_of(
        st.just({"amount_cents": more}),
        _NAMES.filter(lambda n: n != call.args["order"]).map(lambda n: {"order": n}),
        _NAMES.map(lambda n: {f"x{n}": 1}),
    )
    found: dict[str, Any] = draw(changes)
    return found


def _appended(office: Office, token: bytes, call: Call) -> bytes:
    """The token with a block that claims what would be needed."""
    _, public = Trusted(office.folder).key()
    claims = BlockBuilder(
        "intent({r}, {r}, {tool}, {d}, {key}, {ticket}); spends({c}); expires({e}); issued({e});",
        {
            "r": "run", "tool": call.tool, "d": "0" * 64, "key": call.key,
            "ticket": call.ticket, "c": 0, "e": 10**13,
        },
    )  # fmt: skip
    return bytes(Biscuit.from_bytes(token, public).append(claims).to_bytes())


def _flipped(token: bytes, place: int, by: int) -> bytes:
    changed = bytearray(token)
    changed[place] ^= by
    return bytes(changed)
