"""Models at somebody else's house: OpenAI-compatible addresses beside our own engines.

Off unless the settings name one (`outside`). Even then a request goes out only for a tenant that
has consented, when the client names the model, or says `auto` while none of our own engines is
alive or has room. What is personal is taken out of it first and put back into the answer:
`agents/pii.py` says what is found, without an account to know names from; `serve/naming.py` what
a model of ours reads as names where the settings name one. All that goes there together is held to
a budget of the address's own, beside the caller's. Chat completions of text only: what else a
message may hold, and fields that are vLLM's own, stay here.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from agents.pii import Detector, Vault
from cluster.errors import ConfigError, InvalidInput, MainspringError, Overloaded, Unavailable
from cluster.ids import Clock
from cluster.settings import ModelSection, OutsideSection
from cluster.telemetry import logger
from serve.admission import Admission
from serve.bill import Bill
from serve.budgets import UNLIMITED, BudgetExceeded, Caller, worst_case
from serve.calls import CHAT_PATH, Answer, Call, Engines
from serve.circuits import Circuits
from serve.metering import Meter
from serve.naming import PROTOCOL, Naming
from serve.routing import Load, Route
from serve.schemas import encode
from serve.wire import Failed, Hung, Reply, Wire

log = logger("outside")

TENANT: Final = "mainspring-outside"
"""Whose budgets hold for what goes out, each address as a key of its own."""
EVERYBODY: Final = "*"
_SENT: Final = frozenset(
    """messages max_tokens max_completion_tokens temperature top_p stop seed n stream stream_options
    tools tool_choice parallel_tool_calls response_format presence_penalty frequency_penalty
    logprobs top_logprobs""".split()
)
_LONGEST: Final = len("[ADDRESS_99999]")


def model_of(section: OutsideSection) -> ModelSection:
    """The address as a model of the catalog."""
    return ModelSection(
        id=section.id, source=section.url, tier="outside", max_model_len=section.max_model_len,
        usd_per_mtok_in=section.usd_per_mtok_in, usd_per_mtok_out=section.usd_per_mtok_out,
    )  # fmt: skip


def consented(sections: Iterable[OutsideSection], tenant: str) -> tuple[str, ...]:
    """The models that a tenant's requests may go to."""
    return tuple(s.id for s in sections if {EVERYBODY, tenant} & set(s.consent))


@dataclass
class _Place:
    """One address: `in_work` are requests there now."""

    section: OutsideSection
    model: ModelSection
    key: str = field(repr=False)
    in_work: int = 0


