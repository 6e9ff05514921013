"""The guide to a workflow of one's own, as steps that a test follows word by word."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

import agents.workflows

GUIDE: Final = Path(agents.workflows.__file__).parent / "GUIDE.md"
ROOT: Final = GUIDE.parents[2]
_BLOCK: Final = re.compile(r"```(\w+) ?(\w*)\n(.*?)```", re.DOTALL)
_FILES: Final = {"python": "workflow.py", "cedar": "policy.cedar", "yaml": "cases.yaml"}


def blocks() -> list[tuple[str, str, str]]:
    """Its code in order: language, what is to be done with it, and the text."""
    return _BLOCK.findall(GUIDE.read_text("utf-8"))


def ran(line: str, folder: Path, **variables: str) -> str:
    """What a command of the guide prints, from `folder`; fails when it does."""
    words = shlex.split(line)
    python = {"mainspring": ["-m", "serve.cli"], "python": []}[words[0]]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *python, *words[1:]], cwd=folder, capture_output=True, text=True,
        timeout=120, env={**os.environ, "PYTHONPATH": paths, **variables},
    )  # fmt: skip
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


def changed(language: str, how: str, text: str, folder: Path) -> None:
    """Change the workflow in `folder` as a block says; fails where the guide has drifted."""
    file = folder / _FILES[language]
    before = file.read_text("utf-8")
    if how == "append":
        file.write_text(before + text, encoding="utf-8")
        return
    old, new = text.split("---\n")
    assert before.count(old.rstrip("\n")) == 1, f"{file.name} has no such text once: {old}"
    file.write_text(before.replace(old.rstrip("\n"), new.rstrip("\n")), encoding="utf-8")
