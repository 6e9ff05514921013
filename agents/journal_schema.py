"""The journal's tables, and what is said to them."""

from typing import Final

from sqlalchemy import text

MIGRATIONS: Final = (
    """
    CREATE TABLE runs (
        run_id TEXT PRIMARY KEY, tenant TEXT NOT NULL, idempotency_key TEXT NOT NULL,
        workflow TEXT NOT NULL, agent TEXT NOT NULL, status TEXT NOT NULL,
        epoch BIGINT NOT NULL, last_seq BIGINT NOT NULL, last_hash TEXT NOT NULL,
        created_at DOUBLE PRECISION NOT NULL,
        UNIQUE (tenant, idempotency_key)
    );
    CREATE INDEX runs_by_status ON runs (status, created_at);
    CREATE INDEX runs_by_agent ON runs (tenant, agent, created_at);
    CREATE TABLE events (
        run_id TEXT NOT NULL, seq BIGINT NOT NULL, epoch BIGINT NOT NULL,
        at DOUBLE PRECISION NOT NULL, payload TEXT NOT NULL, hash TEXT NOT NULL,
        PRIMARY KEY (run_id, seq)
    )
    """,
    """
    CREATE TABLE feedback (
        run_id TEXT NOT NULL, seq BIGINT NOT NULL, at DOUBLE PRECISION NOT NULL,
        verdict TEXT NOT NULL, judge TEXT NOT NULL, note TEXT NOT NULL, corrected TEXT NOT NULL,
        PRIMARY KEY (run_id, seq)
    )
    """,
    """
    ALTER TABLE runs ADD COLUMN priority TEXT NOT NULL DEFAULT 'interactive';
    ALTER TABLE runs ADD COLUMN parent TEXT NOT NULL DEFAULT '';
    ALTER TABLE runs ADD COLUMN deadline_at DOUBLE PRECISION;
    ALTER TABLE runs ADD COLUMN wait_until DOUBLE PRECISION;
    CREATE INDEX runs_by_parent ON runs (parent);
    CREATE TABLE agents (
        tenant TEXT NOT NULL, agent TEXT NOT NULL, workflow TEXT NOT NULL, status TEXT NOT NULL,
        spec TEXT NOT NULL, created_at DOUBLE PRECISION NOT NULL,
        PRIMARY KEY (tenant, agent)
    );
    CREATE TABLE snapshots (
        tenant TEXT NOT NULL, agent TEXT NOT NULL, version BIGINT NOT NULL, state TEXT NOT NULL,
        PRIMARY KEY (tenant, agent)
    );
    CREATE TABLE schedules (
        tenant TEXT NOT NULL, name TEXT NOT NULL, spec TEXT NOT NULL,
        next_at DOUBLE PRECISION NOT NULL,
        PRIMARY KEY (tenant, name)
    )
    """,
    """
    CREATE TABLE spending (
        run_id TEXT NOT NULL, step TEXT NOT NULL, tenant TEXT NOT NULL, tool TEXT NOT NULL,
        at DOUBLE PRECISION NOT NULL, cents BIGINT NOT NULL,
        PRIMARY KEY (run_id, step)
    );
    CREATE INDEX spending_by_tool ON spending (tenant, tool, at);
    CREATE TABLE approvals (
        approval TEXT PRIMARY KEY, tenant TEXT NOT NULL, run_id TEXT NOT NULL, step TEXT NOT NULL,
        workflow TEXT NOT NULL, agent TEXT NOT NULL, tool TEXT NOT NULL,
        asked_at DOUBLE PRECISION NOT NULL, expires_at DOUBLE PRECISION NOT NULL, cents BIGINT,
        answer TEXT NOT NULL, answered_by TEXT NOT NULL, answered_at DOUBLE PRECISION,
        at_most BIGINT
    );
    CREATE INDEX approvals_by_tenant ON approvals (tenant, answer, asked_at)
    """,
    """
    ALTER TABLE runs ADD COLUMN sealed_seq BIGINT NOT NULL DEFAULT 0;
    CREATE INDEX runs_to_seal ON runs (run_id) WHERE last_seq > sealed_seq;
    CREATE TABLE checkpoints (
        number BIGINT PRIMARY KEY, at DOUBLE PRECISION NOT NULL, previous TEXT NOT NULL,
        root TEXT NOT NULL, signature TEXT NOT NULL
    );
    CREATE TABLE sealed (
        checkpoint BIGINT NOT NULL, run_id TEXT NOT NULL, seq BIGINT NOT NULL, hash TEXT NOT NULL,
        PRIMARY KEY (run_id, checkpoint)
    );
    CREATE INDEX sealed_by_checkpoint ON sealed (checkpoint)
    """,
    """
    ALTER TABLE runs ADD COLUMN listed_seq BIGINT NOT NULL DEFAULT 0;
    ALTER TABLE runs ADD COLUMN decision TEXT NOT NULL DEFAULT '';
    ALTER TABLE runs ADD COLUMN ended_at DOUBLE PRECISION;
    CREATE INDEX runs_to_list ON runs (run_id) WHERE last_seq > listed_seq;
    CREATE INDEX runs_by_time ON runs (tenant, created_at, run_id);
    CREATE TABLE receipts (
        run_id TEXT NOT NULL, step TEXT NOT NULL, seq BIGINT NOT NULL, tenant TEXT NOT NULL,
        workflow TEXT NOT NULL, agent TEXT NOT NULL, tool TEXT NOT NULL, answer TEXT NOT NULL,
        rule TEXT NOT NULL, outcome TEXT NOT NULL, at DOUBLE PRECISION NOT NULL,
        PRIMARY KEY (run_id, step)
    );
    CREATE INDEX receipts_by_time ON receipts (tenant, at, run_id, seq);
    CREATE INDEX receipts_by_tool ON receipts (tenant, tool, at, run_id, seq);
    CREATE INDEX receipts_by_outcome ON receipts (tenant, outcome, at, run_id, seq)
    """,
)

