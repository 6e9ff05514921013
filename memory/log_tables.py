"""The tables of memory's log, as numbered migrations."""

from typing import Final

MIGRATIONS: Final = (
    """
    CREATE TABLE memory_events (
        seq BIGINT PRIMARY KEY, at DOUBLE PRECISION NOT NULL, tenant TEXT NOT NULL,
        what TEXT NOT NULL, id TEXT NOT NULL, made_by TEXT NOT NULL, why TEXT NOT NULL,
        digest TEXT NOT NULL, hash TEXT NOT NULL
    );
    CREATE INDEX memory_events_by_id ON memory_events (tenant, id, seq);
    CREATE TABLE memory_records (
        id TEXT PRIMARY KEY, seq BIGINT NOT NULL, tenant TEXT NOT NULL, tier TEXT NOT NULL,
        kind TEXT NOT NULL, document TEXT NOT NULL, number BIGINT NOT NULL, subject TEXT NOT NULL,
        session TEXT NOT NULL, expires_at DOUBLE PRECISION, recorded_at DOUBLE PRECISION NOT NULL,
        superseded_at DOUBLE PRECISION, body TEXT NOT NULL, digest TEXT NOT NULL
    );
    CREATE INDEX memory_records_by_seq ON memory_records (seq);
    CREATE INDEX memory_records_by_document ON memory_records (tenant, document, number);
    CREATE INDEX memory_records_by_subject ON memory_records (tenant, subject, id);
    CREATE INDEX memory_records_by_session ON memory_records (tenant, session, id);
    CREATE INDEX memory_records_by_expiry ON memory_records (expires_at);
    CREATE TABLE memory_vectors (
        id TEXT NOT NULL, space TEXT NOT NULL, vector BYTEA NOT NULL, PRIMARY KEY (id, space)
    );
    CREATE TABLE memory_parents (
        child TEXT NOT NULL, parent TEXT NOT NULL, PRIMARY KEY (child, parent)
    );
    CREATE INDEX memory_parents_by_parent ON memory_parents (parent);
    CREATE TABLE memory_marks (space TEXT PRIMARY KEY, seq BIGINT NOT NULL);
    CREATE TABLE memory_holds (
        tenant TEXT NOT NULL, subject TEXT NOT NULL, placed_by TEXT NOT NULL, why TEXT NOT NULL,
        at DOUBLE PRECISION NOT NULL, PRIMARY KEY (tenant, subject)
    );
    CREATE TABLE memory_documents (
        tenant TEXT NOT NULL, document TEXT NOT NULL, place TEXT NOT NULL, digest TEXT NOT NULL,
        ids TEXT NOT NULL, PRIMARY KEY (tenant, document)
    )
    """,
    """
    CREATE TABLE memory_spaces (
        name TEXT PRIMARY KEY, embedder TEXT NOT NULL, dimension BIGINT NOT NULL,
        fingerprint TEXT NOT NULL, canary BYTEA NOT NULL, state TEXT NOT NULL,
        at DOUBLE PRECISION NOT NULL
    );
    CREATE INDEX memory_vectors_by_space ON memory_vectors (space);
    CREATE TABLE memory_probes (
        tenant TEXT NOT NULL, id TEXT NOT NULL, question TEXT NOT NULL,
        PRIMARY KEY (tenant, id)
    );
    CREATE TABLE memory_probe_wants (
        tenant TEXT NOT NULL, probe TEXT NOT NULL, record TEXT NOT NULL,
        PRIMARY KEY (tenant, probe, record)
    );
    CREATE INDEX memory_probe_wants_by_record ON memory_probe_wants (record);
    CREATE TABLE memory_probe_sets (
        tenant TEXT PRIMARY KEY, hash TEXT NOT NULL, total BIGINT NOT NULL, origin TEXT NOT NULL,
        at DOUBLE PRECISION NOT NULL
    );
    CREATE TABLE memory_measures (
        tenant TEXT NOT NULL, at DOUBLE PRECISION NOT NULL, release TEXT NOT NULL,
        space TEXT NOT NULL, probes TEXT NOT NULL, figures TEXT NOT NULL,
        PRIMARY KEY (tenant, at, space)
    )
    """,
)
TABLES: Final = (
    "memory_events", "memory_records", "memory_vectors", "memory_parents", "memory_holds",
    "memory_documents", "memory_probes", "memory_probe_wants",
)  # fmt: skip
"""Those that name or hold what may be forgotten."""
