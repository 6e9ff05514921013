"""Whom a request comes from, as the door wrote it into the request."""

from typing import Final

from fastapi import Request

from agents.specs import NAME
from cluster.errors import InvalidInput
from serve.budgets import Caller
from serve.keys import Principal

PRINCIPAL: Final = "mainspring.principal"


def principal_of(http: Request) -> Principal:
    """The key's owner. KeyError where no door was passed."""
    found: Principal = http.scope[PRINCIPAL]
    return found


def request_id_of(http: Request) -> str:
    """The request's id; empty where no door was passed."""
    return str(http.scope.get("mainspring.request_id", ""))


def tenant_of(http: Request) -> str:
    """The tenant whose runs, agents and money a request is about."""
    who = principal_of(http)
    return _named(http, "tenant") or who.tenant if who.trusted else who.tenant


def caller_of(http: Request) -> Caller:
    """Who pays. An agent's own requests name it, its run and its workflow in headers; the stack's
    own, which work through a batch, name the key whose batch it is.

    Raises InvalidInput when one of them is no name."""
    agent, run, workflow = (_named(http, name) for name in ("agent", "run", "workflow"))
    who = principal_of(http)
    key = _named(http, "key") or who.key if who.trusted else who.key
    return Caller(tenant_of(http), key, agent, run, workflow)


def _named(http: Request, what: str) -> str:
    value = http.headers.get(f"x-mainspring-{what}", "")
    if value and not NAME.fullmatch(value):
        raise InvalidInput(f"x-mainspring-{what}", value, "a name of letters, digits, . _ : / -")
    return value
