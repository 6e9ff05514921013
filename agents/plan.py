"""A typed plan: what the planner may write, and nothing else.

The model's text is constrained to `schema(offers)` while it is generated and checked again here,
since an engine's grammar is a help and not a guarantee.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from agents.tools import Offer
from cluster.errors import InvalidInput

MAX_STEPS: Final = 5


@dataclass(frozen=True)
class Step:
    """One call of a tool. `args` holds every parameter of the tool, in call order."""

    tool: str
    args: dict[str, str]


@dataclass(frozen=True)
class Plan:
    """Steps in order; only the last one is terminal."""

    steps: tuple[Step, ...]

    def as_json(self) -> str:
        """The form that models write: what a grammar without free white space lets through."""
        steps = [{"tool": s.tool, **s.args} for s in self.steps]
        return json.dumps({"steps": steps})


def schema(offers: Sequence[Offer]) -> dict[str, Any]:
    """The JSON schema of a plan over `offers`."""
    return {
        "type": "object",
        "properties": {
            "steps": {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_STEPS,
                "items": {"anyOf": [_step_schema(offer) for offer in offers]},
            }
        },
        "required": ["steps"],
        "additionalProperties": False,
    }


def parse(text: str, offers: Sequence[Offer]) -> Plan:
    """The plan that `text` holds.

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
    parsed = [_parse_step(i, step, offered) for i, step in enumerate(steps)]
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


def _step_schema(offer: Offer) -> dict[str, Any]:
    properties: dict[str, Any] = {"tool": {"const": offer.tool.name}}
    for name in offer.tool.parameters:
        properties[name] = {"enum": list(offer.values[name])}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _parse_step(index: int, step: object, offered: dict[str, Offer]) -> Step:
    where = f"plan.steps[{index}]"
    if not isinstance(step, dict):
        raise InvalidInput(where, step, "an object with the key tool")
    offer = offered.get(str(step.get("tool")))
    if offer is None:
        raise InvalidInput(f"{where}.tool", step.get("tool"), f"one of {sorted(offered)}")
    args = {k: v for k, v in step.items() if k != "tool"}
    if set(args) != set(offer.tool.parameters):
        raise InvalidInput(where, sorted(args), f"the arguments {list(offer.tool.parameters)}")
    for name in offer.tool.parameters:
        if args[name] not in offer.values[name]:
            expected = f"one of {list(offer.values[name])}"
            raise InvalidInput(f"{where}.{name}", args[name], expected)
    return Step(offer.tool.name, {name: args[name] for name in offer.tool.parameters})
