"""What `make demo` did with the shipped queue, from its report and its own data."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cluster.environment import STACK_VARIABLE
from serve.running import read
from tests.stack.conftest import ROOT, Demo

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

EXPECTED = json.loads((ROOT / "tests/data/demo_expected.json").read_text("utf-8"))
KEYS = {
    "id", "intent", "confidence", "model", "evidence", "decision", "reason", "reply", "tokens",
    "cost_usd", "latency_ms", "run_id",
}  # fmt: skip


def test_every_ticket_is_in_the_report_once_with_all_its_keys(demo: Demo) -> None:
    tickets = demo.report["tickets"]
    assert [t["id"] for t in tickets] == [f"T-{i:03}" for i in range(1, 31)]
    for ticket in tickets:
        assert set(ticket) >= KEYS
        assert ticket["decision"] in {"replied", "escalated"}
        assert ticket["reason"]


def test_no_ticket_is_answered_that_a_person_must_see(demo: Demo) -> None:
    decisions = {t["id"]: t["decision"] for t in demo.report["tickets"]}
    must = [i for i, e in EXPECTED.items() if e.get("must_escalate")]
    assert len(must) >= 8
    assert {i: decisions[i] for i in must} == dict.fromkeys(must, "escalated")


def test_some_tickets_are_answered_and_each_answer_was_sent(demo: Demo) -> None:
    replied = [t for t in demo.report["tickets"] if t["decision"] == "replied"]
    assert len(replied) >= 8
    for ticket in replied:
        assert ticket["reply"] and "[" not in ticket["reply"]
        assert ticket["evidence"] and ticket["tokens"]["completion"] > 0


def test_money_is_only_given_back_within_the_cap(demo: Demo) -> None:
    with sqlite3.connect(f"file:{demo.home}/demo/desk.db?mode=ro", uri=True) as desk:
        rows = desk.execute(
            "SELECT t.customer, sum(r.amount_cents) FROM refunds r JOIN tickets t"
            " ON t.id = r.ticket GROUP BY t.customer"
        ).fetchall()
    assert all(cents <= 3000 for _, cents in rows), rows


def test_the_totals_are_the_sums_of_the_tickets(demo: Demo) -> None:
    tickets, totals = demo.report["tickets"], demo.report["totals"]
    assert totals["tickets"] == 30 == totals["automated"] + totals["escalated"]
    assert totals["cost_usd"] == pytest.approx(sum(t["cost_usd"] for t in tickets))
    assert totals["cost_usd_planner_alone"] >= totals["cost_usd"]
    assert sum(totals["escalated_by_reason"].values()) == totals["escalated"]


def test_nothing_personal_is_in_the_journal_or_in_any_log(demo: Demo) -> None:
    tickets = (ROOT / "infra/support/tickets.jsonl").read_text("utf-8")
    secrets = ["4539 5787 6362 1486", "DE04 5001 0517 0000 0123 45", "fatima.haddad@example.com"]
    assert all(secret in tickets for secret in secrets)
    with sqlite3.connect(f"file:{demo.home}/demo/journal.db?mode=ro", uri=True) as journal:
        held = "\n".join(row[0] for row in journal.execute("SELECT payload FROM events"))
    logs = "\n".join(
        p.read_text("utf-8", "replace")
        for p in Path("/tmp/ray/session_latest/logs").rglob("*.*")
        if p.is_file() and p.suffix in {".log", ".err", ".out"}
    )
    for secret in secrets:
        assert secret not in held
        assert secret not in logs


def test_a_second_start_says_that_one_runs(demo: Demo) -> None:
    command = [sys.executable, "-m", "serve.cli", "up"]
    second = subprocess.run(
        command, cwd=ROOT, env=demo.environment, capture_output=True, text=True, timeout=120
    )
    assert second.returncode == 1
    assert "runs already" in second.stderr and str(demo.pid) in second.stderr


def test_memory_of_the_running_stack_takes_a_file_and_finds_it(demo: Demo, tmp_path: Path) -> None:
    note = tmp_path / "note.md"
    note.write_text("# Candles\n\nBeeswax candles burn for about forty hours.\n", "utf-8")
    run = [sys.executable, "-m", "serve.cli", "memory"]
    for words, shown in (
        (["ingest", str(note), "--kind", "policy"], "added"),
        (["search", "how long does a beeswax candle burn"], "Beeswax candles"),
    ):
        done = subprocess.run(
            [*run, *words], cwd=ROOT, env=demo.environment, capture_output=True, text=True,
            timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert shown in done.stdout


def test_the_stack_stays_within_ten_and_a_half_gigabytes(demo: Demo) -> None:
    running = read(demo.home)
    assert running is not None
    total = 0
    for process in psutil.process_iter():
        try:
            if process.environ().get(STACK_VARIABLE) == running.stack or process.pid == demo.pid:
                total += process.memory_info().rss
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    assert 1e9 < total < 10.5e9, f"{total / 1e9:.1f} GB"
