"""What is personal stays at the desk: not in the journal, the log, the export; and it can go."""

import json
import logging
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agents.audit_export import export
from agents.audit_key import AuditKey
from agents.connector import Connector
from agents.guarding import AUDIT
from agents.turn import Turn
from agents.workflows import triage
from cluster.errors import InvalidInput, NotFound
from cluster.ids import SystemClock
from cluster.objects import opened
from serve.cli import app
from tests.fakes import DESK, ListRecaller, ScriptedClassifier, connector
from tests.world import Worlds

TICKETS = [json.loads(line) for line in (DESK / "tickets.jsonl").read_text("utf-8").splitlines()]
CUSTOMERS = json.loads((DESK / "desk.json").read_text("utf-8"))["customers"]
PERSONAL = [
    "4539 5787 6362 1486", "DE04 5001 0517 0000 0123 45",
    *(c[field] for c in CUSTOMERS for field in ("name", "email", "phone", "address") if c[field]),
]  # fmt: skip


async def _sorted(turn: Turn) -> None:
    if turn.run.input["ticket"] == "T-013":
        read = await turn.act("read", "read_ticket", {})
        raise RuntimeError(f"no use for {read.receipt}")
    await triage.work(turn, ScriptedClassifier(intent="card_arrival"), ListRecaller([]), 2)


async def test_nothing_personal_is_in_the_journal_the_log_or_the_audits_export(
    worlds: Worlds, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    world = worlds.make(_sorted)
    world.connector.open_tickets(TICKETS)
    runs = [await world.submit(t["id"], t["id"], f"support/{t['customer']}") for t in TICKETS]
    await world.ended(*runs)
    export(
        world.journal, AuditKey(tmp_path / AUDIT), SystemClock(), "default", opened(str(tmp_path)),
        "receipts.jsonl",
    )  # fmt: skip
    raw = "\n".join(t["subject"] + t["body"] for t in TICKETS)
    assert sum(p in raw for p in PERSONAL) > 10  # else this looks for what is nowhere
    exported = (tmp_path / "receipts.jsonl").read_text("utf-8")
    assert len(exported.splitlines()) > len(TICKETS)
    held = b"".join(file.read_bytes() for file in tmp_path.glob("journal.db*"))
    assert b"[NAME_1]" in held
    assert "no use for" in caplog.text
    for personal in PERSONAL:
        assert personal not in caplog.text
        assert personal not in exported
        assert personal.encode() not in held
        assert json.dumps(personal).strip('"').encode() not in held


def opened_desk(folder: Path) -> Connector:
    desk = connector(folder)
    desk.open_tickets(TICKETS)
    return desk


def test_a_customer_is_erased_and_the_references_bring_nothing_back(tmp_path: Path) -> None:
    desk = opened_desk(tmp_path)
    mine = [t for t in TICKETS if t["customer"] == "C-1001"]
    ticket = mine[0]["id"]
    desk.perform("reply", "k1", ticket, {"text": "Dear [NAME_1], it is on its way."})
    assert "Anna Weber" in str(desk.sent(ticket))
    told = desk._desk.erase("C-1001")
    assert told == {"customer": "C-1001", "tickets": len(mine), "replies": 1}
    assert desk._desk.erase("C-1001") == told  # again changes nothing
    with pytest.raises(InvalidInput, match="references of this ticket only"):
        desk.perform("reply", "k2", ticket, {"text": "Dear [NAME_1], bye."})
    assert "Anna" not in str(desk.sent(ticket))
    assert desk.find("k1") is not None  # what was done stays known
    desk._desk.close()
    held = b"".join(file.read_bytes() for file in tmp_path.glob("desk.db*"))
    own = next(c for c in CUSTOMERS if c["id"] == "C-1001")
    for field in ("name", "email", "phone", "address"):
        assert own[field].encode() not in held
    other = next(c for c in CUSTOMERS if c["id"] == "C-1002")
    assert other["name"].encode() in held


def test_erasing_survives_a_new_start_and_a_stranger_is_not_found(tmp_path: Path) -> None:
    desk = opened_desk(tmp_path)
    desk._desk.erase("C-1001")
    again = opened_again(tmp_path, desk)
    assert "Anna" not in str(again._desk.read_ticket(TICKETS[0]["id"]))
    with pytest.raises(NotFound, match="C-404"):
        again._desk.erase("C-404")
    again._desk.close()


def opened_again(folder: Path, desk: Connector) -> Connector:
    desk._desk.close()
    return connector(folder)  # seeds the desk once more


def test_the_command_erases_and_leaves_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = opened_desk(tmp_path)
    desk._desk.close()
    monkeypatch.setenv("MAINSPRING_DATA_DIR", str(tmp_path))
    done = CliRunner().invoke(app, ["erase", "C-1001", "--by", "olga", "--why", "she asked"])
    assert done.exit_code == 0, done.output
    assert "C-1001: erased" in done.output
    shown = CliRunner().invoke(app, ["runs", "list", "--decision", "erased"])
    assert "erase" in shown.output
    missing = CliRunner().invoke(app, ["erase", "C-404", "--by", "olga"])
    assert isinstance(missing.exception, NotFound)
