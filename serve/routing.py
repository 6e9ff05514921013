"""PURE: which model should answer a request, and which ones stand in for it, with the reason.

The rules are simple and readable: what a request asks for decides the tier, what is alive and has
room decides the order. A model that the client names is replaced by another one only while it has
to start, and only where the client allows it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cluster.settings import ModelSection
from serve.catalog import AUTO, AUTO_FAST, AUTO_PLAN, Catalog, cost_usd
from serve.schemas import ChatRequest

LONG_PROMPT_CHARS: Final = 2_400
CHARS_PER_TOKEN: Final = 4.0
USUAL_ANSWER_TOKENS: Final = 256
_SEARCHED_CHARS: Final = 4_000

_PLANNING = re.compile(
    r"\b(plan|plans|planning|step by step|steps|strategy|schedule|workflow|break (?:it|this) down"
    r"|design|prove|derive|analy[sz]e|compare|refactor|debug)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Features:
    """What routing looks at. `prompt_chars` counts all text of all messages;
    `asked_tokens` is the most that one answer may hold, 0 when the client set no limit."""

    model: str
    prompt_chars: int
    answer_tokens: int
    asked_tokens: int = 0
    structured: bool = False
    tools: bool = False
    planning_words: bool = False
    fallback: bool = False

    @property
    def prompt_tokens(self) -> int:
        """An estimate: the gateway holds no tokenizer."""
        return int(self.prompt_chars / CHARS_PER_TOKEN) + 1


@dataclass(frozen=True)
class Load:
    """One model now: live replicas, requests in work from here, and how many may be at once.

    Then what its engines tell: requests that generate and that wait, the fullest one's share of KV
    cache in use, and what answers take of late from sending to the first and to the last byte,
    seconds; zero while nothing is known. A model that `wakes` may be without replicas, and starts
    when it is asked for."""

    replicas: int
    in_work: int
    capacity: int
    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    ttft_s: float = 0.0
    service_s: float = 0.0
    wakes: bool = False

    @property
    def full(self) -> bool:
        return self.in_work >= self.capacity


@dataclass(frozen=True)
class Route:
    """The models to try, in order; why; and what the first one is expected to cost, USD.

    No models at all means that nothing which could answer is alive. `wakes` is a model that would
    be the first choice and sleeps: it is to start, whoever answers."""

    models: tuple[str, ...]
    reason: str
    predicted_usd: float
    wakes: str = ""


def features_of(request: ChatRequest) -> Features:
    """The features of a request, from its own fields only."""
    texts = [text for m in request.messages for text in _texts(m.content)]
    kind = (request.response_format or {}).get("type")
    last_user = next((m for m in reversed(request.messages) if m.role == "user"), None)
    asked = " ".join(_texts(last_user.content))[:_SEARCHED_CHARS] if last_user else ""
    return Features(
        model=request.model,
        prompt_chars=sum(map(len, texts)),
        answer_tokens=(request.limit or USUAL_ANSWER_TOKENS) * (request.n or 1),
        asked_tokens=request.limit or 0,
        structured=kind in {"json_schema", "json_object"},
        tools=_calls_tools(request),
        planning_words=bool(_PLANNING.search(asked)),
        fallback=request.mainspring.fallback,
    )


def _calls_tools(request: ChatRequest) -> bool:
    """Whether the answer may be tool calls, or goes on from their results: in the middle of a tool
    loop the tier stays, also when the last round is asked for without tools."""
    if request.messages[-1].role == "tool":
        return True
    return bool(request.tools) and request.tool_choice != "none"


def route(features: Features, catalog: Catalog, load: Mapping[str, Load]) -> Route:
    """Decide. Raises NotFound when the request names a model that there is not."""
    if features.model not in {AUTO, AUTO_FAST, AUTO_PLAN}:
        model = catalog.model(features.model)
        return _named(model, catalog, load, features)
    tier, reason = _tier(features)
    other = "routine" if tier == "planner" else "planner"
    wanted = [*catalog.of_tier(tier), *catalog.of_tier(other)]
    alive_ids = [i for i in wanted if _replicas(load, i) > 0]
    asleep = _asleep(wanted[0], load)
    if not alive_ids:
        if asleep:
            return _route((asleep,), f"{reason}; {asleep} starts", catalog, features, asleep)
        return _route((), f"{reason}; no engine is alive", catalog, features)
    fitting = [i for i in alive_ids if _fits(catalog.model(i), features)] or alive_ids
    ordered = sorted(fitting, key=lambda i: load[i].full)
    reason += _detour(wanted, ordered, load)
    return _route(tuple(ordered), reason, catalog, features, asleep)


def _named(
    model: ModelSection, catalog: Catalog, load: Mapping[str, Load], features: Features
) -> Route:
    """The named model and no other, unless it sleeps and the client does not insist on it."""
    asleep = _asleep(model.id, load)
    if not asleep:
        alive = _replicas(load, model.id) > 0
        reason = "named by the client" if alive else "named by the client, but not alive"
        return _route((model.id,) if alive else (), reason, catalog, features)
    others = [m for m in catalog.models if _replicas(load, m.id) > 0 and _fits(m, features)]
    if not (features.fallback and others):
        return _route((asleep,), "named by the client; it starts", catalog, features, asleep)
    others.sort(key=lambda m: load[m.id].full)
    models = tuple(m.id for m in others)
    return _route(models, f"{asleep}, named by the client, starts", catalog, features, asleep)


def _tier(features: Features) -> tuple[str, str]:
    if features.model == AUTO_FAST:
        return "routine", "auto-fast"
    if features.model == AUTO_PLAN:
        return "planner", "auto-plan"
    if features.structured:
        return "planner", "structured answer"
    if features.tools:
        return "planner", "tools offered"
    if features.prompt_chars > LONG_PROMPT_CHARS:
        return "planner", f"long prompt of {features.prompt_chars} characters"
    if features.planning_words:
        return "planner", "words of planning"
    return "routine", "short and plain"


def _detour(wanted: list[str], ordered: list[str], load: Mapping[str, Load]) -> str:
    first = wanted[0]
    if ordered[0] == first:
        return ""
    if _replicas(load, first) == 0:
        return f"; {first} is not alive"
    return f"; {first} is full" if load[first].full else f"; too long for {first}"


def _fits(model: ModelSection, features: Features) -> bool:
    return features.prompt_tokens + features.asked_tokens < model.max_model_len


def _route(
    models: tuple[str, ...], reason: str, catalog: Catalog, features: Features, wakes: str = ""
) -> Route:
    if not models:
        return Route((), reason, 0.0)
    price = cost_usd(catalog.model(models[0]), features.prompt_tokens, features.answer_tokens)
    return Route(models, reason, price, wakes)


def _asleep(model: str, load: Mapping[str, Load]) -> str:
    """The model, when it has no replicas because nobody asked for it."""
    return model if model in load and load[model].wakes and not load[model].replicas else ""


def _replicas(load: Mapping[str, Load], model: str) -> int:
    return load[model].replicas if model in load else 0


def _texts(content: str | list[dict[str, Any]] | None) -> list[str]:
    if isinstance(content, str):
        return [content]
    parts = [part.get("text") for part in content or ()]
    return [text for text in parts if isinstance(text, str)]
