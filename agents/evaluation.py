"""The evaluation of a workflow pack: what its runs are held to, with the models as they are.

    NAME/evaluation.yaml    `cases`: a list of what is asked and expected, in the pack's words
    NAME/evaluation.py      `async def tried(case, folder, chat)`: one case in an empty folder

What `tried` gives is a dataclass whose `wrong` says what was expected instead, "" when it is right.
`mainspring batch evaluate NAME` tries the cases on a running stack.
"""

import importlib
import importlib.util
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Protocol

import yaml

from agents import workflows
from agents.chat import Chat
from agents.packs import Pack
from cluster.errors import ConfigError

CASES: Final = "evaluation.yaml"


class Verdict(Protocol):
    """What became of a case; a dataclass."""

    @property
    def wrong(self) -> str: ...


Tried = Callable[[dict[str, Any], Path, Chat], Awaitable[Verdict]]


def cases(pack: Pack) -> list[dict[str, Any]]:
    """A pack's cases. ConfigError, naming the file, when there are none or they are no list."""
    file = pack.folder / CASES
    try:
        found = yaml.safe_load(file.read_text("utf-8"))["cases"]
    except FileNotFoundError:
        raise ConfigError("workflow", str(file), "a pack with an evaluation.yaml") from None
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ConfigError("workflow", str(file), f"YAML with `cases` ({error})") from None
    if not isinstance(found, list) or not all(isinstance(case, dict) for case in found):
        raise ConfigError("workflow", str(file), "a list of cases, each with fields")
    return found


def tried_by(pack: Pack) -> Tried:
    """What tries a pack's cases. ConfigError when there is no such thing."""
    file = pack.folder / "evaluation.py"
    if not file.is_file():
        raise ConfigError("workflow", str(file), "a pack with an evaluation.py")
    tried: Tried | None = getattr(_module(pack, file), "tried", None)
    if tried is None:
        raise ConfigError("workflow", str(file), "a file that defines tried(case, folder, chat)")
    return tried


def _module(pack: Pack, file: Path) -> Any:
    if pack.folder.parent in {Path(place) for place in workflows.__path__}:
        return importlib.import_module(f"{workflows.__name__}.{pack.name}.evaluation")
    spec = importlib.util.spec_from_file_location(f"evaluation_{pack.name}", file)
    assert spec is not None and spec.loader is not None  # a file whose name ends in .py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
