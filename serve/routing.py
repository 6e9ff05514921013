"""PURE: which model should answer a request, and which ones stand in for it, with the reason.

The rules are simple and readable: what a request asks for decides the tier, what is alive and has
room decides the order. A model that the client names is replaced by another one only while it has
to start, and only where the client allows it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cluster.errors import InvalidInput
from cluster.settings import ModelSection
from serve.catalog import AUTO_FAST, AUTO_PLAN, ROUTING_NAMES, Catalog, cost_usd
from serve.features import Features
from serve.ranking import Quality, ranked, told

LONG_PROMPT_CHARS: Final = 2_400
_TIER_OF: Final = {
    "chat": "routine", "classify": "routine", "extract": "routine", "summarize": "routine",
    "plan": "planner", "reason": "planner", "code": "planner",
}  # fmt: skip


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
class Known:
    """What is known beside the request: each model's predicted quality, or in `blind` why there is
    none; the most that the request can come to on each model, USD; the model that its session
    is with; the models at other houses that its tenant has consented to."""

    quality: Mapping[str, Quality] = field(default_factory=dict)
    blind: str = ""
    worst_usd: Mapping[str, float] = field(default_factory=dict)
    kept: str = ""
    outside: tuple[str, ...] = ()


NOTHING: Final = Known()


@dataclass(frozen=True)
class Route:
    """The models to try, in order; why; and what the first one is expected to cost, USD.

    No models at all means that nothing which could answer is alive. `wakes` is a model that would
    be the first choice and sleeps: it is to start, whoever answers."""

    models: tuple[str, ...]
    reason: str
    predicted_usd: float
    wakes: str = ""


def route(
    features: Features, catalog: Catalog, load: Mapping[str, Load], known: Known = NOTHING
) -> Route:
    """Decide. Raises NotFound when the request names a model that there is not, InvalidInput when
    no model is sure to cost less than the request allows."""
    if features.model not in ROUTING_NAMES:
        model = catalog.model(features.model)
        if model in catalog.outside and model.id not in known.outside:
            expected = "a model of this house: the tenant has not consented to that one"
            raise InvalidInput("model", model.id, expected)
        _affordable([model.id], features, known)
        return _named(model, catalog, load, features)
    tier, reason = _tier(features)
    wanted, spoken = _speaking(_wanted(tier, catalog), features, catalog)
    wanted, reason = _affordable(wanted, features, known), reason + spoken
    asleep = _asleep(wanted[0], load)
    found = _able(wanted, features, catalog, load)
    away = _away(features, catalog, load, known)
    if not found:
        if asleep:
            return _route((asleep,), f"{reason}; {asleep} starts", catalog, features, asleep)
        return _route(away, f"{reason}; no engine is alive{_told_away(away)}", catalog, features)
    usd = {i: _usd(catalog.model(i), features) for i in found}
    ordered, why = _ordered(wanted, found, reason, features, load, known, usd)
    if away and all(load[i].full for i in found):
        why += f"; no engine has room{_told_away(away)}"
        ordered, usd = [*ordered, *away], usd | {i: _usd(catalog.model(i), features) for i in away}
    reason = f"{why}; {told(ordered, known.quality, usd)}"
    return Route(tuple(ordered), reason, usd[ordered[0]], asleep)


def able(features: Features, catalog: Catalog, load: Mapping[str, Load]) -> list[str]:
    """The models among which `route` would choose, whatever they cost; none for a named one."""
    if features.model not in ROUTING_NAMES:
        return []
    wanted, _ = _speaking(_wanted("planner", catalog), features, catalog)
    return _able(wanted, features, catalog, load)


def _wanted(tier: str, catalog: Catalog) -> list[str]:
    other = "routine" if tier == "planner" else "planner"
    return [*catalog.of_tier(tier), *catalog.of_tier(other)]


def _speaking(
    wanted: list[str], features: Features, catalog: Catalog
) -> tuple[list[str], str]:  # fmt: skip
    """Those that speak the language that was asked for, or all where none does; and what of that
    belongs into the reason."""
    language = features.language
    if not language:
        return wanted, ""
    speaking = [i for i in wanted if language in (catalog.model(i).languages or (language,))]
    if not speaking:
        return wanted, f"; no model speaks {language}"
    return speaking, f"; in {language}" if len(speaking) < len(wanted) else ""


def _able(
    wanted: list[str], features: Features, catalog: Catalog, load: Mapping[str, Load]
) -> list[str]:
    """Those that are alive and have room for the prompt; the living where none has."""
    alive = [i for i in wanted if _replicas(load, i) > 0]
    return [i for i in alive if _fits(catalog.model(i), features)] or alive


def _away(
    features: Features, catalog: Catalog, load: Mapping[str, Load], known: Known
) -> tuple[str, ...]:
    """The models at other houses that may stand in."""
    alive = [i for i in known.outside if _replicas(load, i) and _fits(catalog.model(i), features)]
    most, worst = features.max_cost_usd, known.worst_usd
    return tuple(i for i in alive if most is None or worst[i] <= most)


def _told_away(away: tuple[str, ...]) -> str:
    return f"; {away[0]}, outside, stands in" if away else ""


def _affordable(models: list[str], features: Features, known: Known) -> list[str]:
    most, worst = features.max_cost_usd, known.worst_usd
    if most is None:
        return models
    within = [i for i in models if worst[i] <= most]
    if not within:
        cheapest = min(models, key=lambda i: worst[i])
        expected = f"at least {worst[cheapest]:.9f}, which {cheapest} may come to"
        raise InvalidInput("mainspring.max_cost_usd", most, expected)
    return within


def _ordered(
    wanted: list[str], able: list[str], reason: str, features: Features,
    load: Mapping[str, Load], known: Known, usd: Mapping[str, float],
) -> tuple[list[str], str]:  # fmt: skip
    if known.kept in able:
        rest = sorted((i for i in able if i != known.kept), key=lambda i: load[i].full)
        return [known.kept, *rest], f"{known.kept} has the session{_unpromised(features, known)}"
    if features.open and known.quality.keys() >= set(able):
        able, reason = ranked(able, known.quality, usd, features.quality_target)
        wanted = able
    else:
        reason += _unpromised(features, known)
    ordered = sorted(able, key=lambda i: load[i].full)
    return ordered, reason + _detour(wanted, ordered, load)


def _unpromised(features: Features, known: Known) -> str:
    """What a decision without a prediction leaves open."""
    why = f"; {known.blind}" if known.blind else ""
    if features.quality_target is None:
        return why
    return f"; quality {features.quality_target:g} cannot be promised{why}"


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
    if features.quality_target is not None:
        return "planner", "quality asked for"
    if features.task:
        return _TIER_OF[features.task], f"task {features.task}"
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
    return Route(models, reason, _usd(catalog.model(models[0]), features), wakes)


def _usd(model: ModelSection, features: Features) -> float:
    return cost_usd(model, features.prompt_tokens, features.answer_tokens)


def _asleep(model: str, load: Mapping[str, Load]) -> str:
    """The model, when it has no replicas because nobody asked for it."""
    return model if model in load and load[model].wakes and not load[model].replicas else ""


def _replicas(load: Mapping[str, Load], model: str) -> int:
    return load[model].replicas if model in load else 0
