"""What runs came to: by journal and ledger, as a table, JSON, CSV and metrics."""

import base64
import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lxml import html
from typer.testing import CliRunner

from agents.audit import Audit
from agents.autonomy import WORKFLOW, change
from agents.events import (
    ApprovalAnswered,
    ApprovalAsked,
    PhaseDone,
    RunEnded,
    TurnFailed,
)
from agents.guarding import AUDIT
from agents.journal import Feedback
from agents.journal_sql import SqlJournal
from agents.outcomes import Tally
from agents.turn import Turn
from agents.workflows import triage
from cluster.errors import InvalidInput
from cluster.ids import SystemClock
from cluster.settings import AccountsSection
from memory.log import Batch, Log, Note
from memory.records import Record
from serve.books import Books
from serve.budgets import Caller
from serve.cli import app
from serve.ledger import Used, record, row_of
from tests.fakes import CountingIds, FakeClock, ListRecaller, ScriptedClassifier
from tests.world import Worlds

START = 1_795_000_000.0


class House:
    """A journal and a ledger in a folder, and a clock that stands still between their rows."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock(START)
        self.journal = SqlJournal("sqlite:///journal.db", folder, self.clock, CountingIds())
        self.books = Books(AccountsSection(), folder, self.clock, CountingIds())
        self._count = 0

    def run(
        self, decision: str, *payloads: Any, seconds: float = 2.0, workflow: str = "support",
        tenant: str = "shop", result: dict[str, Any] | None = None, usd: float = 0.0,
    ) -> str:  # fmt: skip
        """A run of that many seconds; each payload but the first takes one of them."""
        self._count += 1
        began = self.clock.now()
        run, _ = self.journal.create(
            tenant, f"k{self._count}", workflow, f"{workflow}/{self._count}", {"tenant": tenant}
        )
        epoch = self.journal.claim(run, "new")
        for number, payload in enumerate(payloads):
            self.clock.step(1.0 if number else 0.0)
            self.journal.append(run, epoch, [payload])
        self.clock.step(began + seconds - self.clock.now())
        ended = RunEnded(decision=decision, reason="", result=result or {})
        self.journal.append(run, epoch, [ended])
        if usd:
            used = Used(f"r{self._count}", "m", 200, 100, 20, int(usd * 1e9))
            caller = Caller(tenant, "key", "a", run, workflow)
            row = row_of(caller, used, used.cost_nano, self.clock.now())
            with self.books._accounts.transaction() as connection:
                record(connection, [row])
        return run

    def close(self) -> None:
        self.journal.close()
        self.books.shut()


def asked(step: str = "refund") -> ApprovalAsked:
    return ApprovalAsked(
        step=step, approval=f"ap-{step}", tool="refund", digest="d", rules=("r",), reason="",
        expires_at=START + 9e6, to="desk", cents=5_000,
    )  # fmt: skip


def answered(approved: bool, at_most: int | None = None, step: str = "refund") -> ApprovalAnswered:
    return ApprovalAnswered(
        step=step, approval=f"ap-{step}", approved=approved, by="olga", at_most=at_most
    )


def recalled(*sources: str) -> PhaseDone:
    passages = [{"source": s, "text": "t"} for s in sources]
    return PhaseDone(phase="recall", result={"passages": passages}, seconds=0.1)


BROKEN = TurnFailed(code="unavailable", reason="away")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with nine runs of two workflows and two tenants."""
    house = House(tmp_path)
    house.run("replied", recalled("policy:a"), result={"cited": ["policy:a"]}, usd=0.001)
    house.run("replied", recalled("policy:b"), result={"cited": ["account"]}, seconds=4, usd=0.003)
    house.run("replied", asked(), answered(True))
    house.run("replied", asked(), answered(True, at_most=3_000))
    house.run("escalated", asked(), answered(False), recalled(), seconds=6)
    house.run("failed", BROKEN, BROKEN, BROKEN, seconds=3)
    house.run("replied", BROKEN, recalled("policy:a"), BROKEN, seconds=5)
    house.run("cancelled")
    house.run("assigned", workflow="triage", seconds=1)
    house.run("replied", tenant="other", usd=0.5)
    change(house.journal, house.clock, "shop", "support", 1, "olga", "a rule")
    house.close()
    monkeypatch.setenv("MAINSPRING_DATA_DIR", str(tmp_path))
    return tmp_path