# Built once: what SQLAlchemy makes of a text costs more than the database's own work on it.
FIND = text("SELECT run_id FROM runs WHERE tenant = :t AND idempotency_key = :k")
CREATE = text(
    "INSERT INTO runs (run_id, tenant, idempotency_key, workflow, agent, status, epoch, last_seq,"
    " last_hash, created_at, priority, parent, deadline_at)"
    " VALUES (:r, :t, :k, :w, :a, 'open', 0, 0, :h, :now, :p, :of, :d)"
)
HEAD = text("SELECT status, epoch, last_seq, last_hash, wait_until FROM runs WHERE run_id = :r")
# SQLite's writers take turns already; on PostgreSQL two owners of one run must.
LOCKED_HEAD = text(f"{HEAD.text} FOR UPDATE")
ADD = text("INSERT INTO events VALUES (:r, :s, :e, :at, :p, :h)")
MOVE = text(
    "UPDATE runs SET epoch = :e, last_seq = :s, last_hash = :h, status = :st, wait_until = :u"
    " WHERE run_id = :r AND epoch = :e0 AND last_seq = :s0 AND status <> 'ended'"
)
EVENTS = text(
    "SELECT seq, epoch, at, payload, hash FROM events WHERE run_id = :r AND seq > :after"
    " ORDER BY seq LIMIT :n"
)
ROW = (
    "SELECT run_id, tenant, workflow, agent, status, epoch, created_at, priority, parent,"
    " deadline_at, wait_until FROM runs"
)
JUDGE = text("INSERT INTO feedback VALUES (:r, :s, :at, :v, :b, :n, :c)")
JUDGEMENTS = text(
    "SELECT seq, at, verdict, judge, note, corrected FROM feedback WHERE run_id = :r ORDER BY seq"
)
COUNTS = text("SELECT status, count(*) FROM runs GROUP BY 1")