class Outside:
    """`Engines` that send what `inner` has no engine for to the addresses of their routes."""

    def __init__(
        self, inner: Engines, sections: Iterable[OutsideSection], admission: Admission,
        meter: Meter, clock: Clock, more: Sequence[Detector] = (),
    ) -> None:  # fmt: skip
        """`more` find personal data beside our own patterns. ConfigError when the variable with an
        address's key is not set."""
        self._inner, self._admission, self._meter, self._clock = inner, admission, meter, clock
        self._places = {s.id: _Place(s, model_of(s), _key(s)) for s in sections}
        self._more = more
        self._wire, self._circuits = Wire(clock, decompress=True), Circuits(clock)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._wire.close()

    def load(self) -> dict[str, Load]:
        """See `Engines`; an address that fails again and again is not alive."""
        return self._inner.load() | {
            name: Load(int(self._circuits.may(name)), place.in_work, place.section.at_once)
            for name, place in self._places.items()
        }

    async def send(self, route: Route, call: Call) -> Answer:
        """See `Engines`."""
        ours = tuple(name for name in route.models if name not in self._places)
        refusal: MainspringError | None = None
        if ours or not route.models:
            try:
                return await self._inner.send(replace(route, models=ours), call)
            except (Overloaded, Unavailable) as error:
                if len(ours) == len(route.models):
                    raise
                refusal = error
        for name in route.models:
            if name in self._places:
                try:
                    return await self._ask(self._places[name], call)
                except (Overloaded, Unavailable, BudgetExceeded) as error:
                    # For who did not name it, that ours have no room is what there is to say.
                    refusal = refusal or error
        assert refusal is not None
        raise refusal

    async def _ask(self, place: _Place, call: Call) -> Answer:
        name = place.section.id
        more = list(self._more)
        if place.section.names_by and call.path == CHAT_PATH:
            naming = Naming(self._inner, place.section.names_by, self._clock)
            more.append(await naming.detector(call))
        vault = Vault(more=more)
        if more:  # milliseconds for each text: not in the event loop
            payload = await asyncio.to_thread(outgoing, call, place.section.model, vault)
        else:
            payload = outgoing(call, place.section.model, vault)
        if place.in_work >= place.section.at_once:
            raise Overloaded(f"model {name}", f"{place.in_work} requests are there", 2.0)
        if not self._circuits.may(name):
            raise Unavailable(f"model {name}", "its address failed again and again", 5.0)
        bill = await self._let_out(place, call)
        place.in_work += 1
        self._circuits.begin(name)
        sent = self._clock.monotonic()
        try:
            body = encode(payload)
            reply = await self._wire.ask(place.section.url, place.key, body, call)
        except BaseException as error:
            place.in_work -= 1
            bill.release()
            self._judge(name, error)
            if isinstance(error, Failed):
                log.warning("%s at %s: %s", name, place.section.url, error)
                raise Unavailable(f"model {name}", "its address does not answer", 2.0) from None
            raise
        self._circuits.answering(name)
        return self._answer(place, call, sent, reply, vault, bill)

    def _answer(
        self, place: _Place, call: Call, sent: float, reply: Reply, vault: Vault, bill: Bill
    ) -> Answer:
        meter = call.meter(place.model, call.wants_usage)
        body = _restored(reply.body, vault.render) if reply.body else b""
        answer = Answer(place.model, call, sent, meter, body)
        answer.first_byte = self._clock.monotonic()
        self._meter.sent(place.model.id, sent - call.arrived)
        self._meter.first_byte(
            place.model.id, answer.first_byte - call.arrived, answer.first_byte - sent
        )
        if call.stream:
            answer.chunks = _stream(answer, reply, vault.render)
        answer.on_release.append(lambda answer: self._over(answer, place, reply, bill))
        return answer

    async def _let_out(self, place: _Place, call: Call) -> Bill:
        """Reserve of the address's own budget. BudgetExceeded when it is spent."""
        given = call.payload
        limit = given.get("max_completion_tokens") or given.get("max_tokens")
        worst = worst_case([place.model], call.body_bytes, limit, given.get("n") or 1, call.stream)
        left = max(0.0, call.deadline - self._clock.monotonic())
        caller = Caller(TENANT, place.section.id)
        hold = await self._admission.enter(caller, UNLIMITED, worst, left)
        return Bill(self._admission, hold, place.section.id, f"outside for {call.request_id}")

    def _over(self, answer: Answer, place: _Place, reply: Reply, bill: Bill) -> None:
        reply.close()
        place.in_work -= 1
        answer.engine_s = self._clock.monotonic() - answer.sent
        if answer.status == 200:
            self._circuits.succeeded(place.section.id)
        elif answer.status == 502:
            self._circuits.failed(place.section.id)
        else:
            self._circuits.undecided(place.section.id)
        self._meter.done(
            answer.model.id, answer.status, answer.usage, answer.engine_s, answer.inter_token_s
        )
        bill.settle(answer)

    def _judge(self, name: str, error: BaseException) -> None:
        if isinstance(error, Failed | Hung):
            if self._circuits.failed(name):
                self._meter.opened(name)
        else:
            self._circuits.undecided(name)


def outgoing(call: Call, model: str, vault: Vault) -> dict[str, Any]:
    """PURE: what is sent there for a call: OpenAI's own fields, with nothing personal in the texts.

    InvalidInput for a form or a message that does not go out."""
    if call.path != CHAT_PATH:
        raise InvalidInput("model", model, f"{CHAT_PATH}: nothing else goes to an outside model")
    for number, message in enumerate(call.payload["messages"]):
        parts = message.get("content")
        for part in parts if isinstance(parts, list) else ():
            if part.get("type") != "text":
                where = f"messages[{number}].content"
                raise InvalidInput(where, part.get("type"), "text: nothing else goes outside")
    sent = {name: value for name, value in call.payload.items() if name in _SENT}
    sent["messages"] = _redacted(sent["messages"], vault)
    if "tools" in sent:
        sent["tools"] = [_described(tool, vault) for tool in sent["tools"]]
    return {**sent, "model": model}


