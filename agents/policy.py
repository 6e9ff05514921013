"""PURE: may this step be done? Cedar policies, schema-checked at load, default deny.

Covered: every tool call, read or write, with the facts that the orchestrator gathered itself.
Not covered: what a tool does once it is allowed; that is the connector's to hold.

A policy file is Cedar with three annotations on each rule: `@id` names it, `@reason` is the
sentence a person reads, and `@answer("ask")` on a `forbid` asks a person instead of denying.
A forbid beats a permit; among forbids a plain one beats one that asks.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cedarpy

from agents.events import Answer
from cluster.errors import ConfigError

PRINCIPAL = 'Agent::"support"'


@dataclass(frozen=True)
class Request:
    """`tool` is asked for on `ticket` with `facts` (what the schema lists for that action)."""

    tool: str
    ticket: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Decision:
    """The answer, the rule that gave it and the sentence behind it."""

    answer: Answer
    rule: str
    reason: str


@dataclass(frozen=True)
class _Rule:
    id: str
    effect: str
    answer: Answer
    reason: str


class Policy:
    """A loaded policy. Loading fails rather than allowing more than was written."""

    def __init__(self, source: str, schema: str, name: str) -> None:
        """Raises ConfigError when the policy does not parse, does not fit its schema, or a rule
        lacks its id or reason."""
        try:
            checked = cedarpy.validate_policies(source, schema)
            self._policies = cedarpy.PolicySet.from_str(source)
            self._schema = cedarpy.Schema.from_str(schema)
            self._entities = cedarpy.Entities.from_json_str("[]")
            self._rules = _rules(source, name)
        except ValueError as error:
            raise ConfigError("agents.policy", name, f"valid Cedar ({error})") from None
        if not checked:
            raise ConfigError(
                "agents.policy", name, f"Cedar that fits its schema: {checked.errors}"
            )

    @classmethod
    def load(cls, path: Path) -> "Policy":
        """Read `path` and the `.cedarschema` beside it. ConfigError when either is missing."""
        schema = path.with_suffix(".cedarschema")
        for file in (path, schema):
            if not file.is_file():
                raise ConfigError("agents.policy", str(file), "a file that exists")
        return cls(path.read_text("utf-8"), schema.read_text("utf-8"), str(path))

    def decide(self, request: Request) -> Decision:
        """Whether `request` is allowed, with rule and reason. Facts that do not fit the schema
        are a denial by the rule `malformed-request`."""
        result = cedarpy.is_authorized(
            {
                "principal": PRINCIPAL,
                "action": f'Action::"{request.tool}"',
                "resource": f"Ticket::{json.dumps(request.ticket)}",
                "context": request.facts,
            },
            self._policies,
            self._entities,
            self._schema,
        )
        if result.decision == cedarpy.Decision.NoDecision or result.diagnostics.errors:
            errors = "; ".join(str(e) for e in result.diagnostics.errors) or "no decision"
            return Decision("deny", "malformed-request", errors)
        hit = [self._rules[r] for r in result.diagnostics.reasons if r in self._rules]
        if result.allowed:
            rule = hit[0]
            return Decision("allow", rule.id, rule.reason)
        if not hit:
            return Decision("deny", "default-deny", f"no rule allows {request.tool} here")
        plain = [r for r in hit if r.answer == "deny"]
        rule = min(plain or hit, key=lambda r: r.id)
        return Decision(rule.answer, rule.id, rule.reason)


def _rules(source: str, name: str) -> dict[str, _Rule]:
    document = json.loads(cedarpy.policies_to_json_str(source))
    rules: dict[str, _Rule] = {}
    for key, policy in document["staticPolicies"].items():
        notes = policy.get("annotations", {})
        if not notes.get("id") or not notes.get("reason"):
            raise ConfigError("agents.policy", name, f"@id and @reason on every rule ({key})")
        asks = notes.get("answer") == "ask"
        answer: Answer = "allow" if policy["effect"] == "permit" else ("ask" if asks else "deny")
        rules[key] = _Rule(notes["id"], policy["effect"], answer, notes["reason"])
    return rules
