"""PURE: may this step be done? Cedar policies, schema-checked at load, default deny.

Covered: every tool call, read or write, with the facts that the orchestrator gathered itself; who
asks is `Agent::"WORKFLOW"`, so each workflow has the tools that a permit names for it and no other.
Not covered: what a tool does once it is allowed; that is the connector's to hold.

There are five answers. A permit allows. A forbid denies, or is softened by its annotations
(`agents/rules.py`): it asks a person, lets the step wait until a rate frees, or cuts an argument
down and judges the step anew. A denial beats a narrowing, that a question, and that a wait; what no
permit allows is denied whatever a person would say.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import cedarpy

from agents import rules
from agents.events import Answer
from agents.rules import Rule
from agents.tools import action_of
from cluster.errors import ConfigError

_MALFORMED: Final = "malformed-request"


@dataclass(frozen=True)
class Request:
    """`workflow` asks for `tool` on `ticket` with `facts` (what the schema lists for that
    action)."""

    tool: str
    ticket: str
    facts: dict[str, Any]
    workflow: str = "support"


@dataclass(frozen=True)
class Decision:
    """The answer, the rule that gave it and the sentence behind it. `changed` holds the arguments
    that were cut down, `until` when to ask again (seconds since the epoch); `rules` are those that
    want a person; `facts` is what it was judged on."""

    answer: Answer
    rule: str
    reason: str
    changed: dict[str, Any] = field(default_factory=dict)
    until: float | None = None
    rules: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def allows(self) -> bool:
        """Whether the step is done now, if with other arguments."""
        return self.answer in {"allow", "modify"}


def read(path: Path) -> tuple[str, str]:
    """The texts of a policy and of the `.cedarschema` beside it. ConfigError when either is
    missing."""
    schema = path.with_suffix(".cedarschema")
    for file in (path, schema):
        if not file.is_file():
            raise ConfigError("agents.policy", str(file), "a file that exists")
    return path.read_text("utf-8"), schema.read_text("utf-8")


class _Loaded:
    """Policies as Cedar's own handles, with our reading of their annotations."""

    def __init__(self, source: str, schema: Any) -> None:
        self.rules = rules.read(source)
        self._schema = schema
        self._policies = cedarpy.PolicySet.from_str(source)
        self._entities = cedarpy.Entities.from_json_str("[]")

    def judge(self, request: Request) -> tuple[bool, list[Rule], str]:
        """Whether it is allowed, by which rules; and what is wrong with the request, if
        anything."""
        result = cedarpy.is_authorized(
            {
                "principal": f"Agent::{json.dumps(request.workflow)}",
                "action": f"Action::{json.dumps(action_of(request.tool))}",
                "resource": f"Ticket::{json.dumps(request.ticket)}",
                "context": request.facts,
            },
            self._policies,
            self._entities,
            self._schema,
        )
        diagnostics = result.diagnostics
        if result.decision == cedarpy.Decision.NoDecision or diagnostics.errors:
            errors = "; ".join(str(e) for e in diagnostics.errors) or "no decision"
            return False, [], errors
        hit = [self.rules[r] for r in diagnostics.reasons if r in self.rules]
        return bool(result.allowed), sorted(hit, key=lambda rule: rule.id), ""


class _Rules:
    """Policies, with and without the forbids that a person could lift."""

    def __init__(self, source: str, schema: Any) -> None:
        self.all = _Loaded(source, schema)
        self.hard = _Loaded(rules.hard(source), schema)


class Policy:
    """A loaded policy. Loading fails rather than allowing more than was written."""

    def __init__(self, source: str, schema: str, name: str) -> None:
        """Raises ConfigError when the policy does not parse, does not fit its schema, names an
        action that is none, contradicts itself, or a rule lacks its annotations."""
        try:
            cedarpy.PolicySet.from_str(source)
            checked = cedarpy.validate_policies(source, schema)
            if not checked:
                errors = "; ".join(dict.fromkeys(str(e.error) for e in checked.errors))
                raise rules.Flaw(f"Cedar that fits its schema ({errors})")
            rules.require_sense(source, schema)
            handle = cedarpy.Schema.from_str(schema)
            self._whole = _Rules(source, handle)
            slices = rules.by_action(source, schema)
            self._by_action = {action: _Rules(s, handle) for action, s in slices.items()}
        except rules.Flaw as flaw:
            raise ConfigError("agents.policy", name, str(flaw)) from None
        except ValueError as error:
            raise ConfigError("agents.policy", name, f"valid Cedar ({error})") from None

    @classmethod
    def load(cls, path: Path) -> "Policy":
        """Read `path` and the `.cedarschema` beside it. ConfigError when either is missing."""
        return cls(*read(path), str(path))

    def decide(self, request: Request, settled: Collection[str] = ()) -> Decision:
        """The answer to `request`, with rule and reason. A person has said yes to the `settled`
        rules. Facts that do not fit the schema are a denial by the rule `malformed-request`."""
        return replace(self._decide(request, settled), facts=request.facts)

    def _decide(self, request: Request, settled: Collection[str]) -> Decision:
        about = self._by_action.get(action_of(request.tool), self._whole)
        allowed, hit, wrong = about.all.judge(request)
        if wrong:
            return Decision("deny", _MALFORMED, wrong)
        if allowed:
            return Decision("allow", hit[0].id, hit[0].reason)
        if denials := [rule for rule in hit if rule.answer == "deny"]:
            return Decision("deny", denials[0].id, denials[0].reason)
        permitted, by, _ = about.hard.judge(request)
        if not permitted:
            return Decision("deny", "default-deny", f"no rule allows {request.tool} here")
        return self._softened(request, hit, by[0], settled)

    def _softened(
        self, request: Request, hit: list[Rule], permit: Rule, settled: Collection[str]
    ) -> Decision:
        """What is answered where only forbids stand against it that do not deny."""
        by = {answer: [r for r in hit if r.answer == answer] for answer in ("modify", "wait")}
        if by["modify"]:
            return self._narrowed(request, by["modify"][0], settled)
        if asks := [r for r in hit if r.answer == "ask" and r.id not in settled]:
            every = tuple(r.id for r in asks)
            return Decision("ask", asks[0].id, asks[0].reason, rules=every)
        if by["wait"]:
            rule = by["wait"][0]
            until = float(request.facts[rule.until])
            return Decision("wait", rule.id, rule.reason, until=until)
        return Decision("allow", permit.id, permit.reason)

    def _narrowed(self, request: Request, rule: Rule, settled: Collection[str]) -> Decision:
        """The answer to the same step with an argument cut down as `rule` says."""
        most = int(rule.most) if rule.most not in request.facts else int(request.facts[rule.most])
        if not 0 < most < int(request.facts[rule.narrow]):
            return Decision("deny", rule.id, f"{rule.reason}; it can't be cut down to {most}")
        cut = {rule.narrow: most}
        then = self._decide(replace(request, facts={**request.facts, **cut}), settled)
        changed = {**cut, **then.changed}
        if then.allows:
            return Decision("modify", rule.id, rule.reason, changed)
        return replace(then, changed=changed)
