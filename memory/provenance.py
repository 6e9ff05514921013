"""PURE: what the runtime says about a record's standing, whatever its writer said.

Trust never rises by being retold: a derived record is trusted as much as the least of its parents,
and carries all of their labels. What a model writes from nothing is untrusted.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from cluster.errors import Conflict, InvalidInput
from memory.records import MAX_LABELS, TRUSTS, Record

PERSONAL: Final = ("preference", "rule")
"""Kinds that steer what agents do; untrusted text becomes one only by a person's act."""
SHORT_LIVED: Final = ("user", "model", "run", "tool")
"""Source kinds whose records start in a session and become long-term by promotion."""
FILE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def stamped(record: Record, parents: Mapping[str, Record]) -> Record:
    """The record with the trust and labels that it has. InvalidInput for a parent that is not
    among `parents`, the tenant's records."""
    if not record.parents:
        return replace(record, trust="untrusted") if _made_up(record) else record
    missing = [id for id in record.parents if id not in parents]
    if missing:
        raise InvalidInput("parents", missing[0], "ids of records that the tenant has")
    family = [parents[id] for id in record.parents]
    least = min(TRUSTS.index(parent.trust) for parent in family)
    labels = {label for parent in family for label in parent.labels} | set(record.labels)
    if len(labels) > MAX_LABELS:
        raise InvalidInput("labels", sorted(labels), f"at most {MAX_LABELS} with the parents'")
    if not _made_up(record):
        least = min(least, TRUSTS.index(record.trust)) if record.trust != "untrusted" else least
    return replace(record, trust=TRUSTS[least], labels=tuple(sorted(labels)))


def _made_up(record: Record) -> bool:
    return record.origin.source_kind == "model" and not record.parents


def require_entry(record: Record, promoted: bool) -> None:
    """Raises InvalidInput for a record that starts in the long-term tier and may not."""
    if record.tier == "long_term" and not promoted:
        if record.origin.source_kind in SHORT_LIVED:
            raise InvalidInput("tier", "long_term", "session: long-term is entered by promotion")


def require_newest(record: Record) -> None:
    """Raises Conflict for a record that has a newer version."""
    if record.superseded_at is not None:
        raise Conflict(f"record {record.id}", "it has a newer version; update that one")


def require_promotable(record: Record, by: str, why: str, person: bool) -> None:
    """Raises InvalidInput without a name and a reason, Conflict for what needs a person."""
    for name, value in (("by", by), ("why", why)):
        if not value.strip():
            raise InvalidInput(name, value, "who promotes, and why")
    if record.kind in PERSONAL and record.trust == "untrusted" and not person:
        raise Conflict(f"record {record.id}", f"untrusted text becomes a {record.kind} by a person")


def said(text: str) -> str:
    """A fingerprint of what a text says, the same for other spacing and case."""
    return hashlib.blake2b(" ".join(text.casefold().split()).encode(), digest_size=16).hexdigest()
