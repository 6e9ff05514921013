"""Tools of MCP servers as a planner is offered them: which of them, in what words, in which form.

A workflow that a server lists is offered those of its tools that an operator has accepted. Where
there are more than a prompt holds, the ticket's words search for them (`agents/toolbox.py`). What
was offered is journaled with the run, so a turn that goes on after a crash reads its plan by the
same schemas. Where a tool takes a number, a plan may name one of the ticket's by its reference:
models see no digits. The plan is written before any tool is used: what a tool returns chooses no
step.

Not offered: tools whose schema is over MAX_SCHEMA_CHARS, or refers to other places than its own
`$defs`. Nothing here decides: policy does, and the connector checks tool and arguments again. Not
covered: hosts on machines that do not share the data folder, which see no pins and offer nothing;
amounts and dates, which a tool gets as the ticket writes them.
"""

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from agents.digests import canonical
from agents.toolbox import Pin, Pins, Toolbox, search
from agents.tools import Effect, Offer
from agents.turn import Turn
from cluster.errors import DataError
from cluster.settings import ToolServerSection
from cluster.telemetry import logger

PHASE: Final = "tools"
MAX_SCHEMA_CHARS: Final = 4_000
_MAX_DEPTH: Final = 32
_WORDS_SHOWN: Final = 200
_NUMBERS: Final = ("integer", "number")
_PLAIN: Final = re.compile(r"(?:0|[1-9]\d{0,14})(?:\.\d{1,6})?")
_DEFS: Final = ("$defs", "definitions")
# What grammars hold of a schema; the rest is checked when the plan is read.
_HELD: Final = ("type", "enum", "const", "required", "minItems", "maxItems")

log = logger("offering")


class Offering:
    """What planners may be offered: at most `most` tools for a ticket, of those that are pinned in
    the file `pins`."""

    def __init__(self, servers: Sequence[ToolServerSection], pins: Path, most: int) -> None:
        self._servers, self._pins, self._most = servers, Pins(pins), most
        self._toolbox = Toolbox(servers)

    def serves(self, workflow: str) -> bool:
        """Whether the settings list this workflow for any server."""
        return self._most > 0 and any(workflow in server.workflows for server in self._servers)

    def chosen(self, workflow: str, text: str) -> dict[str, Any]:
        """The tools for a ticket of this `text`, as a phase's result: each with its pin and what it
        does to the world; `accepted` is how many there were to choose from, and `problem` says why
        there are none where the pins can't be read."""
        try:
            pins = self._pins.all().values()
        except DataError as error:
            log.warning("no server's tool is offered: %s", error)
            return {"tools": [], "accepted": 0, "problem": str(error)}
        usable = [p for p in pins if self._toolbox.listed(p.name, workflow) and plannable(p)]
        found = usable
        if len(usable) > self._most:
            found = [pin for pin, _ in search(usable, text, self._most)]
        tools = [{"pin": asdict(p), "effect": self._toolbox.tool(p.name).effect} for p in found]
        return {"tools": tools, "accepted": len(usable), "problem": ""}


async def for_turn(
    turn: Turn, servers: Offering | None, text: str, numbers: Sequence[str]
) -> list[Offer]:
    """What a turn on a ticket of this `text` is offered: chosen when it was first read, and the
    same ever after. `numbers` are the references of its plain numbers. None where no server lists
    the workflow, and nothing is journaled then."""
    if servers is not None and servers.serves(turn.run.workflow):

        async def choose() -> dict[str, Any]:
            # A thousand tools are read and searched in tens of milliseconds: not in the loop.
            return await asyncio.to_thread(servers.chosen, turn.run.workflow, text)

        return offers(await turn.phase(PHASE, choose), numbers)
    return offers(turn.run.phases.get(PHASE, {"tools": []}), numbers)


def plannable(pin: Pin) -> bool:
    """Whether a plan can hold this tool's arguments."""
    schema = pin.schema
    return len(canonical(schema)) <= MAX_SCHEMA_CHARS and all(
        _name_in(ref) in _definitions(schema) for ref in _references(schema)
    )


def offers(chosen: Mapping[str, Any], numbers: Sequence[str] = ()) -> list[Offer]:
    """The offers that a phase's result holds."""
    return [offer(Pin(**tool["pin"]), tool["effect"], numbers) for tool in chosen["tools"]]


