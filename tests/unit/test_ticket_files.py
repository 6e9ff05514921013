"""Tickets of other systems come over once, and what is wrong with one is said by its place."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agents.helpdesk import HelpDesk
from cluster.errors import InvalidInput, NotFound
from cluster.ids import SystemClock
from serve.cli import app
from serve.ticket_files import MOST_CHARS, Form, Ticket, Wrong, form_of, tickets

CSV = """id,email,name,subject,body,received
1,ann@example.com,Ann Weber,Lamp,Where is my lamp?,2026-11-01
2,,,Nobody,Hello,2026-11-01
3,bo@example.com,Bo,,   ,2026-11-01
4,bo@example.com,Bo,<script>,"Two lines,
and a comma \u202e",yesterday
5,bo@example.com,Bo,Chair,It broke,2026-11-02T10:00:00Z
"""
MBOX = """From ann@example.com Mon Nov  2 10:00:00 2026
From: Ann Weber <ann@example.com>
Subject: =?utf-8?q?Wo_ist_die_T=C3=BCr=3F?=
Message-ID: <1@example.com>
Date: Mon, 02 Nov 2026 10:00:00 +0000
Content-Type: text/plain; charset=utf-8

Guten Tag,
>From here on nothing came.

From bo@example.com Tue Nov  3 10:00:00 2026
From: bo@example.com
Subject: Photo
Message-ID: <2@example.com>
Date: Tue, 03 Nov 2026 10:00:00 +0000
Content-Type: image/png

xx

"""
ZENDESK = {
    "tickets": [
        {"id": 35436, "subject": "Help", "description": "My printer is on fire!",
         "requester_id": 20978392, "created_at": "2026-07-20T22:55:29Z"},
        {"id": 35437, "subject": "x", "description": "y", "requester_id": 1,
         "created_at": "2026-07-20T22:55:29Z"},
        "no ticket",
    ],
    "users": [{"id": 20978392, "name": "Jo", "email": "jo@example.org"}],
}  # fmt: skip


def _read(path: Path, form: Form | None = None) -> tuple[list[Ticket], list[Wrong]]:
    found = list(tickets(path, form or form_of(path)))
    return [f for f in found if isinstance(f, Ticket)], [f for f in found if isinstance(f, Wrong)]


def test_a_table(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(CSV, encoding="utf-8")
    good, wrong = _read(file)
    assert [(t.id, t.email, t.received) for t in good] == [
        ("1", "ann@example.com", "2026-11-01"), ("5", "bo@example.com", "2026-11-02"),
    ]  # fmt: skip
    assert [w.where for w in wrong] == ["row 2", "row 3", "row 4"]
    assert "yesterday" in wrong[2].why


def test_a_mailbox(tmp_path: Path) -> None:
    file = tmp_path / "t.mbox"
    file.write_text(MBOX, encoding="utf-8")
    good, wrong = _read(file)
    (ticket,) = good
    assert (ticket.subject, ticket.name) == ("Wo ist die Tür?", "Ann Weber")
    assert ticket.body.startswith("Guten Tag")
    assert _read(file)[0] == good
    assert [(w.where, w.why) for w in wrong] == [("message 2", "it says nothing")]


def test_zendesks_export(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    file.write_text(json.dumps(ZENDESK), encoding="utf-8")
    good, wrong = _read(file)
    assert [(t.id, t.email, t.received) for t in good] == [
        ("Z-35436", "jo@example.org", "2026-07-20")
    ]
    assert [w.where for w in wrong] == ["ticket 2", "ticket 3"]
    line = {"id": 1, "description": "d", "requester": {"email": "a@b.c"}}
    lines = tmp_path / "t.jsonl"
    lines.write_text(json.dumps(line) + "\n")
    assert _read(lines)[0][0].id == "Z-1"


def test_what_is_long_is_cut_and_what_is_no_file_refused(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    long = {"id": 1, "description": "x\x00" * 30_000, "requester": {"email": "a@b.c"}}
    file.write_text(json.dumps(long))
    (ticket,), _ = _read(file)
    assert len(ticket.body) <= MOST_CHARS
    assert "\x00" not in ticket.body
    for name, text in (("t.json", "{"), ("t.json", '{"a": 1}'), ("t.mbox", "hello")):
        (tmp_path / name).write_text(text)
        with pytest.raises(InvalidInput, match="file"):
            _read(tmp_path / name)
    with pytest.raises(InvalidInput, match="--form"):
        form_of(tmp_path / "t.xls")
    with pytest.raises(NotFound):
        _read(tmp_path / "none.csv")


def test_the_command_takes_them_over_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAINSPRING_DATA_DIR", str(tmp_path / "data"))
    file = tmp_path / "t.csv"
    file.write_text(CSV, encoding="utf-8")
    first = CliRunner().invoke(app, ["tickets", "import", str(file)])
    assert first.exit_code == 1
    assert "row 2: nobody is named" in first.output
    assert "2 added, 0 there already, 3 wrong; 2 new customers" in first.output
    again = CliRunner().invoke(app, ["tickets", "import", str(file)])
    assert "0 added, 2 there already, 3 wrong; 0 new customers" in again.output
    desk = HelpDesk(tmp_path / "data" / "desk.db", SystemClock())
    assert desk.read_ticket("1")["text"] == "Lamp\nWhere is my lamp?"
    # Who is known by the address is the same customer, in whatever case it is written.
    assert desk.customer_for("ANNA.WEBER@example.com", "", "2026-01-01") == "C-1001"
    with pytest.raises(InvalidInput, match="email"):
        desk.customer_for("nobody", "", "2026-01-01")
    desk.close()
