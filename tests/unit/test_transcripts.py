"""What the models were sent and said, taken from the journal alone."""

import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from agents import transcripts
from agents.chat import Chat
from agents.corrections import as_draft
from agents.events import EffectDone, EffectStarted, PhaseDone, RunEnded, StepDecided
from agents.journal_sql import SqlJournal
from agents.references import REFERENCE
from agents.transcripts import Transcript, transcribe
from agents.turn import Turn
from agents.workflows import prompts
from cluster.errors import Conflict, DataError, NotFound, Unavailable
from tests.fakes import CountingIds, FakeClock, plan_text
from tests.traced import REFUND_DRAFT, REFUND_PLAN, TICKET, Models, Shop, replayed
from tests.world import connect


@pytest.fixture
async def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shop]:
    shop = Shop(tmp_path, Models())
    connect(monkeypatch, shop)
    yield shop
    await shop.stop()


def _reasons(found: Transcript) -> tuple[list[str], tuple[str, ...]]:
    return [s.task for s in found.samples], found.left_out


async def test_the_messages_are_the_ones_that_the_models_received(shop: Shop) -> None:
    run = await shop.run()
    found = await transcribe(shop.journal, run.run_id, replayed)
    assert [(s.task, s.model) for s in found.samples] == [("plan", "planner"), ("draft", "routine")]
    assert [(s.model, list(s.messages)) for s in found.samples] == shop.models.chat.asked
    assert len(shop.models.chat.asked) == 2
    plan, draft = found.samples
    assert plan.answer == run.phases["plan"]["plan"]
    assert draft.answer == REFUND_DRAFT
    assert REFERENCE.search(plan.answer) and "48055" not in plan.answer
    assert found.left_out == ()


async def test_nothing_is_asked_or_done_again(shop: Shop) -> None:
    run = await shop.run()
    before = shop.connector.counts(), list(shop.trace), shop.journal.read(run.run_id)
    first = await transcribe(shop.journal, run.run_id, replayed)
    assert await transcribe(shop.journal, run.run_id, replayed) == first
    assert (shop.connector.counts(), shop.trace, shop.journal.read(run.run_id)) == before


async def test_what_the_agent_knew_of_its_earlier_runs_is_as_it_was_then(shop: Shop) -> None:
    runs = [await shop.run(f"k{i}", TICKET) for i in range(3)]
    told = shop.models.asked("planner")
    found = [await transcribe(shop.journal, r.run_id, replayed) for r in runs]
    assert [list(f.samples[0].messages) for f in found] == told
    histories = [m[-1]["content"].partition("<history>")[2].partition("</")[0] for m in told]
    assert histories[0] == "none"
    assert histories[1] == "damaged_item replied"
    assert len(set(histories)) == 3


async def test_a_run_that_was_broken_off_is_told_as_it_was_in_the_end(shop: Shop) -> None:
    shop.models.chat.scripts["routine"] = [Unavailable("model", "away"), REFUND_DRAFT]
    run = await shop.run()
    assert (run.failures, run.epoch) == (0, 2)
    found = await transcribe(shop.journal, run.run_id, replayed)
    assert list(found.samples[0].messages) == shop.models.asked("planner")[0]
    assert list(found.samples[1].messages) == shop.models.asked("routine")[-1]


async def test_only_the_attempt_that_the_workflow_took_is_told(shop: Shop) -> None:
    shop.models.chat.scripts["planner"] = ["nonsense", REFUND_PLAN]
    shop.models.chat.scripts["routine"] = ["(E1) It comes on 1 May 2031.", REFUND_DRAFT]
    run = await shop.run()
    found = await transcribe(shop.journal, run.run_id, replayed)
    assert len(shop.models.chat.asked) == 4
    assert _reasons(found) == (["plan", "draft"], ())
    assert found.samples[1].answer == REFUND_DRAFT
    assert "nonsense" not in found.samples[0].answer


@pytest.mark.parametrize(
    ("plan", "draft", "tasks", "left_out"),
    [
        (REFUND_PLAN, "NO_ANSWER", ["plan"], (transcripts.REFUSED,)),
        (plan_text({"tool": "escalate", "reason": "not_allowed"}), "", ["plan"], ()),
        ("nonsense", "", [], (transcripts.REFUSED,)),
    ],
)
async def test_an_answer_that_the_workflow_refused_is_left_out(
    shop: Shop, plan: str, draft: str, tasks: list[str], left_out: tuple[str, ...]
) -> None:
    shop.models.chat.scripts = {"planner": [plan], "routine": [draft]}
    run = await shop.run()
    assert run.ended is not None and run.ended.decision == "escalated"
    assert _reasons(await transcribe(shop.journal, run.run_id, replayed)) == (tasks, left_out)


