"""Only what people accepted leaves the journal, whole, of one tenant, and with nobody in it."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from agents import transcripts
from agents.journal import Feedback
from agents.state import RunState
from cluster.errors import InvalidInput, Unavailable
from serve.distill import export as exports
from serve.distill.chats import TracedChat, read_chats
from serve.distill.export import Report, export, workflows_to_replay
from tests.fakes import plan_text, support_section, ticket
from tests.traced import LOOK, REFUND_DRAFT, TICKET, Models, Shop
from tests.world import connect

ACCEPTED = Feedback("accepted", "ann")
STATUS_PLAN = plan_text(LOOK, {"tool": "reply"})
STATUS_DRAFT = "(E1) Your ceramic table lamp [ORDER_1] is shipped."


class Desk:
    """A shop whose runs are judged and exported."""

    def __init__(self, folder: Path) -> None:
        self.models = Models()
        self.shop = Shop(folder, self.models)
        self.folder = folder
        self.out = folder / "out" / "chats.jsonl"

    async def judged(self, *verdicts: Feedback, number: str = "", **run: Any) -> RunState:
        """A run that ends, and what people say of it."""
        asks = self.models.classifier.intent == "order_status"
        state = await self.shop.run(number=number or ("T-001" if asks else TICKET), **run)
        for verdict in verdicts:
            self.shop.journal.judge(state.run_id, verdict)
        return state

    async def export(self, tenant: str = "default") -> Report:
        workflows = workflows_to_replay(support_section())
        return await asyncio.to_thread(export, self.shop.journal, tenant, self.out, workflows)

    def answers_questions(self) -> None:
        """From here on the models answer where a lamp is, which can be asked again and again."""
        self.models.chat.scripts = {"planner": [STATUS_PLAN], "routine": [STATUS_DRAFT]}
        self.models.classifier.intent = "order_status"

    def exported(self) -> list[str]:
        """The runs in the file, in its order."""
        return list(dict.fromkeys(c.provenance.run_id for c in self.chats() if c.provenance))

    def chats(self) -> list[TracedChat]:
        return read_chats(self.out)

    def change(self, statement: str) -> None:
        """Change rows behind the journal's back."""
        engine = create_engine(f"sqlite:///{self.folder / 'journal.db'}")
        with engine.begin() as connection:
            connection.execute(text(statement))
        engine.dispose()


@pytest.fixture
async def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path)
    connect(monkeypatch, desk.shop)
    yield desk
    await desk.shop.stop()


async def test_the_file_holds_what_the_models_received_and_said(desk: Desk) -> None:
    run = await desk.judged(ACCEPTED)
    report = await desk.export()
    chats = desk.chats()
    asked = [(model, messages) for model, messages in desk.models.chat.asked]
    assert [(c.provenance.model if c.provenance else "", c.prompt) for c in chats] == asked
    assert [c.answer for c in chats] == [run.phases["plan"]["plan"], REFUND_DRAFT]
    assert [c.task for c in chats] == ["plan", "draft"]
    events = desk.shop.journal.read(run.run_id)
    for chat in chats:
        where = chat.provenance
        assert where is not None
        assert (where.tenant, where.run_id, where.workflow) == ("default", run.run_id, "support")
        assert (where.verdict, where.by) == ("accepted", "ann")
        assert where.judged_at == desk.shop.journal.judgements(run.run_id)[0].at
        assert where.journal_hash == events[-1].hash
        assert "support/C" not in where.agent and len(where.agent) == 16
    assert report == Report(
        str(desk.out), 2, 1, by_task=report.by_task, by_split=report.by_split,
        by_verdict=report.by_verdict, by_model=report.by_model,
    )  # fmt: skip
    assert report.by_task == {"plan": 1, "draft": 1}
    assert report.by_model == {"planner": 1, "routine": 1}
    assert report.by_verdict == {"accepted": 2}
    assert (report.redacted, report.left_out) == (0, {})


async def test_only_accepted_and_corrected_runs_are_exported_and_the_rest_counted(
    desk: Desk,
) -> None:
    desk.answers_questions()
    rejected = Feedback("rejected", "bob")
    runs = {
        name: await desk.judged(*said, key=name, agent=name)
        for name, said in {
            "accepted": (ACCEPTED,),
            "unjudged": (),
            "rejected": (rejected,),
            "accepted, then rejected": (ACCEPTED, rejected),
            "rejected, then accepted": (rejected, ACCEPTED),
            "corrected beyond the evidence": (Feedback("corrected", "ann", text="Ask Bob."),),
        }.items()
    }
    desk.shop.journal.create("default", "open", "support", "a", {"tenant": "default"})
    report = await desk.export()
    wanted = ["accepted", "rejected, then accepted", "corrected beyond the evidence"]
    assert desk.exported() == [runs[name].run_id for name in wanted]
    assert (report.runs, report.chats) == (3, 5)
    assert report.by_task == {"plan": 3, "draft": 2}
    assert report.by_verdict == {"accepted": 4, "corrected": 1}
    assert report.left_out == {
        exports.UNJUDGED: 1, exports.REJECTED: 2, exports.OPEN: 1, transcripts.UNGROUNDED: 1,
    }  # fmt: skip