def told(*line: str) -> str:
    result = CliRunner().invoke(app, ["report", *line], env={"COLUMNS": "240"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_the_numbers_are_those_of_journal_and_ledger(data: Path) -> None:
    support, triage_, other = sorted(
        json.loads(told("--json")), key=lambda r: (r["tenant"] == "other", r["workflow"])
    )
    expected: dict[str, Any] = {
        "tenant": "shop", "workflow": "support", "runs": 8, "completed": 6, "automated": 3,
        "assisted": 2, "escalated": 1, "declined": 0, "failed": 1, "cancelled": 1,
        "automation_rate": 3 / 8, "escalation_rate": 1 / 8, "failure_rate": 1 / 8,
        "asked": 3, "answered": 3, "overrides": 2, "override_rate": 2 / 3,
        "seconds_p50": 4.0, "seconds_p95": 6.0, "seconds_mean": 21 / 6,
        "broken_turns": 5, "recoveries": 3, "recovery_s_mean": (3 + 1 + 3) / 3,
        "recalls": 4, "recall_found_rate": 3 / 4, "recall_cited_rate": 1 / 2,
        "tokens": 240, "usd": 0.004, "tokens_per_completed": 40, "usd_per_completed": 0.004 / 6,
    }  # fmt: skip
    assert {k: support[k] for k in expected} == pytest.approx(expected)
    assert (triage_["runs"], triage_["automation_rate"], triage_["override_rate"]) == (1, 1.0, None)
    assert (other["tenant"], other["usd_per_completed"]) == ("other", 0.5)


def test_the_table_and_the_csv_say_the_same(data: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(told("--csv"))))
    assert [r["workflow"] for r in rows] == ["support", "support", "triage"]
    assert set(rows[0]) == set(Tally("", "").told())
    shown = told("--tenant", "shop")
    assert "38%" in shown and "67%" in shown and "other" not in shown


def test_what_ended_at_another_time_is_left_out(data: Path) -> None:
    assert json.loads(told("--json", "--since", "2030-01-01")) == []
    assert json.loads(told("--json", "--until", "2020-01-01")) == []


@pytest.mark.parametrize(
    "line",
    [
        ("--json", "--csv"),
        ("--json", "--html", "x.html"),
        ("--html", "no/such/folder/x.html"),
        ("--since", "yesterday"),
        ("--since", "2026-02-01", "--until", "2026-01-01"),
    ],
)
def test_what_makes_no_sense_is_refused(line: tuple[str, ...], data: Path) -> None:
    with pytest.raises(InvalidInput):
        told(*line)


EVIL = "<script>document.title='owned'</script>\u202egnp.exe\"><img src=x onerror=alert(1)>$x^2$"


@pytest.fixture
def week(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with runs of three days, of a workflow and a tenant with names that are no good."""
    house = House(tmp_path)
    for day in range(3):
        run = house.run("replied", seconds=2 + day, usd=0.001 * (day + 1))
        house.journal.judge(run, Feedback("accepted" if day else "rejected", "ann"))
        house.run("failed", workflow=EVIL, tenant=f"t {EVIL}")
        house.clock.step(86_400)
    house.close()
    monkeypatch.setenv("MAINSPRING_DATA_DIR", str(tmp_path))
    return tmp_path


def remembered(folder: Path, tenant: str, *texts: str, at: float) -> list[Record]:
    log = Log("sqlite:///memory-log.db", folder, FakeClock(at))
    records = [Record(tenant, "note", f"note:{text}", text, at) for text in texts]
    vectors = np.ones((len(records), 384), np.float32)
    (added,) = log.add([Batch(records, vectors)])
    log.close()
    return list(added)


def test_each_day_is_told_by_itself(week: Path) -> None:
    days = [d for d in json.loads(told("--json", "--by-day")) if d["workflow"] == "support"]
    assert [d["day"] for d in days] == ["2026-11-18", "2026-11-19", "2026-11-20"]
    assert [d["usd"] for d in days] == pytest.approx([0.001, 0.002, 0.003])
    assert [d["seconds_p50"] for d in days] == [2.0, 3.0, 4.0]
    assert [d["accepted_rate"] for d in days] == [0.0, 1.0, 1.0]
    lines = told("--csv", "--by-day", "--since", "2026-11-19").splitlines()
    assert lines[0].startswith("day,tenant,workflow,runs,") and len(lines) == 5
    assert "2026-11-18" in told("--by-day")


def test_the_page_holds_charts_and_tables_and_needs_nothing_else(week: Path) -> None:
    (first, *_) = remembered(week, "shop", "one", "two", at=START)
    remembered(week, "shop", "three", at=START + 86_400)
    log = Log("sqlite:///memory-log.db", week, FakeClock(START + 2 * 86_400))
    log.remove([first], "forgotten", Note("ann", "a test"))
    log.close()
    file = week / "report.html"
    assert "written to" in told("--html", str(file))
    text = file.read_text("utf-8")
    page = html.document_fromstring(text)
    headings = [h.text_content() for h in page.iter("h2")]
    assert headings == [
        "All workflows", "support of shop", f"{EVIL} of t {EVIL}", "Memory of shop",
    ]  # fmt: skip
    captions = [f.text_content() for f in page.iter("figcaption")]
    assert captions[:4] == ["Cost", "Automation and overrides", "Quality", "Latency"]
    pictures = [img.get("src") for img in page.iter("img")]
    assert len(pictures) == 4 + 2 + 1 and all(img.get("alt") for img in page.iter("img"))
    for picture in pictures:
        drawn = base64.b64decode(picture.removeprefix("data:image/svg+xml;base64,")).decode()
        assert "<svg" in drawn and "owned" not in drawn and "<script" not in drawn
    addresses = [*page.xpath("//@src"), *page.xpath("//@href"), *re.findall(r"url\(", text)]
    assert addresses == pictures
    memory = page.xpath("//section")[-1].xpath(".//td/text()")
    assert memory == [
        "2026-11-18", "2", "0", "2", "2026-11-19", "1", "0", "3", "2026-11-20", "0", "1", "2",
    ]  # fmt: skip


def test_names_of_others_do_nothing_to_the_page(week: Path) -> None:
    file = week / "report.html"
    told("--html", str(file))
    text = file.read_text("utf-8")
    page = html.document_fromstring(text)
    assert not list(page.iter("script")) and "<script" not in text
    assert not page.xpath("//@onerror") and not page.xpath("//img[@src='x']")
    turned = [e for e in page.iter() if "\u202e" in (e.text or "") + (e.tail or "")]
    assert turned and {e.tag for e in turned} == {"bdi"}
    assert "default-src 'none'" in page.xpath("//meta[@http-equiv]/@content")[0]


def test_a_page_of_nothing_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAINSPRING_DATA_DIR", str(tmp_path))
    told("--html", str(tmp_path / "r.html"))
    assert "No run ended in that time." in (tmp_path / "r.html").read_text("utf-8")


def test_a_change_of_autonomy_by_the_override_rate_is_an_audited_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path)
    for number in range(20):
        run = house.run("replied")
        with house.journal.connection() as connection:
            connection.exec_driver_sql(
                "INSERT INTO approvals VALUES (?,'default',?,'s','support','a','refund',?,?,NULL,"
                "'denied','olga',?,NULL)",
                (f"ap-{number}", run, START, START, START),
            )
    house.close()
    monkeypatch.setenv("MAINSPRING_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("MAINSPRING_AGENTS__AUTONOMY", '{"support": 2}')
    line = ["policy", "autonomy", "support", "--by-rate", "--by", "nightly"]
    shown = CliRunner().invoke(app, line)
    assert "level 1" in shown.output, shown.output
    journal = SqlJournal("sqlite:///journal.db", tmp_path, SystemClock(), CountingIds())
    (row,) = journal.runs("default", "ended", f"{WORKFLOW}/support")
    *_, ended = journal.verified(row.run_id)
    assert isinstance(ended.payload, RunEnded)
    assert ended.payload.decision == "level 1"
    assert ended.payload.reason == "20 of 20 answers were overrides"
    assert ended.payload.result["by"] == "nightly"
    audit = Audit(journal, tmp_path / AUDIT, SystemClock())
    audit.seal()
    with journal.connection() as connection:
        connection.exec_driver_sql(
            "UPDATE events SET payload = replace(payload, 'level 1', 'level 3')"
        )
    assert any(row.run_id in sentence for sentence in audit.verify().wrong)
    journal.close()


async def test_the_metrics_count_the_same_of_runs_as_they_end(worlds: Worlds) -> None:
    tries = 0

    async def sorting(turn: Turn) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise RuntimeError("once")
        memory = ListRecaller([("ticket:1", "where is it")])
        await triage.work(turn, ScriptedClassifier(intent="card_arrival"), memory, 2)

    world = worlds.make(sorting)
    await world.ended(await world.submit("k", "T-001"))
    text = (await world.orchestrator.metrics()).decode()
    of = 'tenant="default",workflow="support"'
    for line in (
        f"mainspring_run_broken_turns_total{{{of}}} 1.0",
        f"mainspring_run_recovery_seconds_count{{{of}}} 1.0",
        f"mainspring_run_seconds_count{{{of}}} 1.0",
        f'mainspring_run_recalls_total{{found="yes",{of}}} 1.0',
        f"mainspring_run_usd_total{{{of}}} 0.0",
    ):
        assert line in text, line
    outcomes = [row for row in text.splitlines() if row.startswith("mainspring_run_outcomes_total")]
    assert [row.split()[-1] for row in outcomes] == ["1.0"]