async def test_a_run_that_asked_no_model_has_no_chat(shop: Shop) -> None:
    shop.models.classifier.confidence = 0.1
    run = await shop.run()
    found = await transcribe(shop.journal, run.run_id, replayed)
    assert _reasons(found) == ([], (transcripts.NOT_ASKED,))


async def test_a_workflow_that_has_changed_since_is_noticed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await shop.run()

    async def another(turn: Turn, chat: Chat) -> None:
        await turn.act("read", "read_ticket", {"with": "more"})

    async def shorter(turn: Turn, chat: Chat) -> None:
        await turn.act("read", "read_ticket", {})

    for changed in (another, shorter):
        found = await transcribe(shop.journal, run.run_id, changed)
        assert _reasons(found) == ([], (transcripts.CHANGED, transcripts.CHANGED))
    # Other evidence: what was grounded then would be refused now.
    for text_of in ("refund_text", "order_text"):
        monkeypatch.setattr(prompts, text_of, lambda _receipt: "A parcel.")
    found = await transcribe(shop.journal, run.run_id, replayed)
    assert _reasons(found) == (["plan"], (transcripts.CHANGED,))


async def test_after_a_run_that_was_given_up_the_history_is_unsure(shop: Shop) -> None:
    shop.models.chat.scripts["planner"] = [*[DataError("model", "it is damaged")] * 3, REFUND_PLAN]
    given_up = await shop.run("one")
    assert given_up.ended is not None and given_up.ended.decision == "escalated"
    later, other = await shop.run("two"), await shop.run("three", agent="support/D")
    unsure = (transcripts.HISTORY_UNSURE,) * 2
    assert _reasons(await transcribe(shop.journal, later.run_id, replayed)) == ([], unsure)
    found = await transcribe(shop.journal, other.run_id, replayed)
    assert _reasons(found) == (["plan"], ())  # the second refund of the order went to a person


async def test_an_open_an_unknown_and_a_changed_run_are_refused(shop: Shop, tmp_path: Path) -> None:
    run_id, _ = shop.journal.create("default", "open", "support", "a", {"tenant": "default"})
    with pytest.raises(Conflict, match="not ended"):
        await transcribe(shop.journal, run_id, replayed)
    with pytest.raises(NotFound):
        await transcribe(shop.journal, "run_0", replayed)
    first, second = await shop.run("one"), await shop.run("two")
    engine = create_engine(f"sqlite:///{tmp_path / 'journal.db'}")
    with engine.begin() as connection:
        change = "UPDATE events SET payload = replace(payload, 'replied', 'praised')"
        connection.execute(text(f"{change} WHERE run_id = '{first.run_id}'"))
    engine.dispose()
    # The second run's prompt tells of the first.
    for run in (first, second):
        with pytest.raises(DataError, match=first.run_id):
            await transcribe(shop.journal, run.run_id, replayed)


# --- a workflow that nobody here knows


async def _greet(turn: Turn, chat: Chat, dear: str = "LO-48055") -> None:
    """It asks one model, checks nothing, and says what the model said."""

    async def write() -> dict[str, Any]:
        asked = [{"role": "user", "content": f"Greet [ORDER_1] for {turn.run.input['ticket']}"}]
        answer = await chat.complete("m", asked, max_tokens=9, timeout_s=1.0, request_id="r")
        return {"text": answer.text, "usage": [{"model": answer.model}]}

    written = await turn.phase("draft", write)
    said = written["text"].replace("[ORDER_1]", dear)
    acted = await turn.act("say", "reply", {"text": said})
    await turn.end("replied", acted.decision.reason, {})


@pytest.fixture
async def greeted(tmp_path: Path) -> AsyncIterator[tuple[SqlJournal, str]]:
    """A journal with a run of that workflow."""
    journal = SqlJournal("sqlite:///greet.db", tmp_path, FakeClock(), CountingIds())
    run_id, _ = journal.create("t", "k", "greet", "a", {"ticket": "T-9", "tenant": "t"})
    epoch = journal.claim(run_id, "queued")
    args = {"text": "Hello LO-48055."}
    payloads = [
        PhaseDone(
            phase="draft",
            result={"text": "Hello [ORDER_1].", "usage": [{"model": "tiny"}]},
            seconds=0.1,
        ),
        StepDecided(step="say", tool="reply", args=args, answer="allow", rule="r", reason="why"),
        EffectStarted(step="say", tool="reply", key="key", args=args),
        EffectDone(step="say", key="key", receipt={"kind": "reply"}),
        RunEnded(decision="replied", reason="why", result={}),
    ]
    journal.append(run_id, epoch, payloads)
    yield journal, run_id
    journal.close()


