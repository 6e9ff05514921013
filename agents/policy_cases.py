"""Cases of a policy in a YAML file: what `mainspring policy test` runs.

policy: support.cedar          # beside the file, unless told otherwise
workflow: support
facts: {intent: complaint}     # of every case that does not say otherwise
tools:                         # more of them, by tool
  refund: {amount_cents: 1000}
cases:
  - {tool: refund, facts: {amount_cents: 3001}, answer: ask, rule: refund-cap}
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agents.events import Answer
from agents.policy import Decision, Policy, Request
from cluster.errors import InvalidInput, NotFound


class _Given(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Case(_Given):
    """A request and what is right for it; `settled` are rules that a person said yes to. What is
    left out (`rule`, `changed`) is not looked at."""

    tool: str
    answer: Answer
    rule: str | None = None
    changed: dict[str, int] | None = None
    facts: dict[str, Any] = Field(default_factory=dict)
    workflow: str | None = None
    settled: tuple[str, ...] = ()
    name: str = ""


class Cases(_Given):
    """A file of them."""

    policy: str | None = None
    workflow: str = "support"
    facts: dict[str, Any] = Field(default_factory=dict)
    tools: dict[str, dict[str, Any]] = Field(default_factory=dict)
    cases: tuple[Case, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Tried:
    """What a case came to; `wrong` says what was expected instead, empty when it is right."""

    name: str
    decision: Decision
    wrong: str


def read(path: Path) -> Cases:
    """The cases of a file. NotFound without one; InvalidInput that names the first thing wrong."""
    try:
        return Cases.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except FileNotFoundError:
        raise NotFound("file of cases", str(path)) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidInput("cases", str(path), f"readable YAML ({error})") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "cases"
        raise InvalidInput(f"{path.name}: {where}", first.get("input"), first["msg"]) from None


def tried(policy: Policy, cases: Cases) -> Iterator[Tried]:
    """Each case in order."""
    for number, case in enumerate(cases.cases, 1):
        facts = {**cases.facts, **cases.tools.get(case.tool, {}), **case.facts}
        workflow = case.workflow or cases.workflow
        request = Request(case.tool, "T-1", facts, workflow)
        decision = policy.decide(request, case.settled)
        name = case.name or f"{number}: {workflow} {case.tool} {case.facts or ''}".rstrip()
        yield Tried(name, decision, _wrong(case, decision))


def _wrong(case: Case, decision: Decision) -> str:
    expected = {"answer": case.answer, "rule": case.rule, "changed": case.changed}
    for name, value in expected.items():
        if value is not None and getattr(decision, name) != value:
            return f"expected {name} {value}, not {getattr(decision, name)}"
    return ""
