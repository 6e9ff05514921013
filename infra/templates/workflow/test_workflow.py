"""What NAME promises, without a model and without a stack: python -m pytest NAME"""

import asyncio
from pathlib import Path

import pytest

from agents.packs import load
from agents.rehearsal import Rehearsal
from cluster.errors import InvalidInput

PACK = load([str(Path(__file__).parent)])["NAME"]
ASKED = {"subject": "ann", "about": "the invoice is due on Friday"}


def test_a_reminder_is_written_and_sent_once(tmp_path: Path) -> None:
    rehearsal = Rehearsal(PACK, tmp_path, answers=["Just a friendly word!"])
    run = asyncio.run(rehearsal.run(ASKED))
    assert run.ended is not None and run.ended.decision == "sent"
    assert rehearsal.done == ["NAME.send"]
    sent = rehearsal.desk.all("select subject, text from sent")
    text = "Just a friendly word!\n(the invoice is due on Friday)"
    assert sent == [{"subject": "ann", "text": text}]


def test_a_long_one_waits_for_a_person(tmp_path: Path) -> None:
    waits = asyncio.run(Rehearsal(PACK, tmp_path / "1", answers=["word " * 80]).run(ASKED))
    assert waits.ended is None
    no = Rehearsal(PACK, tmp_path / "2", answers=["word " * 80], says={"send": False})
    denied = asyncio.run(no.run(ASKED))
    assert denied.ended is not None and denied.ended.decision == "denied"
    yes = Rehearsal(PACK, tmp_path / "3", answers=["word " * 80], says={"send": True})
    sent = asyncio.run(yes.run(ASKED))
    assert sent.ended is not None and sent.ended.decision == "sent"


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="about"):
        asyncio.run(Rehearsal(PACK, tmp_path).run({"subject": "ann", "about": ""}))