async def test_any_workflow_is_told_as_it_asked(greeted: tuple[SqlJournal, str]) -> None:
    (sample,) = (await transcribe(*greeted, _greet)).samples
    assert (sample.task, sample.model, sample.answer) == ("draft", "tiny", "Hello [ORDER_1].")
    assert sample.messages == ({"role": "user", "content": "Greet [ORDER_1] for T-9"},)
    other = await transcribe(*greeted, partial(_greet, dear="LO-11111"))
    assert _reasons(other) == ([], (transcripts.CHANGED,))


async def test_a_correction_names_no_value_that_the_model_was_not_given(
    greeted: tuple[SqlJournal, str],
) -> None:
    """Even where the workflow itself would let it pass."""
    (sample,) = (await transcribe(*greeted, _greet, "Good day LO-48055.")).samples
    assert sample.answer == "Good day [ORDER_1]."
    other = await transcribe(*greeted, _greet, "Good day LO-11111.")
    assert _reasons(other) == ([], (transcripts.UNGROUNDED,))


# --- corrections


async def _corrected(shop: Shop, correction: str) -> Transcript:
    run = await shop.run()
    return await transcribe(shop.journal, run.run_id, replayed, correction)


async def test_a_correction_takes_the_place_of_the_drafts_answer(shop: Shop) -> None:
    said = " We are so sorry!\r\n \n  The refund of 18.50 EUR for order lo-48055 is done!"
    found = await _corrected(shop, said)
    plan, draft = found.samples
    assert json.loads(plan.answer) == json.loads(REFUND_PLAN)
    assert draft.answer == (
        "We are so sorry!\n(E2) The refund of [AMOUNT_1] for order [ORDER_1] is done!"
    )
    assert list(draft.messages) == shop.models.asked("routine")[0]


async def test_a_correction_may_hold_references_and_cite_by_itself(shop: Shop) -> None:
    said = "(E2) We have made the refund of [AMOUNT_1]."
    assert (await _corrected(shop, said)).samples[1].answer == said


async def test_a_withheld_draft_can_be_corrected(shop: Shop) -> None:
    shop.models.chat.scripts["routine"] = ["(E2) The refund of [AMOUNT_9] for [ORDER_1] is done."]
    found = await _corrected(shop, "The refund of 18.50 EUR for LO-48055 is done.")
    assert found.samples[1].answer == "(E2) The refund of [AMOUNT_1] for [ORDER_1] is done."


@pytest.mark.parametrize(
    "correction",
    [
        "The refund of 19.50 EUR for order LO-48055 is done.",
        "The refund of 18.50 EUR for order LO-11111 is done.",
        "The refund of 18.50 EUR for order LO-48055 is done. It comes on 4 May 2027.",
        "Dear [NAME_3], the refund of 18.50 EUR for order LO-48055 is done.",
        "Mister Smith was told that the refund is done.",
        "Look at our blog about frobnicated glimmer wibbles.",
    ],
)
async def test_a_correction_that_goes_beyond_the_evidence_is_left_out(
    shop: Shop, correction: str
) -> None:
    assert _reasons(await _corrected(shop, correction)) == (["plan"], (transcripts.UNGROUNDED,))


async def test_a_correction_of_a_run_without_a_draft_is_left_out(shop: Shop) -> None:
    shop.models.chat.scripts["planner"] = [plan_text({"tool": "escalate", "reason": "not_allowed"})]
    assert _reasons(await _corrected(shop, "The refund is done.")) == ([], (transcripts.NO_DRAFT,))


def test_an_unknown_value_never_gets_a_known_reference() -> None:
    values = {"[ORDER_2]": "LO-48055", "[AMOUNT_1]": "[AMOUNT_1]", "[NAME_1]": "[NAME_1]"}
    draft = as_draft("LO-48055, LO-11111 and 3.00 EUR for [NAME_1]", "", values)
    assert draft == "[ORDER_2], [ORDER_3] and [AMOUNT_2] for [NAME_1]"


def test_citations_come_from_the_sentence_that_is_most_alike() -> None:
    draft = "Hello. (E1) Order [ORDER_1] is shipped. (E2, E3) Parcels need five days. Bye."
    said = "Hello! Your order [ORDER_1] is shipped. Most parcels need five days? So long."
    assert as_draft(said, draft, {"[ORDER_1]": "x"}) == (
        "Hello! (E1) Your order [ORDER_1] is shipped. (E2, E3) Most parcels need five days?"
        " So long."
    )


def test_sentences_under_one_citation_stay_under_one() -> None:
    draft = "Hello,\n(E1) Order [ORDER_1] is shipped. (E2) Returns are free. Keep the box.\nBye"
    said = "Hello,\nReturns are free. Do keep the box. Order [ORDER_1] is shipped.\nKeep the box."
    assert as_draft(said, draft, {"[ORDER_1]": "x"}) == (
        "Hello,\n(E2) Returns are free. Do keep the box. (E1) Order [ORDER_1] is shipped."
        "\n(E2) Keep the box."
    )