def _redacted(value: Any, vault: Vault, name: str = "") -> Any:
    if isinstance(value, str):
        return value if name in PROTOCOL else vault.redact(value)
    if isinstance(value, list):
        return [_redacted(each, vault, name) for each in value]
    if isinstance(value, dict):
        return {key: _redacted(each, vault, key) for key, each in value.items()}
    return value


def _described(tool: Any, vault: Vault) -> Any:
    """A tool's descriptions without what is personal; its names and schema as they are."""
    if isinstance(tool, dict):
        return {
            key: vault.redact(each)
            if key == "description" and isinstance(each, str)
            else _described(each, vault)
            for key, each in tool.items()
        }
    return [_described(each, vault) for each in tool] if isinstance(tool, list) else tool


def _restored(body: bytes, render: Callable[[str], str]) -> bytes:
    """A whole answer with what is personal put back."""
    try:
        answer = json.loads(body)
        for choice in answer["choices"]:
            _render(choice["message"], lambda text, _: render(text))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Unavailable("the outside model", "its answer is no chat completion") from None
    return encode(answer)


def _render(said: dict[str, Any], render: Callable[[str, str], str]) -> None:
    """Put values back into a message, or a piece of one: its text and its calls' arguments."""
    if isinstance(said.get("content"), str):
        said["content"] = render(said["content"], "content")
    for call in said.get("tool_calls") or ():
        function = call.get("function") or {}
        if isinstance(function.get("arguments"), str):
            where = f"call {call.get('index', 0)}"
            function["arguments"] = render(function["arguments"], where)


class Rendering:
    """A stream's texts with what is personal put back, though a placeholder may come in pieces:
    what may be the beginning of one is held until it is clear."""

    def __init__(self, render: Callable[[str], str]) -> None:
        self._whole = render
        self._held: dict[tuple[int, str], str] = {}

    def feed(self, events: bytes) -> bytes:
        """Whole events in, whole events out."""
        return b"".join(self._event(e + b"\n\n") for e in events.split(b"\n\n") if e)

    def _event(self, event: bytes) -> bytes:
        data = event.removeprefix(b"data: ")
        if not data.startswith(b"{"):
            return event
        piece = json.loads(data)
        for choice in piece.get("choices") or ():
            self._choice(choice)
        return b"data: " + encode(piece) + b"\n\n"

    def _choice(self, choice: dict[str, Any]) -> None:
        index = int(choice.get("index", 0))
        delta = choice.setdefault("delta", {})
        over = choice.get("finish_reason") is not None

        def render(text: str, where: str) -> str:
            whole = self._held.pop((index, where), "") + text
            cut = len(whole) if over else _open_at(whole)
            if cut < len(whole):
                self._held[(index, where)] = whole[cut:]
            return self._whole(whole[:cut])

        _render(delta, render)
        if over and (rest := self._held.pop((index, "content"), "")):
            delta["content"] = self._whole(rest)


def _open_at(text: str) -> int:
    """Where a placeholder begins that the end of `text` may have cut off; its length for none."""
    at = text.rfind("[", -_LONGEST)
    return len(text) if at < 0 or "]" in text[at:] else at


async def _stream(
    answer: Answer, reply: Reply, render: Callable[[str], str]
) -> AsyncIterator[bytes]:
    meter, rendering = answer.meter, Rendering(render)
    if passed := meter.feed(reply.first):
        yield rendering.feed(passed)
    async for data in reply.rest(lambda: 0.0):
        if passed := meter.feed(data):
            yield rendering.feed(passed)
    if rest := meter.finish():
        yield rendering.feed(rest)


def _key(section: OutsideSection) -> str:
    value = os.environ.get(section.api_key_env, "") if section.api_key_env else ""
    if section.api_key_env and not value:
        where = f"outside.{section.id}.api_key_env"
        raise ConfigError(where, section.api_key_env, "a variable that is set")
    return value