async def test_another_tenants_runs_never_appear(desk: Desk) -> None:
    ours = await desk.judged(ACCEPTED, key="k", agent="a")
    theirs = await desk.judged(ACCEPTED, key="k", agent="a", tenant="other")
    await desk.export()
    assert desk.exported() == [ours.run_id]
    # Neither does what their runs of an agent of the same name were about.
    assert "<history>none" in desk.chats()[0].prompt[-1]["content"]
    # The column that lists runs is not in the chain; what the run began with is.
    desk.change(f"UPDATE runs SET tenant = 'default', idempotency_key = 'x' "
                f"WHERE run_id = '{theirs.run_id}'")  # fmt: skip
    report = await desk.export()
    assert desk.exported() == [ours.run_id]
    assert report.left_out == {exports.FOREIGN: 1}


async def test_a_tampered_chain_is_refused_and_counted(desk: Desk) -> None:
    desk.answers_questions()
    good = await desk.judged(ACCEPTED, key="good", agent="a")
    bad = await desk.judged(ACCEPTED, key="bad", agent="b")
    desk.change(
        "UPDATE events SET payload = replace(payload, 'lamp', 'lump')"
        f" WHERE run_id = '{bad.run_id}'"
    )
    report = await desk.export()
    assert desk.exported() == [good.run_id]
    assert report.left_out == {exports.BROKEN: 1}


async def test_nobody_is_in_the_file(desk: Desk) -> None:
    await desk.judged(ACCEPTED, key="refund", agent="support/C-1006")
    desk.answers_questions()
    await desk.judged(ACCEPTED, key="status", number="T-001", agent="support/C-1001")
    await desk.export()
    written = desk.out.read_text("utf-8")
    people = json.loads((Path("infra/support/desk.json")).read_text("utf-8"))["customers"]
    for number in ("T-001", "T-006"):
        (person,) = [p for p in people if p["id"] == ticket(number)["customer"]]
        for secret in (person["name"], *person["name"].split(), person["email"], person["phone"]):
            assert secret not in written
        assert person["id"] not in written
    for value in ("48055", "48213", "18.50", "64.90", number):
        assert value not in written
    assert "[ORDER_1]" in written


async def test_personal_data_that_is_left_is_replaced_told_apart_and_counted(desk: Desk) -> None:
    passage = (
        "Damaged items are paid back. Ask bob@example.org or call 030 901820. "
        "Mail bob@example.org about [EMAIL_1]. My name is Berta Beispiel."
    )
    desk.models.memory.passages[:] = [("ticket:9", passage)]
    await desk.judged(ACCEPTED)
    report = await desk.export()
    written = desk.out.read_text("utf-8")
    for secret in ("bob@", "901820", "Beispiel"):
        assert secret not in written
    prompt = desk.chats()[1].prompt[-1]["content"]
    assert prompt.count("[EMAIL_2]") == 2 and prompt.count("[EMAIL_1]") == 1
    assert report.redacted == 1


async def test_a_corrected_draft_is_exported_as_corrected(desk: Desk) -> None:
    said = "The refund of 18.50 EUR for order LO-48055 is done."
    await desk.judged(Feedback("corrected", "ann", text=said))
    report = await desk.export()
    draft = desk.chats()[1]
    assert draft.answer == "(E2) The refund of [AMOUNT_1] for order [ORDER_1] is done."
    assert draft.provenance is not None and draft.provenance.verdict == "corrected"
    assert report.by_verdict == {"corrected": 2}


async def test_the_same_journal_gives_the_same_file(desk: Desk) -> None:
    runs = [await desk.judged(ACCEPTED, key=str(i), agent=f"a{i}") for i in range(4)]
    await desk.export()
    first = desk.out.read_bytes()
    await desk.export()
    assert desk.out.read_bytes() == first
    assert desk.exported() == [r.run_id for r in runs]
    for run in runs:
        sides = {
            c.split for c in desk.chats() if c.provenance and c.provenance.run_id == run.run_id
        }
        assert len(sides) == 1


@pytest.mark.parametrize("verdict", [None, Feedback("rejected", "ann")])
async def test_an_export_without_an_accepted_run_says_how_to_accept_one(
    desk: Desk, verdict: Feedback | None
) -> None:
    await desk.judged(*([verdict] if verdict else []))
    reason = exports.REJECTED if verdict else exports.UNJUDGED
    with pytest.raises(InvalidInput, match="mainspring feedback RUN --verdict accepted") as caught:
        await desk.export()
    assert f"1 x {reason}" in str(caught.value)
    with pytest.raises(InvalidInput, match="no run at all"):
        await desk.export("nobody")
    assert not desk.out.parent.exists()


async def test_an_empty_export_leaves_the_earlier_file(desk: Desk) -> None:
    run = await desk.judged(ACCEPTED)
    await desk.export()
    before = desk.out.read_bytes()
    desk.shop.journal.judge(run.run_id, Feedback("rejected", "bob"))
    with pytest.raises(InvalidInput):
        await desk.export()
    assert desk.out.read_bytes() == before


async def test_a_place_that_can_not_be_written_is_named(desk: Desk) -> None:
    await desk.judged(ACCEPTED)
    desk.out.parent.write_text("a file")
    with pytest.raises(Unavailable, match=str(desk.out)):
        await desk.export()


async def test_a_workflow_that_nobody_knows_is_counted(desk: Desk) -> None:
    await desk.judged(ACCEPTED)
    with pytest.raises(InvalidInput, match=f"1 x {exports.UNKNOWN}"):
        await asyncio.to_thread(export, desk.shop.journal, "default", desk.out, {})
