"""Whatever is done to the record behind the journal's back is found and named."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agents.audit import Audit
from agents.audit_export import export, verify
from agents.audit_key import AuditKey
from agents.events import (
    ApprovalAnswered,
    ApprovalAsked,
    EffectDone,
    EffectFailed,
    EffectStarted,
    RunEnded,
    StepDecided,
)
from agents.guarding import AUDIT
from agents.journal_sql import SqlJournal
from agents.receipts import receipts
from cluster.errors import DataError
from cluster.objects import opened
from serve.cli import app
from tests.fakes import CountingIds, FakeClock

ARGS = {"order": "LO-48055", "amount_cents": 4200}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqlJournal]:
    made = SqlJournal("sqlite:///journal.db", tmp_path, FakeClock(), CountingIds())
    yield made
    made.close()


@pytest.fixture
def audit(tmp_path: Path, journal: SqlJournal) -> Audit:
    return Audit(journal, tmp_path / AUDIT, FakeClock())


def _decided(answer: Any, **more: Any) -> StepDecided:
    facts = {"amount_cents": 4200, "intent": "refund_request", "finding": "of Ann Smith"}
    return StepDecided(
        step="pay", tool="refund", args=ARGS, answer=answer, rule="cap", reason="why",
        facts=facts, **more,
    )  # fmt: skip


HISTORY = [
    _decided("ask", rules=("cap",)),
    ApprovalAsked(
        step="pay", approval="appr_1", tool="refund", digest="d", rules=("cap",), reason="why",
        expires_at=2e9, to="desk", cents=4200,
    ),
    ApprovalAnswered(
        step="pay", approval="appr_1", approved=True, by="ann@example.com", at_most=30
    ),
    _decided("modify", changed={"amount_cents": 30}, approval="appr_1"),
    EffectStarted(step="pay", tool="refund", key="k", args=ARGS),
    EffectDone(step="pay", key="k", receipt={"kind": "refund", "to": "Ann Smith"}),
    RunEnded(decision="paid", reason="done", result={}),
]  # fmt: skip


def _runs(journal: SqlJournal, count: int = 3) -> list[str]:
    made = []
    for number in range(len(journal.runs()), count):
        given = {"tenant": "t", "ticket": "T"}
        run, _ = journal.create("t", f"k{number}", "support", "support/C-1", given)
        journal.append(run, 0, HISTORY)
        made.append(run)
    return made


def _tamper(journal: SqlJournal, *statements: str) -> None:
    with journal.connection() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def test_a_whole_journal_is_whole_before_and_after_it_is_sealed(
    journal: SqlJournal, audit: Audit
) -> None:
    _runs(journal)
    assert audit.verify().wrong == ()
    assert (audit.seal(), audit.seal()) == (3, 0)
    _runs(journal, 5)
    assert audit.seal() == 2
    found = audit.verify()
    assert (found.runs, found.events, found.checkpoints, found.wrong) == (5, 40, 2, ())


CUT = (
    "DELETE FROM events WHERE run_id = 'run_2' AND seq = 8",
    "UPDATE runs SET last_seq = 7, last_hash ="
    " (SELECT hash FROM events WHERE run_id = 'run_2' AND seq = 7) WHERE run_id = 'run_2'",
)


@pytest.mark.parametrize(
    ("statements", "named"),
    [
        (["UPDATE events SET payload = replace(payload, '4200', '9999') WHERE run_id = 'run_2'"],
         "run run_2: event 2 was changed or removed"),
        (["UPDATE events SET at = at + 1 WHERE run_id = 'run_2' AND seq = 5"],
         "run run_2: event 5 was changed or removed"),
        (["DELETE FROM events WHERE run_id = 'run_2' AND seq = 4"],
         "run run_2: event 4 was changed or removed"),
        (["UPDATE events SET seq = 99 WHERE run_id = 'run_2' AND seq = 3",
          "UPDATE events SET seq = 3 WHERE run_id = 'run_2' AND seq = 4",
          "UPDATE events SET seq = 4 WHERE run_id = 'run_2' AND seq = 99"],
         "run run_2: event 3 was changed or removed"),
        (["DELETE FROM events WHERE run_id = 'run_2' AND seq = 8"],
         "run run_2: events after 7 were removed"),
        (CUT, "run run_2: its end was cut off, event 8 is gone"),
        (["DELETE FROM events WHERE run_id = 'run_2'", "DELETE FROM runs WHERE run_id = 'run_2'"],
         "run run_2: it was removed, with event 8"),
        (["DELETE FROM runs WHERE run_id = 'run_2'"],
         "run run_2: it was removed from the list of runs"),
        (["UPDATE checkpoints SET at = at + 1 WHERE number = 1"], "checkpoint 1: it was changed"),
        (["DELETE FROM sealed WHERE run_id = 'run_2'"], "checkpoint 1: it was changed"),
        (["DELETE FROM checkpoints WHERE number = 1"], "checkpoint 1: it was removed"),
        (["DELETE FROM checkpoints WHERE number = 2", "DELETE FROM sealed WHERE checkpoint = 2"],
         "checkpoint 2: it and what follows, up to 2, were removed"),
        ([*CUT, "DELETE FROM sealed", "DELETE FROM checkpoints"],
         "checkpoint 1: it and what follows, up to 2, were removed"),
    ],
    ids=[
        "changed", "redated", "removed", "reordered", "cut", "cut with its head", "run removed",
        "run unlisted", "checkpoint changed", "seal removed", "checkpoint removed",
        "last checkpoint removed", "all checkpoints removed",
    ],
)  # fmt: skip
def test_what_was_done_to_the_record_is_named(
    journal: SqlJournal, audit: Audit, statements: list[str], named: str
) -> None:
    _runs(journal)
    audit.seal()
    _runs(journal, 4)
    audit.seal()
    audit.keep()
    _tamper(journal, *statements)
    assert named in " | ".join(audit.verify().wrong)


def test_a_crash_before_a_checkpoint_is_noted_is_no_alarm(
    journal: SqlJournal, audit: Audit
) -> None:
    _runs(journal)
    audit.keep()
    audit.seal()
    assert audit.verify().wrong == ()
    audit.keep()
    audit.keep()
    assert audit.verify().wrong == ()


def test_a_checkpoint_by_another_key_is_found(
    tmp_path: Path, journal: SqlJournal, audit: Audit
) -> None:
    _runs(journal)
    Audit(journal, tmp_path / "other", FakeClock()).seal()
    assert audit.verify().wrong == ("checkpoint 1: it was changed",)


def test_a_receipt_has_action_context_decision_outcome_and_identity(journal: SqlJournal) -> None:
    (run,) = _runs(journal, 1)
    (receipt,) = receipts(run, journal.verified(run))
    assert receipt["identity"]["tenant"] == "t" and receipt["identity"]["workflow"] == "support"
    assert receipt["action"]["tool"] == "refund" and receipt["action"]["effect"] == "k"
    assert receipt["context"] == {"amount_cents": 4200, "intent": "refund_request"}
    assert receipt["decision"]["answer"] == "modify" and receipt["outcome"]["state"] == "done"
    assert receipt["approval"]["answer"] == "approved"
    assert "LO-48055" not in str(receipt) and "Ann" not in str(receipt)
    assert "ann@example.com" not in str(receipt)


@pytest.mark.parametrize(
    ("payloads", "state"),
    [
        ([_decided("deny")], "not done"),
        ([_decided("ask")], "waits"),
        ([_decided("allow"), EffectStarted(step="pay", tool="refund", key="k", args=ARGS)],
         "started"),
        ([_decided("allow"), EffectStarted(step="pay", tool="refund", key="k", args=ARGS),
          EffectFailed(step="pay", key="k", code="conflict", reason="of Ann")], "refused"),
    ],
)  # fmt: skip
def test_what_was_not_done_has_a_receipt_too(
    journal: SqlJournal, payloads: list[Any], state: str
) -> None:
    run, _ = journal.create("t", "k", "support", "a", {"tenant": "t"})
    journal.append(run, 0, payloads)
    (receipt,) = receipts(run, journal.verified(run))
    assert receipt["outcome"]["state"] == state


def test_an_export_is_signed_and_every_change_of_it_is_found(
    tmp_path: Path, journal: SqlJournal
) -> None:
    _runs(journal)
    key, place = AuditKey(tmp_path / AUDIT), opened(str(tmp_path / "out"))
    (tmp_path / "out").mkdir()
    assert export(journal, key, FakeClock(), "t", place, "r.jsonl") == 3
    content = (tmp_path / "out" / "r.jsonl").read_bytes()
    assert verify(content, key) == 3
    assert b"Ann" not in content and b"LO-48055" not in content
    lines = content.splitlines(keepends=True)
    for changed in (
        content.replace(b"modify", b"denied", 1), b"".join(lines[1:]), b"".join(lines[:-1]), b"",
        lines[1] + lines[0] + b"".join(lines[2:]),
        content.replace(b'"receipts": 3', b'"receipts": 2'),
    ):  # fmt: skip
        with pytest.raises(DataError):
            verify(changed, key)
    with pytest.raises(DataError, match="another key"):
        verify(content, AuditKey(tmp_path / "other"))


def test_the_command_line_verifies_shows_and_exports(
    tmp_path: Path, journal: SqlJournal, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAINSPRING_DATA_DIR", str(tmp_path))
    (run, *_) = _runs(journal)
    audit.seal()
    tell = partial(CliRunner().invoke, app)
    assert (
        "3 runs, 24 events, 1 checkpoints, 0 refused intents: 0 wrong"
        in tell(["audit", "verify"]).output
    )
    assert '"rule": "cap"' in tell(["audit", "show", run, "--tenant", "t"]).output
    out = tmp_path / "out"
    out.mkdir()
    assert "3 receipts of t" in tell(["audit", "export", str(out), "--tenant", "t"]).output
    file = str(out / "receipts.jsonl")
    assert "3 receipts, as they were written" in tell(["audit", "verify", "--file", file]).output
    _tamper(journal, "DELETE FROM events WHERE run_id = 'run_2' AND seq = 8")
    found = tell(["audit", "verify"])
    assert found.exit_code == 1 and "run run_2: events after 7 were removed" in found.output
