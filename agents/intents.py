"""Signed intents: what a connector wants to see before it does anything.

A token is a biscuit that the orchestrator mints once a step's decision is on disk: for this run and
step, this tool, the hash of these canonical arguments, this effect's key, this ticket, at most this
amount, a few seconds long, once. Who holds it can narrow it further (a biscuit's blocks only add
checks) and never widen it. The connector's side (`Guard`) verifies it in the connector's own
process; a token that it refuses leaves a line behind (`agents/refusals.py`).

Single use is remembered until a token expires. A connector that was restarted has forgotten, so it
refuses every token from before its start; the orchestrator, which may be telling the truth, makes a
new one then, and the effect's key still keeps it from being done twice.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from biscuit_auth import (
    AuthorizationError,
    AuthorizerBuilder,
    Biscuit,
    BiscuitBuilder,
    BiscuitSerializationError,
    BiscuitValidationError,
    DataLogError,
    Rule,
)

from agents.digests import digest
from agents.intent_keys import Signing, Trusted
from agents.tools import TOOLS
from cluster.errors import IntentRefused, Overloaded
from cluster.ids import Clock

LOOKUP: Final = "lookup"
"""The tool of a token that lets its holder look for an effect by its key."""
MAX_BYTES: Final = 4_096
_MAX_REMEMBERED: Final = 200_000
# The library's own limit of 1 ms refuses valid tokens on a busy machine.
_LIMIT: Final = timedelta(milliseconds=50)
_TOKEN: Final = (
    "intent({run}, {step}, {tool}, {digest}, {key}, {ticket}); issued({at}); expires({until});"
    " check if time($t), $t < {until}; check if spends($c), $c <= {most};"
)
_ALLOW: Final = (
    "time({now}); spends({cents}); allow if intent($run, $step, {tool}, {digest}, {key}, {ticket});"
)
_SAID: Final = Rule(
    "said($run, $tool, $digest, $key, $at, $until) <-"
    " intent($run, $step, $tool, $digest, $key, $ticket), issued($at), expires($until)"
)


@dataclass(frozen=True)
class Call:
    """What a connector is asked to do: `tool` on `ticket` with `args`, under the effect's `key`."""

    tool: str
    key: str
    ticket: str
    args: dict[str, Any]

    @property
    def cents(self) -> int:
        """What it spends; 0 for a tool that spends nothing."""
        name = TOOLS[self.tool].amount if self.tool in TOOLS else ""
        return int(self.args.get(name, 0)) if name else 0


class Mint:
    """The orchestrator's side. A token is good for `lifetime_s` seconds."""

    def __init__(self, signing: Signing, clock: Clock, lifetime_s: float) -> None:
        self._signing, self._clock, self._lifetime_s = signing, clock, lifetime_s

    def mint(self, run: str, step: str, call: Call) -> bytes:
        """A token for this call of this step."""
        number, private = self._signing.key()
        now = self._clock.now()
        builder = BiscuitBuilder(
            _TOKEN,
            {
                "run": run, "step": step, "tool": call.tool, "key": call.key,
                "digest": digest(call.tool, call.args), "ticket": call.ticket,
                "at": _millis(now), "until": _millis(now + self._lifetime_s), "most": call.cents,
            },
        )  # fmt: skip
        builder.set_root_key_id(number)
        return bytes(builder.build(private).to_bytes())


Record = Callable[[Call, IntentRefused], None]
"""Keeps what was refused, and why."""


class Guard:
    """The connector's side; from several threads. `record` is told of every refusal."""

    def __init__(self, trusted: Trusted, clock: Clock, record: Record) -> None:
        self._trusted, self._clock, self._record = trusted, clock, record
        self._since = _millis(clock.now())
        self._lock = threading.Lock()
        self._used: dict[str, int] = {}

    def require(self, token: bytes, call: Call) -> None:
        """Raises IntentRefused unless `token` is for this call, now, the first time. Overloaded
        when too many tokens would have to be remembered."""
        try:
            self._require(token, call)
        except IntentRefused as refused:
            self._record(call, refused)
            raise

    def _require(self, token: bytes, call: Call) -> None:
        biscuit = self._verified(token)
        now = _millis(self._clock.now())
        given: dict[str, Any] = {
            "now": now, "cents": call.cents, "tool": call.tool, "key": call.key,
            "digest": digest(call.tool, call.args), "ticket": call.ticket,
        }  # fmt: skip
        builder: Any = AuthorizerBuilder(_ALLOW, given)
        limits = builder.limits()
        limits.max_time = _LIMIT
        builder.set_limits(limits)
        with _readable():
            authorizer = builder.build(biscuit)
            said = authorizer.query(_SAID)
            if len(said) != 1:
                raise IntentRefused("altered", "it says not one thing")
            _, tool, bound, key, at, until = said[0].terms
        try:
            with _readable():
                authorizer.authorize()
        except AuthorizationError:
            raise _why_not(call, given["digest"], tool, bound, key, until <= now) from None
        if at < self._since:
            raise IntentRefused("early", "it is from before this connector began")
        self._use(biscuit.revocation_ids[0], until, now)

    def _verified(self, token: bytes) -> Biscuit:
        if not token or len(token) > MAX_BYTES:
            raise IntentRefused("missing", f"a token of 1 to {MAX_BYTES} bytes is needed")
        number, public = self._trusted.key()
        claimed: list[int | None] = []

        def root(by: int | None) -> Any:
            claimed.append(by)
            return public

        try:
            biscuit = Biscuit.from_bytes(token, root)
        except (BiscuitValidationError, BiscuitSerializationError, ValueError) as error:
            if claimed and claimed[0] != number:
                raise _rotated(claimed[0]) from None
            raise IntentRefused("altered", f"its signature does not fit ({error})") from None
        if claimed != [number]:
            raise _rotated(claimed[0] if claimed else None)
        # The signature covers the blocks and not the envelope around them.
        if bytes(biscuit.to_bytes()) != token:
            raise IntentRefused("altered", "it is not as it was written")
        return biscuit

    def _use(self, id: str, until: int, now: int) -> None:
        with self._lock:
            if id in self._used:
                raise IntentRefused("replayed", "it was used before")
            if len(self._used) >= _MAX_REMEMBERED:
                self._used = {i: u for i, u in self._used.items() if u > now}
            if len(self._used) >= _MAX_REMEMBERED:
                raise Overloaded("intents", f"{len(self._used)} tokens are in use", 1.0)
            self._used[id] = until


@contextmanager
def _readable() -> Iterator[None]:
    """What is no Datalog, or takes too long, is refused."""
    try:
        yield
    except (DataLogError, ValueError) as error:
        raise IntentRefused("altered", f"it can't be evaluated ({error})") from None


def _rotated(number: int | None) -> IntentRefused:
    return IntentRefused("rotated", f"key {number} is no longer trusted")


def _why_not(
    call: Call, bound_to: str, tool: str, bound: str, key: str, late: bool
) -> IntentRefused:
    if late:
        return IntentRefused("expired", "its time is over")
    if tool != call.tool:
        return IntentRefused("other tool", f"it is for {tool}")
    if key != call.key:
        return IntentRefused("other run", "it is for another run's or step's effect")
    if bound != bound_to:
        return IntentRefused("other arguments", "it is for other arguments")
    return IntentRefused("narrowed", "a check that was added to it does not hold")


def _millis(seconds: float) -> int:
    return int(seconds * 1000)
