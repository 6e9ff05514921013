"""A typed plan: what the planner may write, and nothing else.

The model's text is constrained to `schema(offers)` while it is generated and checked again here,
since an engine's grammar is a help and not a guarantee. A step with a server's tool is
`{"tool": "SERVER/TOOL", "arguments": {...}}`, with what the tool's own schema takes.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from agents.offering import arguments, filled
from agents.toolbox import of_server, require_fit
from agents.tools import Offer
from cluster.errors import InvalidInput

MAX_STEPS: Final = 5

Render = Callable[[str], str]
"""Puts values in the place of references."""


@dataclass(frozen=True)
class Step:
    """One call of a tool. `args` holds every parameter of the tool, in call order; of a server's
    tool, what its schema takes, with references in place of values, which stand in `filled`."""

    tool: str
    args: dict[str, Any]
    filled: dict[str, Any] = field(default_factory=dict)

    def as_written(self) -> dict[str, Any]:
        """The step as a plan says it."""
        args = {"arguments": self.args} if of_server(self.tool) else self.args
        return {"tool": self.tool, **args}


@dataclass(frozen=True)
class Plan:
    """Steps in order; only the last one is terminal."""

    steps: tuple[Step, ...]

    def as_json(self) -> str:
        """The form that models write: what a grammar without free white space lets through."""
        return json.dumps({"steps": [step.as_written() for step in self.steps]})


def schema(offers: Sequence[Offer]) -> dict[str, Any]:
    """The JSON schema of a plan over `offers`."""
    defs: dict[str, Any] = {}
    steps = [_step_schema(offer, f"t{number}_", defs) for number, offer in enumerate(offers)]
    return {
        "type": "object",
        "properties": {
            "steps": {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_STEPS,
                "items": {"anyOf": steps},
            }
        },
        "required": ["steps"],
        "additionalProperties": False,
        **({"$defs": defs} if defs else {}),
    }


def parse(text: str, offers: Sequence[Offer], render: Render = str) -> Plan:
    """The plan that `text` holds. The arguments of a server's tool are judged by its schema as
    `render` leaves them.

    Raises InvalidInput, naming the step and what would be right, when it is not JSON, names a
    tool or value that was not offered, has too many steps or does not end in one terminal step.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidInput("plan", text, "a JSON object") from None
    steps = data.get("steps") if isinstance(data, dict) else None
    if not isinstance(steps, list) or not 1 <= len(steps) <= MAX_STEPS:
        raise InvalidInput("plan.steps", steps, f"a list of 1 to {MAX_STEPS} steps")
    offered = {offer.tool.name: offer for offer in offers}
    parsed = [_parse_step(i, step, offered, render) for i, step in enumerate(steps)]
    for i, step in enumerate(parsed):
        last = i == len(parsed) - 1
        if offered[step.tool].tool.terminal != last:
            expected = "reply or escalate at the end and only there"
            raise InvalidInput(f"plan.steps[{i}].tool", step.tool, expected)
    return Plan(tuple(_unique(parsed)))


def _unique(steps: Sequence[Step]) -> list[Step]:
    # A step said twice is meant once: the second refund of the same order is not a second wish.
    kept: list[Step] = []
    for step in steps:
        if step not in kept:
            kept.append(step)
    return kept


def _step_schema(offer: Offer, prefix: str, defs: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {"tool": {"const": offer.tool.name}}
    if offer.schema is not None:
        properties["arguments"], named = arguments(offer, prefix)
        defs.update(named)
    for name in offer.tool.parameters:
        properties[name] = {"enum": list(offer.values[name])}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _parse_step(index: int, step: object, offered: dict[str, Offer], render: Render) -> Step:
    where = f"plan.steps[{index}]"
    if not isinstance(step, dict):
        raise InvalidInput(where, step, "an object with the key tool")
    offer = offered.get(str(step.get("tool")))
    if offer is None:
        raise InvalidInput(f"{where}.tool", step.get("tool"), f"one of {sorted(offered)}")
    args = {k: v for k, v in step.items() if k != "tool"}
    if offer.schema is not None:
        return _parse_call(where, offer, args, render)
    if set(args) != set(offer.tool.parameters):
        raise InvalidInput(where, sorted(args), f"the arguments {list(offer.tool.parameters)}")
    for name in offer.tool.parameters:
        if args[name] not in offer.values[name]:
            expected = f"one of {list(offer.values[name])}"
            raise InvalidInput(f"{where}.{name}", args[name], expected)
    return Step(offer.tool.name, {name: args[name] for name in offer.tool.parameters})


def _parse_call(where: str, offer: Offer, given: dict[str, Any], render: Render) -> Step:
    args = given.get("arguments")
    if set(given) != {"arguments"} or not isinstance(args, dict):
        raise InvalidInput(where, sorted(given), "the argument arguments, an object")
    if not _is_finite(args):
        raise InvalidInput(f"{where}.arguments", "NaN or Infinity", "numbers that JSON knows")
    whole = filled(offer, args, render)
    require_fit(f"{where}.arguments", whole, offer.schema or {})
    return Step(offer.tool.name, args, whole)


def _is_finite(value: Any) -> bool:
    """Whether a journal could hold it: Python reads NaN, and 1e999 as Infinity."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True
