"""The rules say what Prometheus makes of them; rules and boards ask for metrics that there are."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from agents.metrics import Metrics as RunMetrics
from agents.metrics import as_text
from cluster.board import Board
from cluster.boards import BOARDS
from cluster.ids import SystemClock, SystemIds
from cluster.settings import AccountsSection, infra_path, load
from memory.metrics import Metrics as MemoryMetrics
from serve.books import Books
from serve.budget_metrics import BudgetMetrics
from serve.budget_table import Budget
from serve.budgets import NANO
from serve.catalog import Catalog
from serve.metering import Meter

RULES = infra_path("prometheus", "rules.yaml")
_NAME = re.compile(r"\bmainspring_[a-z_]+")
_SUFFIX = re.compile(r"_(?:bucket|count|sum|total)$")


_RAYS = re.compile(r"\bray_[a-z_]+")
_RECORDED = re.compile(r"\bmainspring:[a-z0-9_:]+")
_ASKED = re.compile(r"\b(?:mainspring_|ray_)[a-z_]+")


@pytest.fixture
def known(tmp_path: Path) -> set[str]:
    """The names of all metrics that the gateway's address shows."""
    books = Books(AccountsSection(), tmp_path, SystemClock(), SystemIds())
    books.budgets.put(Budget("t", "tenant", "t", "day", NANO))
    texts = (
        Meter(Catalog(load("local").models)).text(),
        as_text([RunMetrics("orchestrator").collect({})], {}, 0),
        generate_latest(MemoryMetrics().registry),
        BudgetMetrics(books).text(),
    )
    books.shut()
    return {f.name for t in texts for f in text_string_to_metric_families(t.decode())}


def test_rules_ask_for_metrics_that_there_are(known: set[str]) -> None:
    asked = {_SUFFIX.sub("", name) for name in _NAME.findall(RULES.read_text("utf-8"))}
    assert len(asked) > 10
    assert asked <= known


@pytest.fixture(scope="module")
def rays() -> set[str]:
    """The names of Ray's metrics: those that its agent exports, and those of Ray's, Serve's and
    vLLM's that the boards show which Ray itself ships."""
    ray = importlib.util.find_spec("ray")
    assert ray is not None and ray.origin is not None
    home = Path(ray.origin).parent / "dashboard" / "modules"
    agent = (home / "reporter" / "reporter_agent.py").read_text("utf-8")
    shipped = "".join(
        file.read_text("utf-8") for file in (home / "metrics" / "dashboards").glob("*_panels.py")
    )
    exported = re.findall(r'^    "([a-z_]+)": Gauge\(', agent, re.MULTILINE)
    return {f"ray_{name}" for name in exported} | set(_RAYS.findall(shipped))


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_boards_show_metrics_that_there_are(board: Board, known: set[str], rays: set[str]) -> None:
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    recorded = {rule.get("record") for group in groups for rule in group["rules"]}
    text = " ".join(board.expressions)
    ours = {_SUFFIX.sub("", name) for name in _ASKED.findall(text)}
    assert {name for name in ours if name.startswith("mainspring_")} <= known
    assert {name for name in _ASKED.findall(text) if name.startswith("ray_")} <= rays
    assert set(_RECORDED.findall(text)) <= recorded


def test_every_metric_of_ours_stands_on_a_board_or_in_a_rule(known: set[str]) -> None:
    text = " ".join([*(e for board in BOARDS for e in board.expressions), RULES.read_text("utf-8")])
    shown = {_SUFFIX.sub("", name) for name in _NAME.findall(text)}
    ours = {n for n in known if n.startswith("mainspring_") and not n.endswith("_created")}
    assert len(ours) > 30
    assert sorted(ours - shown) == []


def test_promtool_understands_every_expression_of_the_boards(tmp_path: Path) -> None:
    asked = sorted({e for board in BOARDS for e in board.expressions})
    rules = [
        {"record": f"board:{n}", "expr": e.replace("$__rate_interval", "5m")}
        for n, e in enumerate(asked)
    ]
    file = tmp_path / "boards.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "boards", "rules": rules}]}), "utf-8")
    _promtool("check", "rules", str(file))


def test_every_alert_says_what_to_do_and_every_record_is_used_or_shown() -> None:
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    assert len(alerts) > 10
    for alert in alerts:
        assert alert["labels"]["severity"] in {"page", "ticket"}, alert
        assert set(alert["annotations"]) == {"summary", "todo"}, alert


@pytest.mark.parametrize(
    "words", [("check", "rules", "rules.yaml"), ("test", "rules", "rules_test.yaml"),
              ("check", "config", "--syntax-only", "prometheus.yaml")],
)  # fmt: skip
def test_promtool_agrees(words: tuple[str, ...]) -> None:
    _promtool(*words)


def _promtool(*words: str) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian's package prometheus has it)")
    done = subprocess.run(
        ["promtool", *words], cwd=RULES.parent, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