def offer(pin: Pin, effect: Effect, numbers: Sequence[str] = ()) -> Offer:
    """A tool to a plan in which these references stand for numbers."""
    named = {name: numbers for name in _numeric(pin.schema)} if numbers else {}
    return Offer(Toolbox.described(pin.name, effect), named, pin.schema, pin.description)


def _numeric(schema: Mapping[str, Any]) -> list[str]:
    """The parameters that are numbers."""
    properties = schema.get("properties", {}).items()
    return [n for n, each in properties if isinstance(each, dict) and each.get("type") in _NUMBERS]


def shown(offer: Offer) -> str:
    """A tool as a prompt says it: `time/now(timezone: string, at?: string) The time somewhere.`"""
    schema = offer.schema or {}
    required = schema.get("required", ())
    parts = [
        f"{name}{'' if name in required else '?'}: {_type(each)}"
        for name, each in schema.get("properties", {}).items()
    ]
    words = " ".join(offer.about.split())[:_WORDS_SHOWN]
    return f"{offer.tool.name}({', '.join(parts)}) {words}".rstrip()


def _type(schema: Any) -> str:
    if isinstance(schema, dict):
        if "enum" in schema:
            return "|".join(str(value) for value in schema["enum"][:8])
        if isinstance(schema.get("type"), str):
            return str(schema["type"])
    return "any"


# --- a tool's schema within the schema of a plan


def arguments(offer: Offer, prefix: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a grammar can hold of a tool's schema, and its definitions by their names in the plan's
    schema, which begin with `prefix`. Looser than the tool's own, never narrower."""
    schema = offer.schema or {}
    named = {
        f"{prefix}{name}": _loosened(each, prefix) for name, each in _definitions(schema).items()
    }
    held = {"type": "object", **_loosened(schema, prefix)}
    for name, references in offer.values.items():
        own = held["properties"][name]
        held["properties"][name] = {"anyOf": [own, {"enum": list(references)}]}
    return held, named


def filled(offer: Offer, args: Mapping[str, Any], render: Callable[[str], str]) -> dict[str, Any]:
    """A plan's arguments with values in the place of references: in all texts, but not in keys,
    and a number where the tool takes one."""
    made = {name: _rendered(value, render) for name, value in args.items()}
    for name, references in offer.values.items():
        if name in args and args[name] in references and _PLAIN.fullmatch(made[name]):
            made[name] = json.loads(made[name])
    return made


def _rendered(value: Any, render: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return render(value)
    if isinstance(value, list):
        return [_rendered(each, render) for each in value]
    if isinstance(value, dict):
        return {key: _rendered(each, render) for key, each in value.items()}
    return value


def _loosened(schema: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(schema, dict):
        return {}  # true: anything
    if "$ref" in schema:
        return {"$ref": f"#/$defs/{prefix}{_name_in(schema['$ref'])}"}
    held: dict[str, Any] = {name: schema[name] for name in _HELD if name in schema}
    if isinstance(schema.get("properties"), dict):
        each = schema["properties"].items()
        held["properties"] = {name: _loosened(inner, prefix) for name, inner in each}
    for name in ("items", "additionalProperties"):
        inner = schema.get(name)
        if isinstance(inner, dict):
            held[name] = _loosened(inner, prefix)
    if schema.get("additionalProperties") is False and "patternProperties" not in schema:
        held["additionalProperties"] = False
    for name in ("anyOf", "oneOf"):
        if isinstance(schema.get(name), list):
            held["anyOf"] = [_loosened(inner, prefix) for inner in schema[name]]
    return held


def _definitions(schema: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in _DEFS:
        if isinstance(schema.get(name), dict):
            found |= schema[name]
    return found


def _name_in(ref: object) -> str:
    """The definition that a reference names; empty for any other reference."""
    head, _, name = str(ref).rpartition("/")
    return name if head in [f"#/{d}" for d in _DEFS] else ""


def _references(value: Any, depth: int = 0) -> list[object]:
    if depth > _MAX_DEPTH:
        return [""]
    if isinstance(value, dict):
        own = [value[key] for key in ("$ref", "$dynamicRef") if key in value]
        return own + [r for inner in value.values() for r in _references(inner, depth + 1)]
    if isinstance(value, list):
        return [r for inner in value for r in _references(inner, depth + 1)]
    return []
