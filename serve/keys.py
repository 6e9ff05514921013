"""API keys: who a request comes from, and what it may do.

A key is `ms-ID-SECRET`. The id is no secret and finds the row; the secret has 256 random bits, so a
plain SHA-256 of the key is all that is kept, and no slow hash is needed. An unknown id is compared
with a digest that no key has, so that a wrong key does the same work as a right one.

Not covered: what a key may spend (`admission.py`), and people's own logins.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import text

from cluster.errors import InvalidInput, MainspringError, NotFound, Unauthorized
from cluster.ids import Clock, new_secret
from serve.accounts import Accounts
from serve.budgets import UNLIMITED, Limits

SCOPES: Final = ("models", "agents", "memory", "admin")
NOBODYS: Final = hashlib.sha256(b"").hexdigest()
MAX_NAME: Final = 128
_COLUMNS: Final = (
    "id, account, tenant, name, digest, scopes, created_at, expires_at, revoked_at,"
    " requests_per_minute, tokens_per_minute, max_streams"
)
# What a path asks for, by its beginning; None: any key. What is not named here takes `admin`.
_SCOPE_OF: Final[tuple[tuple[str, str | None], ...]] = (
    ("/v1/models", "models"), ("/v1/chat/", "models"), ("/v1/completions", "models"),
    ("/v1/responses", "models"), ("/v1/embeddings", "models"), ("/v1/batches", "models"),
    ("/v1/files", "models"), ("/tokenize", "models"), ("/detokenize", "models"),
    ("/v1/agents", "agents"), ("/v1/runs", "agents"), ("/v1/receipts", "agents"),
    ("/v1/tickets", "agents"), ("/v1/schedules", "agents"), ("/v1/approvals", "agents"),
    ("/v1/feedback", "models"),
    ("/v1/memory", "memory"), ("/v1/usage", None), ("/readyz", None),
    ("/openapi.json", None),
    ("/mcp", None),  # each tool is a request of its own, which asks for its scope
)  # fmt: skip


class Forbidden(MainspringError):
    """A known key that may not do this."""

    code = "insufficient_scope"
    status = 403

    def __init__(self, scope: str) -> None:
        super().__init__(scope)
        self.scope = scope

    def __str__(self) -> str:
        return f"this key lacks the scope {self.scope!r}"


@dataclass(frozen=True)
class Principal:
    """Whom a request comes from; `key` is the key's account. Who is `trusted` may say for which
    tenant it works: only the stack's own agents may."""

    tenant: str
    key: str
    scopes: frozenset[str] = frozenset(SCOPES)
    limits: Limits = UNLIMITED
    trusted: bool = False

    def require(self, path: str) -> None:
        """Raises Forbidden unless the key's scopes hold what `path` asks for."""
        scope = scope_of(path)
        if scope is not None and scope not in self.scopes:
            raise Forbidden(scope)


@dataclass(frozen=True)
class ApiKey:
    """A key as it is kept. Times are seconds since the epoch. `account` is what its limits, budgets
    and usage go by: its own id, or that of the first of the keys that it was rotated from."""

    id: str
    account: str
    tenant: str
    name: str
    scopes: tuple[str, ...]
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    limits: Limits = UNLIMITED
    digest: str = field(default=NOBODYS, repr=False)

    def __post_init__(self) -> None:
        if not self.scopes or not set(self.scopes) <= set(SCOPES):
            raise InvalidInput("scopes", list(self.scopes), f"some of {list(SCOPES)}")
        if not 0 < len(self.name) <= MAX_NAME or not self.name.isprintable():
            raise InvalidInput("name", self.name, f"1 to {MAX_NAME} printable characters")

    def lives(self, now: float) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def principal(self) -> Principal:
        return Principal(self.tenant, self.account, frozenset(self.scopes), self.limits)


