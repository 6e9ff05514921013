"""`mainspring keys`, `budgets` and `usage` as people type them."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.errors import MainspringError
from cluster.settings import load
from serve.budgets import NANO, Caller
from serve.cli import app
from serve.keys_cli import opened
from serve.ledger import Used


@pytest.fixture(autouse=True)
def _own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAINSPRING_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")


def run(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    if isinstance(done.exception, MainspringError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_a_key_is_shown_once_and_listed_without_its_secret() -> None:
    made = run("keys", "create", "ci", "--scope", "models", "--scope", "admin", "--days", "7")
    full = made.split()[0]
    id = full.split("-")[1]
    listed = run("keys", "list")
    assert id in listed and "models admin" in listed and "live" in listed
    assert full.split("-", 2)[2] not in listed
    new = run("keys", "rotate", id).split()[0].split("-")[1]
    run("keys", "revoke", new)
    assert run("keys", "list").count("revoked") == 2


def test_usage_and_budgets_are_shown_in_dollars() -> None:
    run("budgets", "set", "tenant", "default", "2.50", "--per", "day")
    assert "2.5" in run("budgets", "list")
    with opened(load()) as books:
        caller = Caller("default", "k", workflow="support")
        books.reservations.settle("h", caller, Used("r", "small", 200, 1_000, 5, NANO // 4))
    shown = run("usage", "--by", "workflow,day")
    assert "support" in shown and "1,000" in shown and "0.250000" in shown
    run("budgets", "remove", "tenant", "default", "--per", "day")
    assert "2.5" not in run("budgets", "list")


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("keys", "create", "ci", "--scope", "root"), "scopes"),
        (("budgets", "set", "planet", "x", "1"), "kind"),
        (("budgets", "set", "tenant", "another", "1"), "subject"),
        (("budgets", "set", "key", "x", "lots"), "usd"),
        (("budgets", "set", "key", "x", "NaN"), "usd"),
        (("budgets", "set", "key", "x", "1", "--per", "week"), "period"),
        (("usage", "--by", "price"), "by"),
        (("usage", "--since", "yesterday"), "since"),
    ],
)
def test_a_mistake_is_named(words: tuple[str, ...], field: str) -> None:
    with pytest.raises(MainspringError) as problem:
        run(*words)
    assert problem.value.field == field
