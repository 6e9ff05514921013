"""The help-desk over HTTP: customers' words begin runs, and what people do is a run as well."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from agents.outcomes import outcome, tallied
from agents.state import fold
from agents.turn import Turn
from agents.workflows import desk as desks
from agents.workflows.cases import opened
from cluster.ids import SystemClock, SystemIds
from cluster.settings import AgentsSection, GatewaySection
from serve.gateway import build_app
from serve.routes.tickets import ticket_routes
from tests.fakes import ticket
from tests.unit.test_agent_api import WorldOffice, _empty
from tests.whole import WorldDesk
from tests.world import GOVERNED, World, connect

T = "T-001"


async def support(turn: Turn) -> None:
    """Escalates what says so and answers all else."""
    place = {"message": turn.run.input["message"]} if "message" in turn.run.input else {}
    read = await turn.act("read", "read_ticket", place)
    assert read.receipt is not None
    case, _ = opened(read.receipt)
    if "person" in case.ticket:
        await turn.act("escalate", "escalate", {"reason": "asked", "summary": "wants a person"})
        return await turn.end("escalated", "asked", {})

    async def found(result: dict[str, Any]) -> dict[str, Any]:
        return result

    sure = {"intent": "order_status", "confidence": 0.99, "out_of_scope": 0.0}
    await turn.phase("intent", lambda: found(sure))
    await turn.phase("grounding", lambda: found({"findings": []}))
    notes = " ".join(text for kind, text in case.results if kind == "note")
    sent = await turn.act("reply", "reply", {"text": f"Soon. {notes}".strip(), **place})
    return await turn.end("replied" if sent.receipt else "failed", str(sent.refusal), {})


class Api:
    def __init__(self, world: World, client: httpx.AsyncClient) -> None:
        self.world, self.client = world, client

    async def post(self, path: str, key: str = "", **body: Any) -> tuple[int, dict[str, Any]]:
        headers = {"idempotency-key": key} if key else {}
        answer = await self.client.post(f"/v1/tickets{path}", json=body, headers=headers)
        return answer.status_code, answer.json()

    async def thread(self, id: str = T) -> dict[str, Any]:
        return dict((await self.client.get(f"/v1/tickets/{id}")).json())

    async def said(self, id: str, count: int) -> list[str]:
        """The authors of a thread once it has so many messages."""
        async with asyncio.timeout(10):
            while True:
                messages = (await self.thread(id))["messages"]
                if len(messages) >= count:
                    return [m["author"] for m in messages]
                await asyncio.sleep(0.01)


@pytest.fixture
async def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    world = World(
        tmp_path, support, AgentsSection(**GOVERNED),
        desk=partial(desks.work, desk=desks.Desk("support")),
    )  # fmt: skip
    connect(monkeypatch, world)
    world.connector.open_tickets([ticket(T)])
    office = WorldOffice(world)
    routes = partial(
        ticket_routes, WorldDesk(world), office, "default", "support", SystemClock(), SystemIds()
    )
    app = build_app(
        GatewaySection(request_timeout_s=2.0), *_empty(), office=office, extra_routes=(routes,)
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield Api(world, client)
    await world.stop()


async def test_a_new_ticket_is_answered_and_so_is_what_follows(api: Api) -> None:
    code, made = await api.post("", email="new@example.org", name="Neo", body="Where is it?")
    assert code == 201 and made["run"]
    id = made["id"]
    assert await api.said(id, 1) == ["agent"]
    code, said = await api.post(f"/{id}/messages", text="And when?", id="M-1")
    assert (code, said["waits_for"]) == (201, "agent")
    assert await api.said(id, 3) == ["agent", "customer", "agent"]
    again = await api.post(f"/{id}/messages", text="And when?", id="M-1")
    assert again[1]["run"] == said["run"] and again[1]["repeated"]
    assert (await api.thread(id))["customer"]["email"] == "new@example.org"


async def test_a_ticket_goes_to_a_person_and_back(api: Api) -> None:
    await api.post(f"/{T}/messages", text="I want a person", id="M-1")
    async with asyncio.timeout(10):
        while (await api.thread())["status"] != "escalated":
            await asyncio.sleep(0.01)
    listed = (await api.client.get("/v1/tickets?status=escalated")).json()
    assert [row["id"] for row in listed["data"]] == [T]
    code, held = await api.post(f"/{T}/take", by="ann")
    assert (code, held["status"], held["held"]["by"]) == (200, "held", "ann")
    assert (await api.post(f"/{T}/take", by="bob"))[0] == 409
    _, waits = await api.post(f"/{T}/messages", text="Hello?", id="M-2")
    assert (waits["waits_for"], waits["run"]) == ("person", None)
    code, back = await api.post(f"/{T}/return", by="ann", note="The depot has it.")
    assert code == 200 and len(back["runs"]) == 1
    assert (await api.said(T, 4))[-2:] == ["note", "agent"]
    assert "The depot has it." in (await api.thread())["messages"][-1]["text"]


async def test_a_persons_answer_is_a_receipted_run_that_holds_none_of_its_words(api: Api) -> None:
    await api.post(f"/{T}/take", by="ann")
    code, told = await api.post(f"/{T}/answer", key="once", by="ann", text="Dear Anna, zebra.")
    assert code == 200
    await api.post(f"/{T}/answer", key="once", by="ann", text="Dear Anna, zebra.")
    thread = await api.thread()
    assert [m["author"] for m in thread["messages"]] == ["person"]
    events = api.world.journal.verified(told["run"])
    kinds = [e.payload.kind for e in events]
    assert {"step_decided", "effect_started", "effect_done"} <= set(kinds)
    assert "zebra" not in "".join(e.model_dump_json() for e in events)


async def test_a_macro_is_filled_sent_and_may_close(api: Api) -> None:
    code, told = await api.post(f"/{T}/answer", by="ann", macro="solved")
    assert (code, told["status"]) == (200, "closed")
    assert "Anna Weber" in told["messages"][-1]["text"]
    assert (await api.post(f"/{T}/answer", by="ann", macro="nope"))[0] == 404
    assert {m["name"] for m in told["macros"]} >= {"solved", "damaged-photo"}


async def test_a_rating_is_kept_with_its_words_at_the_desk(api: Api) -> None:
    assert (await api.post(f"/{T}/rating", score=5))[0] == 409  # nobody has answered
    await api.post(f"/{T}/answer", by="ann", text="Hello.")
    code, told = await api.post(f"/{T}/rating", score=2, comment="slow")
    assert (code, told["rating"]) == (200, {"score": 2, "comment": "slow"})


async def test_ratings_count_for_whose_answer_it_was(api: Api) -> None:
    _, made = await api.post("", customer="C-1001", body="Where is it?")
    await api.said(made["id"], 1)
    for score in (2, 5):
        await api.post(f"/{made['id']}/rating", score=score)
    await api.post(f"/{made['id']}/answer", by="ann", text="Here.")
    await api.post(f"/{made['id']}/rating", score=4)
    journal = api.world.journal
    runs = [fold(r.run_id, journal.read(r.run_id)) for r in journal.runs("default", "ended")]
    came = [one for run in runs if (one := outcome(run)) is not None]
    told = {workflow: tally.told() for (_, workflow), tally in tallied(came).items()}
    assert (told["support"]["ratings"], told["support"]["rating_mean"]) == (2, 3.5)
    assert (told["support"]["runs"], told["desk"]["runs"]) == (1, 0)
    assert told["desk"]["rating_mean"] == 4


@pytest.mark.parametrize(
    ("path", "body", "code", "param"),
    [
        ("", {"body": "x"}, 400, "customer"),
        ("", {"body": "x", "customer": "C-1001", "email": "a@b.c"}, 400, "customer"),
        ("", {"body": "", "customer": "C-1001"}, 400, "body"),
        ("", {"body": "x", "email": "nobody"}, 400, "email"),
        ("", {"body": "x", "customer": "C-404"}, 404, None),
        ("", {"body": "x", "customer": "C-1001", "id": "a b"}, 400, "id"),
        ("", {"body": "another", "customer": "C-1001", "id": T}, 409, None),
        (f"/{T}/messages", {"text": " "}, 400, "text"),
        ("/T-404/messages", {"text": "x"}, 404, None),
        ("/T-404/take", {"by": "ann"}, 404, None),
        (f"/{T}/take", {"by": ""}, 400, "by"),
        (f"/{T}/return", {"by": "ann"}, 409, None),
        (f"/{T}/answer", {"by": "ann"}, 400, "text"),
        (f"/{T}/answer", {"by": "ann", "text": "x", "macro": "y"}, 400, "text"),
        (f"/{T}/rating", {"score": 6}, 400, "score"),
        (f"/{T}/rating", {"score": "5"}, 400, "score"),
    ],
)  # fmt: skip
async def test_what_can_not_be_done_is_said(
    api: Api, path: str, body: dict[str, Any], code: int, param: str | None
) -> None:
    answered, told = await api.post(path, **body)
    assert (answered, told["error"]["param"]) == (code, param)
    assert (await api.thread())["status"] == "open"


async def test_a_list_is_paged_and_its_filters_are_checked(api: Api) -> None:
    for n in range(3):
        await api.post("", id=f"X-{n}", customer="C-1001", body="b", work=False)
    page = (await api.client.get("/v1/tickets?limit=2")).json()
    assert ([r["id"] for r in page["data"]], page["has_more"]) == (["X-2", "X-1"], True)
    rest = (await api.client.get(f"/v1/tickets?limit=2&after={page['last_id']}")).json()
    assert ([r["id"] for r in rest["data"]], rest["has_more"]) == (["X-0", T], False)
    for wrong in ("status=lost", "limit=0", "limit=x", "after=nope"):
        assert (await api.client.get(f"/v1/tickets?{wrong}")).status_code == 400
