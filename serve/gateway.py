"""The one address: an ASGI app that admits, routes, passes on and meters.

Here it is put together. `door.py` tells who comes and turns away who may not; `admission.py` holds
the limits; what is asked of the engines goes through `Engines`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fastapi import APIRouter, FastAPI

from agents.packs import NO_PACKS, Pack
from cluster.ids import Clock, Ids, SystemClock, SystemIds
from cluster.settings import GatewaySection, OutsideSection
from serve.admission import Admission
from serve.books import Books
from serve.budget_metrics import BudgetMetrics
from serve.calls import Engines
from serve.catalog import Catalog
from serve.console import console_routes
from serve.decisions import Decisions
from serve.description import OPENAPI_PATH, describe
from serve.door import BodyLimit, Door
from serve.doorkeeper import Doorkeeper
from serve.keys import digest_of
from serve.metering import Meter
from serve.predictor import Predictor
from serve.problems import install
from serve.quality_versions import Versions
from serve.questions import Keeper
from serve.readiness import Readiness
from serve.routes.agents import AgentRoutes
from serve.routes.feedback import FeedbackRoutes
from serve.routes.generation import GenerationRoutes
from serve.routes.lists import ListRoutes
from serve.routes.mcp import PATH as MCP
from serve.routes.mcp import McpEndpoint
from serve.routes.openai import Embed, OpenAIRoutes
from serve.routes.operations import OperationsRoutes
from serve.routes.router import RouterRoutes
from serve.routes.runs import Office, RunRoutes
from serve.routes.tokens import TokenRoutes
from serve.routes.usage import UsageRoutes
from serve.workplace import WORKFLOWS


def build_app(
    section: GatewaySection,
    catalog: Catalog,
    engines: Engines,
    meter: Meter,
    *,
    embed: Embed | None = None,
    office: Office | None = None,
    tellers: Sequence[Office] = (),
    tenant: str = "default",
    books: Books | None = None,
    own_key: str | None = None,
    extra_routes: Sequence[Callable[[], APIRouter]] = (),
    clock: Clock | None = None,
    ids: Ids | None = None,
    names_answers: bool = True,
    larger: Mapping[str, BodyLimit] | None = None,
    heads: Path | None = None,
    packs: Mapping[str, Pack] = NO_PACKS,
    outside: Sequence[OutsideSection] = (),
    draining: Callable[[], bool] = lambda: False,
    questions: Keeper | None = None,
) -> FastAPI:
    """The gateway as an ASGI app; knows nothing of Ray. Without `office` it has no agents, without
    `books` no keys but those of the settings, no limits and no ledger. `tellers` have metrics of
    their own.

    `tenant` is whose the settings' keys are, and who needs none on loopback; `own_key` is the
    stack's own. `names_answers` puts `x-request-id` on every answer; behind Serve that is done
    already. `larger` are paths whose bodies may be larger than the section says; `heads` is the
    folder of quality heads, without which no quality is predicted; `packs` are the workflows beside
    the built-in ones, by name; `outside` says which tenants' requests may go to which of the
    catalog's outside models; while the stack is `draining` nothing new is begun;
    `questions` keeps what was asked, for the router to learn from."""
    clock, ids = clock or SystemClock(), ids or SystemIds()
    own = None if own_key is None else digest_of(own_key)
    keyring = None if books is None else books.keyring
    keeper = Doorkeeper(tenant, section.api_key_sha256, keyring, clock, own)
    admission = Admission(None, clock, ids) if books is None else books.admission
    timeout_s = section.request_timeout_s
    tellers = (*(() if office is None else (office,)), *tellers)
    if books is not None:
        tellers = (*tellers, BudgetMetrics(books))
    predictor = None if heads is None else Predictor(Versions(heads), embed, clock)
    routers = [
        OpenAIRoutes(catalog, clock, timeout_s, embed, admission).routes(),
        GenerationRoutes(
            catalog,
            engines,
            clock,
            timeout_s,
            admission,
            Decisions(catalog, predictor, clock, outside, questions),
        ).routes(),
        TokenRoutes(catalog, engines, clock, timeout_s, admission).routes(),
        *([] if books is None else _books(books)),
        *([] if heads is None else [RouterRoutes(heads, catalog, tenant).routes()]),
        *([] if office is None else _agents(office, clock, ids, timeout_s, packs)),
        *(more() for more in extra_routes),
        OperationsRoutes(Readiness(catalog, engines, clock, draining), meter, tellers).routes(),
    ]
    app = FastAPI(title="Mainspring", openapi_url=OPENAPI_PATH, docs_url=None, redoc_url=None)
    install(app)
    app.add_middleware(
        Door, keeper=keeper, ids=ids,
        limit=BodyLimit(section.max_body_bytes, section.body_timeout_s),
        names_answers=names_answers, larger=larger or {}, draining=draining,
    )  # fmt: skip
    for router in routers:
        app.include_router(router)
    app.router.routes.extend(console_routes())
    describe(app)
    app.add_route(MCP, McpEndpoint(app, section.is_loopback), methods=["POST"])  # type: ignore[arg-type]
    return app


def _books(books: Books) -> list[APIRouter]:
    return [UsageRoutes(books.ledger).routes(), FeedbackRoutes(books.opinions).routes()]


def _agents(
    office: Office, clock: Clock, ids: Ids, timeout_s: float, packs: Mapping[str, Pack]
) -> list[APIRouter]:
    runs = RunRoutes(office, WORKFLOWS, clock, ids, packs)
    agents = AgentRoutes(office, runs, ids, timeout_s)
    return [runs.routes(), ListRoutes(office).routes(), agents.routes()]
