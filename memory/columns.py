"""The index's schema in Milvus: its columns, what a record says in them, and a Filter as Milvus'
own expression.

The one place where an expression is made. It holds our own literals only: names of a fixed
alphabet, hashes and numbers; no string that a caller chose reaches it. Every column is there from
the start, since a Lite collection can never get another one.
"""

import hashlib
import math
import re
from collections.abc import Sequence
from typing import Any, Final

from cluster.errors import InvalidInput
from memory.records import TRUSTS, Record
from memory.scope import NEVER_MS, Filter

SCHEMA: Final = 3
DENSE: Final = "IP"
"""Vectors are kept at length 1, so their inner product is the cosine; asked for the cosine, Lite
works out the length of every vector anew at every search."""
_LITERAL: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NAMES: Final = ("tenant", "tier", "kind", "subject", "agent", "session")
_NUMBERS: Final = ("trust", "event_ms", "recorded_ms", "superseded_ms", "expires_ms")
_NOBODY: Final = "-"  # in place of the hash of a name that is not there


def create(client: Any, name: str, dimension: int, exact: bool) -> None:
    """Make the empty collection. `exact` searches every vector, else Milvus chooses its index."""
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
    for column in _NAMES:
        schema.add_field(column, DataType.VARCHAR, max_length=64)
    for column in _NUMBERS:
        schema.add_field(column, DataType.INT64)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
    schema.add_field("keywords", DataType.SPARSE_FLOAT_VECTOR)
    index = client.prepare_index_params()
    # on Lite AUTOINDEX is a graph that costs seconds to build and saves nothing below 100,000
    index.add_index("vector", index_type="FLAT" if exact else "AUTOINDEX", metric_type=DENSE)
    index.add_index("keywords", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
    for column in ("tenant", "kind", "subject", "session"):
        index.add_index(column, index_type="INVERTED")
    client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")


def scalars(record: Record) -> dict[str, Any]:
    """The record's columns but for its vectors. Times are milliseconds, NEVER_MS for none."""
    return {
        "id": record.id,
        "tenant": record.tenant,
        "tier": record.tier,
        "kind": record.kind,
        "subject": _hashed(record.subject),
        "agent": _hashed(record.agent),
        "session": _hashed(record.session),
        "trust": TRUSTS.index(record.trust),
        "event_ms": round(record.event_at * 1000),
        "recorded_ms": round(record.recorded_at * 1000),
        "superseded_ms": _ms_or_never(record.superseded_at),
        "expires_ms": _ms_or_never(record.expires_at),
    }


def expression(scope: Filter) -> str:
    """The Filter as Milvus understands it; means what `Filter.admits` means."""
    return " and ".join([among("tenant", [scope.tenant]), *_times(scope), *_names(scope)])


def among(column: str, values: Sequence[str]) -> str:
    """Rows whose column holds one of the values. Raises InvalidInput for a value that is no name
    of our alphabet."""
    if len(values) == 1:
        return f"{column} == {_literal(values[0])}"
    return f"{column} in [{', '.join(map(_literal, values))}]"


def _times(scope: Filter) -> list[str]:
    # what is asked for may be finer than a millisecond, what is stored is not
    clauses = [f"expires_ms > {math.floor(_ms(scope.now))}"]
    if scope.as_of is None:
        clauses.append(f"superseded_ms == {NEVER_MS}")
    else:
        then = math.floor(_ms(scope.as_of))
        clauses += [f"recorded_ms <= {then}", f"superseded_ms > {then}"]
    if scope.since is not None:
        clauses.append(f"event_ms >= {math.ceil(_ms(scope.since))}")
    if scope.until is not None:
        clauses.append(f"event_ms <= {math.floor(_ms(scope.until))}")
    return clauses


def _names(scope: Filter) -> list[str]:
    clauses = [among(c, v) for c, v in (("kind", scope.kinds), ("tier", scope.tiers)) if v]
    if scope.trust != TRUSTS[0]:
        clauses.append(f"trust >= {TRUSTS.index(scope.trust)}")
    for column, name in (("subject", scope.subject), ("agent", scope.agent)):
        if name:
            clauses.append(among(column, [_NOBODY, _hashed(name)]))
    if scope.session:
        session = among("session", [_hashed(scope.session)])
        clauses.append(f'(tier == "long_term" or {session})')
    return clauses


def _literal(value: str) -> str:
    if not _LITERAL.fullmatch(value):
        raise InvalidInput("filter value", value, f"a name that matches {_LITERAL.pattern}")
    return f'"{value}"'


def _hashed(name: str) -> str:
    if not name:
        return _NOBODY
    return hashlib.blake2b(name.encode("utf-8"), digest_size=16).hexdigest()


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)  # 1.001 s are 1,000.9999999999999 ms in floats


def _ms_or_never(seconds: float | None) -> int:
    return NEVER_MS if seconds is None else round(seconds * 1000)
