"""Gathers what is known beside a request, and has `routing` decide by it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from cluster.ids import Clock
from cluster.settings import OutsideSection
from serve.budgets import Worst, usd_of, worst_case
from serve.calls import CHAT_PATH, Call
from serve.catalog import Catalog
from serve.features import Features, asked_by, features_of
from serve.outside import consented
from serve.predictor import Predictor
from serve.questions import Keeper
from serve.ranking import Quality
from serve.routing import Known, Load, Route, able, route
from serve.schemas import ChatRequest
from serve.sessions import Sessions


@dataclass(frozen=True)
class Decision:
    """Where a request of a session goes; `learn` keeps its question for the router to learn
    from, where that may be."""

    route: Route
    features: Features
    tenant: str
    session: str
    sessions: Sessions
    learn: Callable[[], None] | None = None

    def answered(self, model: str) -> None:
        """This model took it: its session goes on there."""
        self.sessions.answered(self.tenant, self.session, self.features, model)
        if self.learn is not None:
            self.learn()


class Decisions:
    """Where requests go; without a `predictor` by rules alone."""

    def __init__(
        self, catalog: Catalog, predictor: Predictor | None, clock: Clock,
        outside: Sequence[OutsideSection] = (), keeper: Keeper | None = None,
    ) -> None:  # fmt: skip
        self._catalog, self._predictor, self._clock = catalog, predictor, clock
        self._keeper = keeper
        self._outside = tuple(outside)
        self._sessions = Sessions(clock)

    async def decide(
        self, request: ChatRequest, call: Call, session: str, load: Mapping[str, Load]
    ) -> Decision:
        """Raises what `route` raises."""
        features = features_of(request)
        kept = self._sessions.model(call.tenant, session, features)
        quality, blind = await self._predicted(request, features, call, kept, load)
        worst = self._worst_usd(request, call) if features.max_cost_usd is not None else {}
        away = consented(self._outside, call.tenant) if self._outside else ()
        known = Known(quality, blind, worst, kept, away)
        chosen = route(features, self._catalog, load, known)
        learn = None
        if self._keeper is not None and call.path == CHAT_PATH and not features.hard:
            learn = partial(self._keeper.offer, call, asked_by(request))
        return Decision(chosen, features, call.tenant, session, self._sessions, learn)

    async def _predicted(
        self, request: ChatRequest, features: Features, call: Call, kept: str,
        load: Mapping[str, Load],
    ) -> tuple[Mapping[str, Quality], str]:  # fmt: skip
        models = able(features, self._catalog, load) if features.open else []
        if self._predictor is None or kept in models or len(models) < 2:
            return {}, ""
        left = call.deadline - self._clock.monotonic()
        return await self._predictor.predict(asked_by(request), models, left)

    def _worst_usd(self, request: ChatRequest, call: Call) -> dict[str, float]:
        names = [m.id for m in (*self._catalog.models, *self._catalog.outside)]
        return {i: usd_of(worst_of(self._catalog, request, call, (i,)).nano) for i in names}


def worst_of(catalog: Catalog, request: ChatRequest, call: Call, names: Sequence[str]) -> Worst:
    """The most that the request can come to on any of these models."""
    models = [catalog.model(name) for name in names]
    return worst_case(models, call.body_bytes, request.limit, request.n or 1, bool(request.stream))
