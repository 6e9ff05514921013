"""The tools that agents may use: the built-in ones, and those of MCP servers.

A server's tool is called `SERVER/TOOL`. An operator lists it in the settings, with what it does to
the world, and accepts it as the server describes it. Name, description and schemas are pinned by
their hash then; the connector (`agents/servers.py`) refuses a tool that is described in another way
until an operator accepts that too. What a server says of itself ("read only") counts for nothing.

Covered: hidden changes of a description, arguments that don't fit, schemas that would be slow or
would reach out. Not covered: a server that keeps its description and does something else.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from agents.digests import canonical, digest
from agents.tools import TOOLS, Effect, Tool
from cluster.errors import Conflict, DataError, InvalidInput
from cluster.settings import ToolServerSection
from memory.words import terms

BETWEEN: Final = "/"
PINS: Final = "servers/pins.json"
TOOL_RESULT: Final = "tool_result"
"""The kind of a receipt of a server's tool."""
MAX_SCHEMA_CHARS: Final = 32_000
MAX_DESCRIPTION_CHARS: Final = 8_000
_MAX_DEPTH: Final = 32
_MAX_PATTERN: Final = 200
# A repeated group that repeats within: what makes a pattern take for ever.
_SLOW: Final = re.compile(r"[+*}]\)[+*{?]|\)[+*{].*\)[+*{]")
_K1, _B = 1.2, 0.75


@dataclass(frozen=True)
class Pin:
    """A server's tool as somebody accepted it: `by` whom, and `at` which time (seconds since the
    epoch); both are empty in what a server has just said."""

    server: str
    tool: str
    description: str
    schema: dict[str, Any]
    output: dict[str, Any] | None = None
    by: str = ""
    at: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.server}{BETWEEN}{self.tool}"

    @property
    def hash(self) -> str:
        """SHA-256 of all that a model or our check reads of it."""
        return digest(self.name, {"d": self.description, "i": self.schema, "o": self.output})

    def changed_from(self, accepted: "Pin") -> list[str]:
        """Which parts differ from the accepted one."""
        parts = ("description", "schema", "output")
        return [part for part in parts if getattr(self, part) != getattr(accepted, part)]


class Toolbox:
    """The tools by name, with what the settings say of servers."""

    def __init__(self, servers: Sequence[ToolServerSection] = ()) -> None:
        self._servers = {server.name: server for server in servers}

    def tool(self, name: str) -> Tool:
        """Any tool; one that nobody listed counts as a write that can't be looked up."""
        if name in TOOLS:
            return TOOLS[name]
        server, tool = parted(name)
        section = self._servers.get(server)
        return self.described(name, section.tools.get(tool, "write") if section else "write")

    @staticmethod
    def described(name: str, effect: Effect) -> Tool:
        """A server's tool. A read that was broken off may be done again."""
        return Tool(name, (), effect, lookup=effect == "read")

    def listed(self, name: str, workflow: str) -> bool:
        """Whether the settings let this workflow use this server's tool."""
        server, tool = parted(name)
        section = self._servers.get(server)
        return section is not None and tool in section.tools and workflow in section.workflows

    def facts(self, name: str, workflow: str) -> dict[str, Any]:
        """What the policy's schema lists for a server's tool, beside the common facts."""
        server, tool = parted(name)
        told = {"server": server, "tool": tool, "effect": self.tool(name).effect}
        return {**told, "listed": self.listed(name, workflow)}

    def section(self, server: str) -> ToolServerSection:
        """A server's settings. InvalidInput when there is none of that name."""
        if server not in self._servers:
            known = sorted(self._servers) or "none; see agents.servers in the settings"
            raise InvalidInput("server", server, f"one of {known}")
        return self._servers[server]

    def timeout_s(self, name: str, otherwise: float) -> float:
        """How long a call of this tool may take at its connector, in seconds."""
        section = self._servers.get(parted(name)[0])
        return otherwise if section is None else section.timeout_s + otherwise


def of_server(name: str) -> bool:
    """Whether it names a server's tool."""
    return BETWEEN in name


def parted(name: str) -> tuple[str, str]:
    """A server's name and that of its tool there."""
    server, _, tool = name.partition(BETWEEN)
    return server, tool


