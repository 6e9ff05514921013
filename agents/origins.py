"""PURE: may the values of a step be trusted? By where they come from, not by who says so.

An argument is trusted when it equals a value of trusted origin, under a field that the tool takes
it from: of the run's own input, where the caller did not mark that field as outside text, or of a
receipt whose tool reads our own records; or of a phase that was done before the run had read any
text from outside, such as a plan made from the input alone. What a model copied from elsewhere,
computed or made up later is untrusted, and so is what was recalled or signalled.

Covered: every argument of every tool; the choice of the tool itself, as a fact. Not covered: which
of several values of trusted origin, under the same field, text from outside picks or combines
(policy holds that down), and what prose says.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agents.state import RunState
from agents.taint import UNKNOWN
from agents.tools import Tool

TOOLS_FIELD: Final = "tools"
"""The field of a run's input that names the tools which it is about."""
_DONE: Final = ("allow", "modify")
_Leaf = tuple[str, type, Any]


@dataclass(frozen=True)
class Known:
    """Values of trusted origin: with their fields, and without. A number is no text, nor a
    Boolean a number."""

    leaves: frozenset[_Leaf]
    values: frozenset[tuple[type, Any]]

    @classmethod
    def of(cls, run: RunState) -> "Known":
        """Those of this run, by now."""
        found = set(_leaves({n: v for n, v in run.input.items() if _is_own(run, n)}))
        for step, receipt in run.receipts.items():
            if run.labels.get(step, UNKNOWN).trust == "trusted":
                found.update(_leaves(receipt))
        for phase, result in run.phases.items():
            if run.phase_labels.get(phase, UNKNOWN).trust == "trusted":
                found.update(_leaves(result))
        return cls(frozenset(found), frozenset((kind, value) for _, kind, value in found))

    def has(self, value: Any, sources: tuple[str, ...] = ()) -> bool:
        """Whether all that is in `value` is known, under one of these fields if any are named."""
        leaves = [(kind, leaf) for _, kind, leaf in _leaves(value)]
        if not sources:
            return all(leaf in self.values for leaf in leaves)
        return all(any((s, k, v) in self.leaves for s in sources) for k, v in leaves)


def facts(tool: Tool, args: Mapping[str, Any], run: RunState) -> dict[str, Any]:
    """What policy is told of a step: `untrusted` (the control parameters whose values are of no
    trusted origin), `tool_trusted` (whether text from outside can't have chosen the tool: none was
    read by then, or the run's input names it under `tools`, as often as it is used), and `sharing`
    (the narrowest confidentiality of all that the run has read)."""
    return {
        "untrusted": untrusted(tool, args, run),
        "tool_trusted": run.label.trust == "trusted" or _is_named(tool.name, run),
        "sharing": run.label.sharing,
    }


def untrusted(tool: Tool, args: Mapping[str, Any], run: RunState) -> list[str]:
    """The control parameters among `args` whose values are of no trusted origin, by name."""
    control = tool.control if tool.control is not None else dict.fromkeys(args, ())
    asked = {name: sources for name, sources in control.items() if name in args}
    if not asked:
        return []
    known = Known.of(run)
    return sorted(n for n, sources in asked.items() if not known.has(args[n], sources))


def outside(given: Mapping[str, Any], known: Known) -> tuple[str, ...]:
    """The fields of another run's input that hold something which is not `known` in this one."""
    return tuple(sorted(name for name, value in given.items() if not known.has(value)))


def _is_named(tool: str, run: RunState) -> bool:
    named = run.input.get(TOOLS_FIELD)
    if not isinstance(named, list | tuple) or not _is_own(run, TOOLS_FIELD):
        return False
    used = [d for d in run.decisions.values() if d.tool == tool and d.answer in _DONE]
    return len(used) < named.count(tool)


def _is_own(run: RunState, field: str) -> bool:
    return field not in run.options.untrusted


def _leaves(value: Any, field: str = "") -> Iterator[_Leaf]:
    """The scalars in a value of JSON, each under the name of the field that holds it."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner, field)
    elif value is not None:
        yield field, type(value), value
