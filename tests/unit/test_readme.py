"""The README can't drift from what is there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from serve.cli import app

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = re.findall(r"^\| `mainspring ([a-z ]+)` \|", README, re.MULTILINE)


def test_the_readme_lists_commands() -> None:
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_has_help(command: str) -> None:
    shown = CliRunner().invoke(app, [*command.split(), "--help"])
    assert shown.exit_code == 0
    assert "Usage" in shown.output


def test_every_command_is_in_the_readme() -> None:
    assert set(commands_of(app)) == set(COMMANDS)


AARM = re.findall(r"^\| (R\d) \| [^|]+ \| (.+) \|$", README, re.MULTILINE)
FILES = re.compile(r"`((?:tests|infra)/[\w./]+)(?:::(\w+))?`")


def test_each_requirement_of_aarm_has_a_row() -> None:
    assert [name for name, _ in AARM] == [f"R{n}" for n in range(1, 10)]


@pytest.mark.parametrize(("name", "shown"), AARM)
def test_the_tests_that_the_table_of_aarm_names_are_there(name: str, shown: str) -> None:
    named = FILES.findall(shown)
    assert any(test for _, test in named), f"{name} names no test"
    for file, test in named:
        path = ROOT / file
        assert path.is_file(), file
        if test:
            defined = ast.walk(ast.parse(path.read_text("utf-8")))
            names = {
                n.name for n in defined if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            assert test in names, f"{file} has no {test}"


def commands_of(group: typer.Typer, before: str = "") -> Iterator[str]:
    for command in group.registered_commands:
        assert command.callback is not None
        yield before + (command.name or command.callback.__name__)
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        name = f"{inner.name} " if isinstance(inner.name, str) else ""
        yield from commands_of(inner.typer_instance, before + name)


@pytest.mark.parametrize("flag", ["--exit", "--report", "--data", "--tickets", "--seed"])
def test_the_demo_has_the_flags_that_the_readme_names(flag: str) -> None:
    assert flag in README
    assert flag in CliRunner().invoke(app, ["demo", "--help"], env={"COLUMNS": "200"}).output


def test_every_make_target_of_the_readme_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"(?:`|^    )make ([a-z]+)\b(?!-)", README, re.MULTILINE))
    assert {"demo", "test", "check", "bench", "setup"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_paths_that_the_readme_names_are_there() -> None:
    paths = set(re.findall(r"`((?:infra|serve|agents|cluster|memory)/[\w./-]+)`", README))
    assert len(paths) > 5
    for path in paths:
        assert (ROOT / path).exists(), path