class Pins:
    """The accepted tools, as a file. An operator's command writes it; connectors read it anew for
    each call."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> dict[str, Pin]:
        """By name. DataError when the file is not whole, or an entry's hash is not its own."""
        if not self._path.is_file():
            return {}
        try:
            entries = json.loads(self._path.read_text("utf-8"))
            pins = [(Pin(**entry["pin"]), entry["hash"]) for entry in entries]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(str(self._path), f"no list of accepted tools ({error})") from None
        if wrong := [pin.name for pin, said in pins if pin.hash != said]:
            raise DataError(str(self._path), f"{wrong[0]} was changed by hand")
        return {pin.name: pin for pin, _ in pins}

    def require(self, name: str) -> Pin:
        """The accepted tool of that name; Conflict when nobody has accepted it."""
        pin = self.all().get(name)
        if pin is None:
            hint = f"mainspring tools accept {parted(name)[0]}"
            raise Conflict(f"tool {name}", f"nobody has accepted it yet: {hint}")
        return pin

    def fresh(self, said: Iterable[Pin]) -> list[Pin]:
        """Those of them that are new, or are not as they were accepted."""
        pins = self.all()
        return [p for p in said if p.name not in pins or pins[p.name].hash != p.hash]

    def accept(self, fresh: Iterable[Pin], by: str, at: float) -> None:
        """Pin these. InvalidInput for a schema that we would not check; nothing is pinned then."""
        fresh = list(fresh)
        for pin in fresh:
            require_sound(pin)
        pins = self.all() | {pin.name: replace(pin, by=by, at=at) for pin in fresh}
        entries = [{"hash": pins[name].hash, "pin": asdict(pins[name])} for name in sorted(pins)]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        aside = self._path.with_suffix(".new")
        aside.write_text(json.dumps(entries, indent=1), encoding="utf-8")
        aside.replace(self._path)


def require_sound(pin: Pin) -> None:
    """InvalidInput unless its schemas are JSON Schema that is checked here, quickly, without
    reaching out."""
    if len(pin.description) > MAX_DESCRIPTION_CHARS:
        was = f"{len(pin.description)} characters"
        raise InvalidInput(f"{pin.name}.description", was, f"at most {MAX_DESCRIPTION_CHARS}")
    for part, schema in (("schema", pin.schema), ("output", pin.output)):
        if schema is not None:
            _require_schema(f"{pin.name}.{part}", schema)


def _require_schema(where: str, schema: dict[str, Any]) -> None:
    try:
        size = len(canonical(schema))
        if size > MAX_SCHEMA_CHARS:
            raise InvalidInput(where, f"{size} characters", f"at most {MAX_SCHEMA_CHARS}")
        for keyword, value in _keywords(schema):
            if keyword in ("$ref", "$dynamicRef") and not str(value).startswith("#"):
                raise InvalidInput(where, value, "references within the schema only")
            if keyword == "pattern":
                _require_pattern(where, value)
            if keyword == "patternProperties" and isinstance(value, dict):
                for pattern in value:
                    _require_pattern(where, pattern)
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise InvalidInput(where, error.message[:200], "a JSON Schema (2020-12)") from None
    except RecursionError:
        raise InvalidInput(where, "...", f"at most {_MAX_DEPTH} levels") from None


def _require_pattern(where: str, pattern: object) -> None:
    text = str(pattern)
    try:
        re.compile(text)
    except re.error:
        raise InvalidInput(where, text, "a regular expression") from None
    if len(text) > _MAX_PATTERN or _SLOW.search(text):
        raise InvalidInput(where, text, "patterns that are short, and repeat no repetition")


def _keywords(value: Any, depth: int = 0) -> Iterable[tuple[str, Any]]:
    if depth > _MAX_DEPTH:
        raise RecursionError
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key), inner
            yield from _keywords(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _keywords(inner, depth + 1)


def require_fit(where: str, value: Any, schema: Mapping[str, Any]) -> None:
    """InvalidInput, naming the place, unless `value` fits the schema."""
    # An empty registry: a reference that leads elsewhere is not followed.
    validator = Draft202012Validator(dict(schema), registry=Registry())
    try:
        validator.validate(value)
    except ValidationError as error:
        place = ".".join([where, *(str(p) for p in error.absolute_path)])
        raise InvalidInput(place, str(error.instance)[:200], error.message[:300]) from None
    except (Unresolvable, RecursionError):
        raise InvalidInput(where, str(value)[:200], "a schema whose references end") from None


def search(pins: Iterable[Pin], wanted: str, limit: int = 5) -> list[tuple[Pin, float]]:
    """The tools whose names and descriptions say most of what is `wanted`, best first, with their
    BM25 weight."""
    texts = [(pin, terms(_readable(pin))) for pin in pins]
    asked = set(terms(wanted))
    average = sum(len(words) for _, words in texts) / max(1, len(texts))
    rarity = {word: _rarity(word, texts) for word in asked}
    scored = [(pin, _weight(words, rarity, average)) for pin, words in texts]
    found = [(pin, weight) for pin, weight in scored if weight > 0]
    return sorted(found, key=lambda f: (-f[1], f[0].name))[:limit]


def _readable(pin: Pin) -> str:
    named = re.sub(r"[_./-]+", " ", pin.name)
    properties = pin.schema.get("properties", {})
    return f"{named} {pin.description} {' '.join(properties).replace('_', ' ')}"


def _rarity(word: str, texts: Sequence[tuple[Pin, list[str]]]) -> float:
    holding = sum(word in words for _, words in texts)
    return math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))


def _weight(words: list[str], rarity: Mapping[str, float], average: float) -> float:
    norm = _K1 * (1 - _B + _B * len(words) / max(1.0, average))
    counts = {word: words.count(word) for word in rarity}
    return sum(rarity[w] * n * (_K1 + 1) / (n + norm) for w, n in counts.items() if n)
