"""Receipts as a file that can be kept elsewhere: JSON lines, the last of them a signed seal."""

import hashlib
import io
import json
from collections.abc import Iterator
from typing import Any, Final

from agents.audit_key import AuditKey
from agents.digests import canonical
from agents.journal_sql import SqlJournal
from agents.receipts import Named, masked_name, receipts
from cluster.errors import DataError
from cluster.ids import Clock
from cluster.objects import Objects

MAX_BYTES: Final = 1_000_000_000
_GENESIS: Final = "0" * 64


def export(
    journal: SqlJournal, key: AuditKey, clock: Clock, tenant: str, place: Objects, name: str,
    named: Named = masked_name,
) -> int:  # fmt: skip
    """Write a tenant's receipts to `place`, names as `named` writes them; how many. DataError at a
    run whose chain is broken: then nothing is written."""
    body, count, last = io.BytesIO(), 0, _GENESIS
    for line in _lines(journal, tenant, named):
        last = _chained(last, line)
        body.write(line.encode() + b"\n")
        count += 1
    seal = {
        "tenant": tenant, "receipts": count, "hash": last, "at": clock.now(), "key": key.id,
    }  # fmt: skip
    signed = {"seal": seal, "signature": key.sign(canonical(seal))}
    body.write(json.dumps(signed).encode() + b"\n")
    body.seek(0)
    place.write(name, body)
    return count


def verify(content: bytes, key: AuditKey) -> int:
    """How many receipts an export holds. DataError when it is not as it was written, or was signed
    by another key."""
    *lines, sealed = content.decode("utf-8", "replace").splitlines() or [""]
    try:
        said = json.loads(sealed)
        seal, signature = said["seal"], said["signature"]
    except (ValueError, KeyError, TypeError):
        raise DataError("export", "it has no seal: its end was cut off") from None
    last = _GENESIS
    for line in lines:
        last = _chained(last, line)
    if not key.verifies(canonical(seal), str(signature)):
        raise DataError("export", "its seal was changed, or is by another key")
    if (seal["receipts"], seal["hash"]) != (len(lines), last):
        raise DataError("export", "a receipt was changed, removed, added or moved")
    return len(lines)


def _lines(journal: SqlJournal, tenant: str, named: Named) -> Iterator[str]:
    for row in journal.runs(tenant):
        told: list[dict[str, Any]] = receipts(row.run_id, journal.verified(row.run_id), named)
        yield from (canonical(receipt) for receipt in told)


def _chained(last: str, line: str) -> str:
    return hashlib.sha256(f"{last}{line}".encode()).hexdigest()
