"""Pseudonyms that outlive a process: what leaves the house as [NAME:kqzvbtrmwd] can come back.

Within a run references do that (`agents/references.py`), within a call to an outside model its own
vault; neither is stored. What is exported or handed to another tool, and comes back on another day,
has its values here: by tenant, each under one pseudonym for ever, drawn at random, so that it says
nothing of the value. A database holds values sealed (AES-256-GCM, bound to tenant and pseudonym)
and keyed digests to find them by; the key is a file of the data folder, in the backup beside it.

An erasure takes a subject's values out of the database and its files, down to the bytes. Nothing
brings them back then, but a backup from before. Not covered: PostgreSQL's write-ahead log, archives
and replicas, which may hold the sealed bytes a while longer.
"""

import hashlib
import hmac
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, text

from agents.pii import Account, Detector, Vault, belongs
from agents.references import PERSONAL, REFERENCE, References, references_in
from cluster.database import Database
from cluster.errors import DataError, InvalidInput
from cluster.ids import Clock, SystemClock

KEYS: Final = "pseudonyms"
"""The folder of the key, below the data folder."""
MIGRATIONS: Final = (
    """
    CREATE TABLE pseudonyms (
        tenant TEXT NOT NULL, pseudonym TEXT NOT NULL, digest TEXT NOT NULL, sealed TEXT NOT NULL,
        made_at DOUBLE PRECISION NOT NULL,
        PRIMARY KEY (tenant, pseudonym), UNIQUE (tenant, digest)
    );
    CREATE TABLE pseudonym_subjects (
        tenant TEXT NOT NULL, subject TEXT NOT NULL, pseudonym TEXT NOT NULL,
        PRIMARY KEY (tenant, subject, pseudonym)
    )
    """,
)
_TABLES: Final = ("pseudonyms", "pseudonym_subjects")
# No vowels and no digits: no word and no number that anybody would look for.
_LETTERS: Final = "bcdfghjkmnpqrstvwxz"
_LENGTH: Final = 10
PSEUDONYM: Final = re.compile(rf"\[({'|'.join(PERSONAL)}):([{_LETTERS}]{{{_LENGTH}}})\]")
_KEY: Final = "key"
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12

_FIND = text("SELECT pseudonym FROM pseudonyms WHERE tenant = :t AND digest = :d")
_ADD = text(
    "INSERT INTO pseudonyms VALUES (:t, :p, :d, :s, :at) ON CONFLICT (tenant, digest) DO NOTHING"
)
_ABOUT = text("INSERT INTO pseudonym_subjects VALUES (:t, :s, :p) ON CONFLICT DO NOTHING")
_SEALED = text("SELECT sealed FROM pseudonyms WHERE tenant = :t AND pseudonym = :p")
_ALL = text("SELECT pseudonym, sealed FROM pseudonyms WHERE tenant = :t")
_OF = text("SELECT pseudonym FROM pseudonym_subjects WHERE tenant = :t AND subject = :s")
_DROPS = [text(f"DELETE FROM {name} WHERE tenant = :t AND pseudonym = :p") for name in _TABLES]
_COUNT = text("SELECT count(*) FROM pseudonyms WHERE tenant = :t")


class Erased(NamedTuple):
    """How many `values` are gone; `complete` unless a log that is not ours to cut may hold some."""

    values: int
    complete: bool


