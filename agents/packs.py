"""Workflow packs: a workflow as a folder that a user can copy.

    NAME/workflow.py    PACK, a `Pack`: its tools, its input, its desk, and what it does
    NAME/policy.cedar   what it may do, and when a person is asked
    NAME/cases.yaml     cases of that policy: mainspring policy test NAME/cases.yaml

A pack brings its own tools (`NAME.TOOL`), its own rules, which can name no other workflow's, and a
desk that does its effects in a connector actor of its own. The schema of its rules is made from its
tools' `facts`. Packs are named in the settings (`agents.packs`), by the name of a shipped one or by
their folder's path; every process loads them by these names.
"""

import importlib
import importlib.util
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol

from pydantic import BaseModel, TypeAdapter, ValidationError

from agents import policy as policies
from agents import rules
from agents.chat import Chat
from agents.facts import Standing
from agents.memories import Memories
from agents.policy import Policy
from agents.state import RunState
from agents.tools import TOOLS, Tool, pack_of, register
from agents.turn import Turn
from cluster.errors import ConfigError, InvalidInput
from cluster.ids import Clock

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_SHIPPED: Final = "agents.workflows"
_SCOPE: Final = "principal: Agent, resource: Ticket"
PACKS: Final = "packs"
"""The folder, in the stack's data folder, that holds one for each pack: with its desk's database
DESK_FILE, if it has one, FILES, and NAME.yaml for what its operator says. These are backed up, and
nothing else there."""
DESK_FILE: Final = "desk.db"
FILES: Final = "files"
CONNECTOR: Final = "connector-"
"""What the names of packs' connector actors begin with."""
COMMON: Final = {
    "tenant": "String", "untrusted": "Set<String>", "tool_trusted": "Bool", "sharing": "String",
    "autonomy": "Long", "intent": "String", "confidence": "Long", "out_of_scope": "Long",
    "min_confidence": "Long", "max_out_of_scope": "Long",
}  # fmt: skip
"""What policy is told of every step, by its Cedar type; see `agents/facts.py`."""
RATES: Final = {"hour_count": "Long", "day_cents": "Long", "hour_frees_at": "Long"}
"""What it is told of a tool that has an amount, beside that."""


class Desk(Protocol):
    """Where a pack's effects are done; see `agents/desks.py` for one on SQLite."""

    def perform(self, tool: str, key: str, subject: str, args: dict[str, Any]) -> dict[str, Any]:
        """Do `tool` (without the pack's name) for `subject`, a write once for its `key`; the
        receipt. NotFound, Conflict or InvalidInput when it refuses: nothing was done then."""

    def find(self, key: str) -> dict[str, Any] | None:
        """The receipt of the write that was done under `key`, or None when there was none."""


@dataclass(frozen=True)
class PackParts:
    """What a pack's workflow works with: models by tier, memory, and a call's limit in seconds."""

    chat: Chat
    memory: Memories
    planner: str
    routine: str
    model_timeout_s: float
    clock: Clock


def no_facts(tool: str, args: Mapping[str, Any], run: RunState) -> dict[str, Any]:
    """For a pack whose rules need no more than the common facts."""
    return {}


