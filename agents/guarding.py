"""Mints and guards over a data folder, for the constructors of actors."""

from pathlib import Path

from agents.intent_keys import Signing, Trusted
from agents.intents import Guard, Mint
from agents.refusals import Refusals
from cluster.ids import SystemClock

KEYS = "intents"
REFUSED = "refused.jsonl"


def mint(folder: Path, lifetime_s: float) -> Mint:
    """The mint of a stack whose data lie in `folder`."""
    return Mint(Signing(folder / KEYS), SystemClock(), lifetime_s)


def guard(folder: Path) -> Guard:
    """The guard of a connector of such a stack."""
    clock = SystemClock()
    return Guard(Trusted(folder / KEYS), clock, Refusals(folder / REFUSED, clock).record)