class Pseudonyms:
    """The values of all tenants in the database at `url`; its key lies below `data_dir`."""

    def __init__(
        self, url: str, data_dir: Path, clock: Clock, more: Sequence[Detector] = ()
    ) -> None:
        """Raises as `Database` does, and DataError for a key that is none, or is missing."""
        self._database = Database(url, "pseudonyms", MIGRATIONS, data_dir)
        self._clock, self._more = clock, more
        self._path = data_dir / KEYS / _KEY

    def close(self) -> None:
        self._database.close()

    def hide(
        self, tenant: str, text: str, account: Account | None = None, subject: str = ""
    ) -> str:
        """`text` with pseudonyms in the place of what is personal: what the detector finds, and
        what the account holds. `subject` is whom it is about: an erasure of that one takes these
        values along. What is a pseudonym already stays."""
        typed, kept = references_in(text), PSEUDONYM.findall(text)
        references = References.holding({reference: reference for reference in typed})
        found = Vault(references, self._more).redact(text, account)
        made: dict[str, str] = {}
        with self._database.transaction() as connection:
            for reference, value in references.items():
                if reference in found and reference not in typed:
                    kind = reference[1:-1].rpartition("_")[0]
                    made[reference] = self._made(connection, tenant, kind, value)
            about = [*made.values(), *(f"[{kind}:{word}]" for kind, word in kept)]
            self._note(connection, tenant, subject, about)
        return REFERENCE.sub(lambda m: made.get(m.group(), m.group()), found)

    def reveal(self, tenant: str, text: str) -> tuple[str, int]:
        """`text` with values in the place of this tenant's pseudonyms, and how many it has that
        bring nothing back: another tenant's, erased, made up."""
        unknown = 0

        def shown(match: re.Match[str]) -> str:
            nonlocal unknown
            value = self._value(connection, tenant, match.group())
            unknown += value is None
            return match.group() if value is None else value

        with self._database.reading() as connection:
            return PSEUDONYM.sub(shown, text), unknown

    def erase(self, tenant: str, subject: str = "", account: Account | None = None) -> Erased:
        """Take away what was hidden for a subject, and what an account holds, whoever it was hidden
        for. InvalidInput for neither."""
        if not subject and account is None:
            raise InvalidInput("subject", subject, "whom the values are about")
        with self._database.transaction() as connection:
            gone = {row.pseudonym for row in self._about(connection, tenant, subject)}
            if account is not None:
                rows = connection.execute(_ALL, {"t": tenant}).all()
                opened = ((r.pseudonym, self._opened(tenant, r.pseudonym, r.sealed)) for r in rows)
                gone |= {name for name, value in opened if belongs(value, account)}
            for pseudonym in sorted(gone):
                for drop in _DROPS:
                    connection.execute(drop, {"t": tenant, "p": pseudonym})
        # A first try that broke off here is made good by the next.
        return Erased(len(gone), self._database.compact(_TABLES))

    def count(self, tenant: str) -> int:
        """How many values it holds of a tenant."""
        with self._database.reading() as connection:
            return int(connection.execute(_COUNT, {"t": tenant}).scalar_one())

    def _made(self, connection: Connection, tenant: str, kind: str, value: str) -> str:
        """The pseudonym of a value, drawn on first sight."""
        digest = self._digest(tenant, f"{kind}\0{value.strip().lower()}")
        drawn = f"[{kind}:{''.join(secrets.choice(_LETTERS) for _ in range(_LENGTH))}]"
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + AESGCM(self._key("seal")).encrypt(
            nonce, value.encode(), _bound(tenant, drawn)
        )
        given = {"t": tenant, "p": drawn, "d": digest, "s": sealed.hex(), "at": self._clock.now()}
        connection.execute(_ADD, given)
        return str(connection.execute(_FIND, {"t": tenant, "d": digest}).scalar_one())

    def _note(
        self, connection: Connection, tenant: str, subject: str, pseudonyms: Sequence[str]
    ) -> None:
        if subject:
            about = self._subject(tenant, subject)
            for pseudonym in pseudonyms:
                connection.execute(_ABOUT, {"t": tenant, "s": about, "p": pseudonym})

    def _about(self, connection: Connection, tenant: str, subject: str) -> Sequence[Any]:
        if not subject:
            return ()
        given = {"t": tenant, "s": self._subject(tenant, subject)}
        return connection.execute(_OF, given).all()

    def _value(self, connection: Connection, tenant: str, pseudonym: str) -> str | None:
        row = connection.execute(_SEALED, {"t": tenant, "p": pseudonym}).first()
        return None if row is None else self._opened(tenant, pseudonym, row.sealed)

    def _opened(self, tenant: str, pseudonym: str, sealed: str) -> str:
        raw = bytes.fromhex(sealed)
        nonce, body = raw[:_NONCE_BYTES], raw[_NONCE_BYTES:]
        try:
            bound = _bound(tenant, pseudonym)
            return AESGCM(self._key("seal")).decrypt(nonce, body, bound).decode()
        except InvalidTag:
            raise DataError(str(self._path), f"not the key that {pseudonym} is sealed by") from None

    def _subject(self, tenant: str, subject: str) -> str:
        return self._digest(tenant, f"subject\0{subject}")

    def _digest(self, tenant: str, what: str) -> str:
        said = f"{tenant}\0{what}".encode()
        return hmac.new(self._key("find"), said, hashlib.sha256).hexdigest()

    def _key(self, use: str) -> bytes:
        """A key for each use, from the one in the file, which is made when there is none."""
        if not self._path.exists():
            _make(self._path)
        key = self._path.read_bytes()
        if len(key) != _KEY_BYTES:
            raise DataError(str(self._path), f"not a key of {_KEY_BYTES} bytes")
        return hmac.new(key, use.encode(), hashlib.sha256).digest()


def _bound(tenant: str, pseudonym: str) -> bytes:
    return f"{tenant}\0{pseudonym}".encode()


def _make(path: Path) -> None:
    """A key, whole or not at all; the first of several processes' keys stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent) as new:  # mode 0600
        new.write(secrets.token_bytes(_KEY_BYTES))
        new.flush()
        os.fsync(new.fileno())
        with suppress(FileExistsError):
            os.link(new.name, path)


def forgotten(tenant: str, subject: str, url: str, data_dir: Path) -> int:
    """What `erase` of a subject takes away, for who holds no database open; how many values."""
    with closing(Pseudonyms(url, data_dir, SystemClock())) as pseudonyms:
        return pseudonyms.erase(tenant, subject).values


def namer(pseudonyms: Pseudonyms, tenant: str) -> Callable[[str], str]:
    """How a name in an export is written: as it is, unless it looks personal."""
    return lambda name: pseudonyms.hide(tenant, name)
