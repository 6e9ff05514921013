"""The kill matrix in its short form: real actors, real SIGKILL, on both databases."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import postgres
from tests.stack.conftest import ROOT

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]


@pytest.mark.parametrize(("store", "owners"), [("sqlite", 2), ("postgresql", 1)])
def test_killed_at_its_points_a_system_does_every_effect_once(
    store: str, owners: int, tmp_path: Path
) -> None:
    why_not = postgres.reason_not_to() if store == "postgresql" else None
    if why_not:
        pytest.skip(why_not)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.kill", "--kills", "6", "--alone", "3", "--limit", "120",
         "--stores", store, "--orchestrators", str(owners), "--hosts", str(owners),
         "--results", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=380,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads((tmp_path / "kill.json").read_text("utf-8"))
    figures = {f["name"].removeprefix(f"{store}: "): f["value"] for f in told["figures"]}
    assert figures["kills"] >= 6
    assert figures["effects"] >= 12
    for none in (
        "effects done twice", "effects lost", "runs never finished", "runs given up",
        "chains broken",
    ):  # fmt: skip
        assert figures[none] == 0, (none, figures)
    # One at a time, each of them died: a lookup alone comes only after another's death.
    killed = {k.partition(":")[0] for k in told["details"][store]["kills"]}
    assert len(killed) >= 2
    assert 0 < figures["time to recover p95, s"] < 60
