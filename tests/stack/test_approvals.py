"""The refund that `make demo` asks a person about is narrowed from the command line, and done."""

import json
import re
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.stack.conftest import Demo

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]
_ENDS_S = 90.0


def test_a_refund_is_narrowed_from_the_command_line_and_done_for_that_much(demo: Demo) -> None:
    shown = re.search(r"approvals approve (appr_[0-9a-f]{20})", demo.output.read_text("utf-8"))
    assert shown is not None, "the demo asked nobody"
    approval, home = shown.group(1), demo.home / "demo"
    person = replace(demo, environment={**demo.environment, "MAINSPRING_DATA_DIR": str(home)})

    assert approval in person.mainspring("approvals", "list").stdout
    asked = json.loads(person.mainspring("approvals", "show", approval).stdout)
    assert asked["cents"] > 3000 and "refund-cap" in asked["evidence"]["rules"]
    yes = ("approvals", "approve", approval, "--by", "ann", "--at-most", "30.00")
    done = person.mainspring(*yes)
    assert "narrowed by ann, at most 30.00 EUR" in done.stdout, done.stderr
    late = person.mainspring("approvals", "deny", approval, "--by", "bob")
    assert late.returncode == 1 and "ann has approved it first" in late.stderr

    assert _refunded(home, asked["run_id"]) == 3000
    explained = person.mainspring("policy", "explain", asked["run_id"], asked["step"]).stdout
    assert f"rests on {approval}" in explained and '{"amount_cents": 3000}' in explained
    verified = person.mainspring("audit", "verify")
    assert verified.returncode == 0, verified.stdout
    receipts = person.mainspring("audit", "show", asked["run_id"], "--step", asked["step"]).stdout
    assert json.loads(receipts)["outcome"]["state"] == "done"


def _refunded(home: Path, run: str) -> int:
    """The cents that the run gave back, once it has ended; the stack looks every few seconds at
    what the command line has changed."""
    deadline = time.monotonic() + _ENDS_S
    while time.monotonic() < deadline:
        with sqlite3.connect(f"file:{home}/journal.db?mode=ro", uri=True) as journal:
            kinds = [
                json.loads(row[0])
                for row in journal.execute(
                    "SELECT payload FROM events WHERE run_id = ? ORDER BY seq", (run,)
                )
            ]
        if kinds[-1]["kind"] == "run_ended":
            given = [k["receipt"] for k in kinds if k["kind"] == "effect_done"]
            return sum(r.get("amount_cents", 0) for r in given if r["kind"] == "refund")
        time.sleep(0.5)
    raise AssertionError(f"{run} did not end: {kinds[-1]}")
