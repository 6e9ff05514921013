"""PURE: the rules of a policy file: their annotations, and what makes them worth nothing.

@id("refund-cap")        names the rule
@reason("...")           is the sentence that a person reads
@answer("ask")           on a forbid: what is answered instead of deny
@narrow("amount_cents")  with modify: the argument that is cut down ...
@most("named_cents")     ... to this fact, or to this number
@until("frees_at")       with wait: the fact that says when (seconds since the epoch)
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import cedarpy

_SOFT: Final = ("ask", "wait", "modify")
_COMMENT: Final = re.compile(r"//[^\n]*")
_GROUPS: Final = re.compile(r"\bin\b|memberOf")
_NEEDS: Final = {"ask": (), "wait": ("until",), "modify": ("narrow", "most")}


@dataclass(frozen=True)
class Rule:
    """A rule as its annotations say; `answer` is allow for a permit, deny for a plain forbid."""

    id: str
    answer: str
    reason: str
    narrow: str = ""
    most: str = ""
    until: str = ""


class Flaw(ValueError):
    """What is wrong with a policy, as one sentence of what would be right."""


def read(source: str) -> dict[str, Rule]:
    """The rules of a policy by Cedar's own ids for them. Flaw when one lacks what it needs."""
    rules: dict[str, Rule] = {}
    for key, policy in _documents(source):
        rule = _rule(key, policy)
        if rule.id in {r.id for r in rules.values()}:
            raise Flaw(f"rules of different ids: two are called {rule.id}")
        rules[key] = rule
    return rules


def hard(source: str) -> str:
    """The policy without the forbids that only ask, narrow or wait: what a person can't allow."""
    return _written(
        {
            key: policy
            for key, policy in _documents(source)
            if policy.get("annotations", {}).get("answer", "deny") not in _SOFT
        }
    )


def by_action(source: str, schema: str) -> dict[str, str]:
    """The policy cut down to the rules that bear on an action, for each that a rule names: the
    fewer there are, the faster is the decision. Flaw where the schema has groups: nobody tells
    Cedar which actions are in them, and a forbid on one would never hold."""
    if _GROUPS.search(_COMMENT.sub("", schema)):
        raise Flaw("a schema without groups of actions or entities: rules name each action")
    documents = dict(_documents(source))
    named = {entity["id"] for p in documents.values() for entity in _actions(p)}
    return {
        name: _written({k: p for k, p in documents.items() if _bears(p["action"], name)})
        for name in named
    }


def _bears(scope: Mapping[str, Any], action: str) -> bool:
    return scope["op"] == "All" or action in {e["id"] for e in _actions({"action": scope})}


def _actions(policy: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    action = policy["action"]
    return [] if action["op"] == "All" else action.get("entities", [action.get("entity")])


def _written(policies: Mapping[str, Any]) -> str:
    document = {"staticPolicies": policies, "templates": {}, "templateLinks": []}
    return str(cedarpy.policies_from_json_str(json.dumps(document))) if policies else ""


def require_sense(source: str, schema: str) -> None:
    """Flaw when a rule's annotations name no fact of its actions, or a permit can never hold
    because a forbid denies all that it allows."""
    documents = dict(_documents(source))
    rules = read(source)
    for key, rule in rules.items():
        if probe := _probe(rule):
            _require_facts(rule, probe, documents[key], schema)
    permits = {k: p for k, p in documents.items() if p["effect"] == "permit"}
    denials = {k: p for k, p in documents.items() if rules[k].answer == "deny"}
    for (p, permit), (d, denial) in product(permits.items(), denials.items()):
        if _covers(denial, permit):
            raise Flaw(
                f"rules that do not contradict: {rules[d].id} denies all that {rules[p].id} allows"
            )


def require_own(source: str, principal: str, actions: Collection[str]) -> None:
    """Flaw unless each rule is about this principal and some of these actions by name: what a
    workflow brings along says nothing of another's."""
    for key, policy in _documents(source):
        id = policy.get("annotations", {}).get("id", key)
        entity = policy["principal"].get("entity", {})
        if policy["principal"]["op"] != "==" or entity.get("id") != principal:
            raise Flaw(f'principal == Agent::"{principal}" in every rule ({id})')
        named = {e["id"] for e in _actions(policy)}
        if not named or named - set(actions):
            raise Flaw(f"actions among {sorted(actions)} in every rule ({id})")


def _documents(source: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield from json.loads(cedarpy.policies_to_json_str(source))["staticPolicies"].items()


def _rule(key: str, policy: Mapping[str, Any]) -> Rule:
    notes: dict[str, str] = policy.get("annotations", {})
    if not notes.get("id") or not notes.get("reason"):
        raise Flaw(f"@id and @reason on every rule ({key})")
    id, answer = notes["id"], notes.get("answer")
    if policy["effect"] == "permit":
        if answer is not None:
            raise Flaw(f"no @answer on a permit ({id}): it allows")
        return Rule(id, "allow", notes["reason"])
    if answer not in (None, "deny", *_SOFT):
        raise Flaw(f"@answer deny, ask, wait or modify ({id} has {answer!r})")
    for needed in _NEEDS.get(answer or "deny", ()):
        if not notes.get(needed):
            raise Flaw(f"@{needed} with @answer({answer!r}) ({id})")
    told = {name: notes.get(name, "") for name in ("narrow", "most", "until")}
    return Rule(id, answer or "deny", notes["reason"], **told)


def _probe(rule: Rule) -> str:
    """A condition that only fits the schema where what the annotations name are numbers."""
    if rule.answer == "modify":
        most = rule.most if rule.most.lstrip("-").isdigit() else f"context.{rule.most}"
        return f"context.{rule.narrow} > {most}"
    return f"context.{rule.until} > 0" if rule.answer == "wait" else ""


def _require_facts(rule: Rule, probe: str, policy: Mapping[str, Any], schema: str) -> None:
    action = policy["action"]
    entities = action.get("entities", [action.get("entity")])
    if action["op"] == "All":
        raise Flaw(f"@answer({rule.answer!r}) on named actions ({rule.id})")
    for entity in entities:
        text = f'forbid (principal, action == Action::"{entity["id"]}", resource) when {{{probe}}};'
        try:
            fits = cedarpy.validate_policies(text, schema)
        except ValueError as error:
            raise Flaw(f"names of facts in the annotations of {rule.id} ({error})") from None
        if not fits:
            raise Flaw(f"numbers that the schema lists ({rule.id}: {probe})")


def _covers(denial: Mapping[str, Any], permit: Mapping[str, Any]) -> bool:
    """Whether the denial holds wherever the permit does, as far as their texts show."""
    within = all(_within(permit[s], denial[s]) for s in ("principal", "action", "resource"))
    conditions = denial["conditions"]
    return within and (not conditions or conditions == permit["conditions"])


def _within(inner: Mapping[str, Any], outer: Mapping[str, Any]) -> bool:
    if outer["op"] == "All":
        return True
    if inner["op"] == "All":
        return False
    names = [_names(scope) for scope in (inner, outer)]
    return names[0] <= names[1]


def _names(scope: Mapping[str, Any]) -> set[str]:
    entities = scope.get("entities", [scope.get("entity")])
    return {json.dumps(entity, sort_keys=True) for entity in entities}
