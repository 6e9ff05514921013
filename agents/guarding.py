"""Mints, guards and audits over a data folder, for the constructors of actors."""

from collections.abc import Iterable
from pathlib import Path

from agents.audit import Audit
from agents.intent_keys import Signing, Trusted
from agents.intents import Guard, Mint
from agents.journal_sql import SqlJournal
from agents.refusals import Refusals
from cluster.ids import SystemClock

KEYS = "intents"
REFUSED = "refused.jsonl"
SERVERS_REFUSED = "refused-servers.jsonl"
_PACK_REFUSED = "refused-{}.jsonl"
AUDIT = "audit"


def audit(folder: Path, journal: SqlJournal) -> Audit:
    """The checkpoints of such a stack's journal."""
    return Audit(journal, folder / AUDIT, SystemClock())


def mint(folder: Path, lifetime_s: float) -> Mint:
    """The mint of a stack whose data lie in `folder`."""
    return Mint(Signing(folder / KEYS), SystemClock(), lifetime_s)


def guard(folder: Path) -> Guard:
    """The guard of a connector of such a stack."""
    return _guard(folder, REFUSED)


def server_guard(folder: Path) -> Guard:
    """The guard of the connector to MCP servers, with a file of refusals of its own."""
    return _guard(folder, SERVERS_REFUSED)


def pack_guard(folder: Path, pack: str) -> Guard:
    """The guard of a pack's connector, with a file of refusals of its own."""
    return _guard(folder, _PACK_REFUSED.format(pack))


def refusals(folder: Path) -> list[Path]:
    """The files of all connectors' refusals."""
    return sorted(folder.glob("refused*.jsonl"))


def refusals_of(packs: Iterable[str]) -> list[str]:
    """The names of those files, where these packs are."""
    return [REFUSED, SERVERS_REFUSED, *(_PACK_REFUSED.format(pack) for pack in packs)]


def _guard(folder: Path, refused: str) -> Guard:
    clock = SystemClock()
    return Guard(Trusted(folder / KEYS), clock, Refusals(folder / refused, clock).record)