class Keyring:
    """The keys in the database."""

    def __init__(self, accounts: Accounts, clock: Clock) -> None:
        self._accounts, self._clock = accounts, clock

    def create(
        self,
        tenant: str,
        name: str,
        scopes: Sequence[str] = ("models",),
        expires_at: float | None = None,
        limits: Limits | None = None,
        account: str | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key, and its text, which is shown this once and kept nowhere.

        Raises InvalidInput for an unknown scope, a name that is none, an expiry in the past."""
        now = self._clock.now()
        if expires_at is not None and expires_at <= now:
            raise InvalidInput("expires_at", expires_at, "a time to come")
        id = secrets.token_hex(8)
        full = f"ms-{id}-{new_secret()}"
        order = tuple(s for s in SCOPES if s in scopes)
        unknown = tuple(s for s in scopes if s not in SCOPES)
        key = ApiKey(
            id, account or id, tenant, name, order + unknown, now, expires_at, None,
            limits or UNLIMITED, digest_of(full),
        )  # fmt: skip
        with self._accounts.transaction() as connection:
            connection.execute(
                text(f"INSERT INTO api_keys ({_COLUMNS}) VALUES (:id, :account, :tenant, :name,"
                     " :digest, :scopes, :created_at, :expires_at, :revoked_at,"
                     " :requests_per_minute, :tokens_per_minute, :max_streams)"),
                {**vars(key), **vars(key.limits), "scopes": " ".join(key.scopes)},
            )  # fmt: skip
        return key, full

    def rotate(self, id: str, grace_s: float = 0.0) -> tuple[ApiKey, str]:
        """A new key in place of a live one, with its rights and limits; the old one ends after
        `grace_s` seconds. Both have one account, so limits and budgets hold for them together.

        Raises NotFound unless the key lives."""
        with self._accounts.transaction() as connection:
            old, now = self.one(id), self._clock.now()
            if not old.lives(now):
                raise NotFound("live key", id)
            made = self.create(
                old.tenant, old.name, old.scopes, old.expires_at, old.limits, old.account
            )
            column = "expires_at" if grace_s > 0 else "revoked_at"
            ends = min(now + grace_s, old.expires_at or now + grace_s)
            query = text(f"UPDATE api_keys SET {column} = :at WHERE id = :id")
            connection.execute(query, {"at": ends, "id": id})
        return made

    def revoke(self, id: str) -> None:
        """The key opens nothing any more. NotFound unless it was a live one."""
        now = self._clock.now()
        with self._accounts.transaction() as connection:
            if not self.one(id).lives(now):
                raise NotFound("live key", id)
            connection.execute(
                text("UPDATE api_keys SET revoked_at = :now WHERE id = :id"), {"now": now, "id": id}
            )

    def one(self, id: str) -> ApiKey:
        """Raises NotFound when there was never such a key."""
        if (found := self.find(id)) is None:
            raise NotFound("key", id)
        return found

    def find(self, id: str) -> ApiKey | None:
        """The key with this id, however it stands with it."""
        with self._accounts.reading() as connection:
            query = text(f"SELECT {_COLUMNS} FROM api_keys WHERE id = :id")
            row = connection.execute(query, {"id": id}).mappings().first()
        return None if row is None else _key(row)

    def all(self, tenant: str | None = None) -> list[ApiKey]:
        """Every key, or a tenant's, the newest last."""
        with self._accounts.reading() as connection:
            query = text(f"SELECT {_COLUMNS} FROM api_keys ORDER BY created_at, id")
            keys = [_key(row) for row in connection.execute(query).mappings()]
        return [key for key in keys if tenant in {None, key.tenant}]

    def any(self) -> bool:
        """Whether there was ever a key: then nobody gets in without one."""
        with self._accounts.reading() as connection:
            return connection.execute(text("SELECT 1 FROM api_keys LIMIT 1")).first() is not None


def scope_of(path: str) -> str | None:
    """The scope that a path asks for; None when any key will do."""
    for beginning, scope in _SCOPE_OF:
        if path.startswith(beginning):
            return scope
    return "admin"


def digest_of(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def id_of(key: str) -> str:
    """The part of a key that is no secret; empty when it is none of ours."""
    parts = key.split("-", 2)
    return parts[1] if len(parts) == 3 and parts[0] == "ms" and len(parts[1]) == 16 else ""


def matched(key: str, row: ApiKey | None, now: float) -> Principal:
    """Who brings `key`. Raises Unauthorized unless `row`, found by its id, is a live key that has
    its digest; all of them take the same steps."""
    same = hmac.compare_digest(digest_of(key), NOBODYS if row is None else row.digest)
    if row is None or not same or not row.lives(now):
        raise Unauthorized
    return row.principal()


def _key(row: Any) -> ApiKey:
    limits = Limits(row["requests_per_minute"], row["tokens_per_minute"], row["max_streams"])
    return ApiKey(
        row["id"], row["account"], row["tenant"], row["name"], tuple(row["scopes"].split()),
        row["created_at"], row["expires_at"], row["revoked_at"], limits, row["digest"],
    )  # fmt: skip