@dataclass(frozen=True)
class Pack:
    """A workflow. `input` is a pydantic model, or a union of them, that says what a run of it is
    given, its `subject` among it; `work` does one, with that; `desk` opens,
    in the connector, what does its effects, in a folder of its own; `facts` tells policy of a step
    what the tool's `facts` list, from the journal alone."""

    name: str
    title: str
    input: Any
    tools: tuple[Tool, ...]
    work: Callable[[Turn, Any, PackParts], Awaitable[None]]
    desk: Callable[[Path, Clock], Desk]
    facts: Callable[[str, Mapping[str, Any], RunState], dict[str, Any]] = no_facts
    folder: Path = Path()

    @property
    def actor(self) -> str:
        """The name of its connector."""
        return f"{CONNECTOR}{self.name}"

    @property
    def rules(self) -> str:
        """The text of its policy. ConfigError without one."""
        file = self.folder / "policy.cedar"
        if not file.is_file():
            raise ConfigError("agents.packs", str(file), "a file that exists")
        return file.read_text("utf-8")

    @property
    def schema(self) -> str:
        """Its tools as actions of a Cedar schema."""
        return "\n".join(_action(tool) for tool in self.tools)

    async def worked(self, turn: Turn, parts: PackParts) -> None:
        """Work a turn. InvalidInput for a run whose input does not fit."""
        given = {name: v for name, v in turn.run.input.items() if name != "tenant"}
        await self.work(turn, self._parsed(given), parts)

    def read(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """A run's input as the pack takes it, with what is left out. InvalidInput that names the
        first field which is wrong."""
        parsed: BaseModel = self._parsed(given)
        return parsed.model_dump(mode="json")

    def _parsed(self, given: Mapping[str, Any]) -> Any:
        try:
            return TypeAdapter(self.input).validate_python(dict(given))
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(["input", *(str(part) for part in first["loc"])])
            value = first["input"] if len(str(first["input"])) <= 200 else "..."
            raise InvalidInput(where, value, first["msg"]) from None


class Packs(Mapping[str, Pack]):
    """The packs of a stack by name."""

    def __init__(self, packs: Sequence[Pack] = ()) -> None:
        self._packs = {pack.name: pack for pack in packs}
        if len(self._packs) != len(packs):
            names = [pack.name for pack in packs]
            raise ConfigError("agents.packs", names, "packs of different names")
        register(tool for pack in packs for tool in pack.tools)

    def __getitem__(self, name: str) -> Pack:
        return self._packs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._packs)

    def __len__(self) -> int:
        return len(self._packs)

    def facts(
        self, tool: str, args: Mapping[str, Any], run: RunState, standing: Standing
    ) -> dict[str, Any]:
        """What policy is told of a pack's tool beside the common facts."""
        pack = self._packs.get(pack_of(tool))
        if pack is None or tool not in TOOLS:
            return {}
        told = pack.facts(tool.partition(".")[2], args, run)
        return {**_rates(standing), **told} if TOOLS[tool].amount else told

    def policy(self, path: Path) -> Policy:
        """The policy at `path` with the packs' own. ConfigError when one of them is not right, or
        speaks of a workflow or an action that is not its own."""
        source, schema = policies.read(path)
        for pack in self._packs.values():
            file = str(pack.folder / "policy.cedar")
            try:
                rules.require_own(pack.rules, pack.name, {tool.name for tool in pack.tools})
            except rules.Flaw as flaw:
                raise ConfigError("agents.packs", file, str(flaw)) from None
            except ValueError as error:
                raise ConfigError("agents.packs", file, f"valid Cedar ({error})") from None
            source, schema = f"{source}\n{pack.rules}", f"{schema}\n{pack.schema}"
        return Policy(source, schema, ", ".join([str(path), *self._packs]))


NO_PACKS: Final = Packs()


def load(names: Sequence[str]) -> Packs:
    """The packs of these names (of shipped ones) or paths (of folders). ConfigError, naming the
    pack, when there is none or its PACK is not whole."""
    return Packs([_pack(name) for name in names])


def policy(path: Path, names: Sequence[str]) -> Policy:
    """`Packs.policy` of the packs of these names, for constructors of actors."""
    return load(names).policy(path)


def _pack(name: str) -> Pack:
    module = _module(name)
    pack = getattr(module, "PACK", None)
    if not isinstance(pack, Pack) or module.__file__ is None:
        raise ConfigError("agents.packs", name, "a workflow.py that defines PACK, an agents Pack")
    if not _NAME.fullmatch(pack.name):
        expected = "a PACK whose name is 1 to 40 small letters, digits and _"
        raise ConfigError("agents.packs", pack.name, expected)
    if pack.name != Path(module.__file__).parent.name:
        expected = f"a folder called {pack.name}, as its PACK is"
        raise ConfigError("agents.packs", name, expected)
    if wrong := [t.name for t in pack.tools if pack_of(t.name) != pack.name]:
        raise ConfigError("agents.packs", wrong, f"tools that are called {pack.name}.SOMETHING")
    return replace(pack, folder=Path(module.__file__).parent)


def _module(name: str) -> ModuleType:
    if _NAME.fullmatch(name):
        where = f"{_SHIPPED}.{name}.workflow"
        if importlib.util.find_spec(f"{_SHIPPED}.{name}") is None:
            raise ConfigError("agents.packs", name, "a shipped workflow, or the path of a folder")
        return importlib.import_module(where)
    file = Path(name).expanduser() / "workflow.py"
    spec = importlib.util.spec_from_file_location(f"pack_{file.parent.name}", file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise ConfigError("agents.packs", name, "a folder with a workflow.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        why = f"a workflow.py that can be imported ({type(error).__name__}: {error})"
        raise ConfigError("agents.packs", str(file), why) from error
    return module


def _action(tool: Tool) -> str:
    facts = {**COMMON, **tool.facts}
    if tool.amount:
        facts |= {tool.amount: "Long", **RATES}
    listed = ", ".join(f"{name}: {type}" for name, type in facts.items())
    return f'action "{tool.name}" appliesTo {{ {_SCOPE}, context: {{ {listed} }} }};'


def _rates(standing: Standing) -> dict[str, int]:
    return {name: getattr(standing, name) for name in RATES}
