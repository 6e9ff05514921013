"""The keys of intent tokens: one pair at a time, in two files below the data folder.

The private file (mode 0600) is read by orchestrators alone, the public one by connectors. A
rotation puts a new pair in place: whatever the old one signed is refused from then on, and what was
on its way is signed anew. Both sides look at their file's date before each use, so nobody has to be
told. Not covered: on one machine all actors run as one user, who could read either file; the
separation is between processes that hold a key and those that do not.
"""

import json
import os
from pathlib import Path
from typing import Any, Final

from biscuit_auth import Algorithm, KeyPair, PrivateKey, PublicKey

from cluster.errors import DataError, NotFound

_PRIVATE: Final = "intent-key.json"
_PUBLIC: Final = "intent-key.pub.json"
# The stubs that the library ships lack what its module has.
_private: Final[Any] = PrivateKey.from_bytes
_public: Final[Any] = PublicKey.from_bytes
_ED25519: Final[Any] = Algorithm.Ed25519  # type: ignore[attr-defined]


def ensure(folder: Path) -> None:
    """Make a pair in `folder` unless there is one."""
    if not (folder / _PRIVATE).is_file():
        rotate(folder)


def rotate(folder: Path) -> int:
    """Put a new pair in place of the old one; its number, from 1."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    if (folder / _PRIVATE).is_file():
        number = Signing(folder).key()[0] + 1
    pair = KeyPair()
    # The public one first: a token of the new key is never unknown, one of the old is made anew.
    _write(folder / _PUBLIC, {"number": number, "public": _hex(pair.public_key.to_bytes())})
    _write(folder / _PRIVATE, {"number": number, "private": _hex(pair.private_key.to_bytes())})
    return number


class _KeyFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = 0
        self._held: Any = None

    def _read(self) -> Any:
        """What the file holds, read again when it has changed."""
        try:
            changed = self._path.stat().st_mtime_ns
            if changed != self._seen:
                self._held = self._parsed(json.loads(self._path.read_text("ascii")))
                self._seen = changed
        except FileNotFoundError:
            raise NotFound("key of intents", str(self._path)) from None
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(str(self._path), f"not a key of intents ({error!r})") from None
        return self._held

    def _parsed(self, said: Any) -> Any:
        raise NotImplementedError


class Signing(_KeyFile):
    """The private key, as an orchestrator has it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / _PRIVATE)

    def key(self) -> tuple[int, PrivateKey]:
        """The key's number, and the key. NotFound when there is none, DataError when it is none."""
        found: tuple[int, PrivateKey] = self._read()
        return found

    def raw(self) -> bytes:
        """The 32 bytes of the Ed25519 key, for what else has to be signed."""
        return bytes(self.key()[1].to_bytes())

    def _parsed(self, said: Any) -> tuple[int, PrivateKey]:
        key = _private(bytes.fromhex(said["private"]), _ED25519)
        return int(said["number"]), key


class Trusted(_KeyFile):
    """The public key, as a connector has it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / _PUBLIC)

    def key(self) -> tuple[int, PublicKey]:
        """As `Signing.key`."""
        found: tuple[int, PublicKey] = self._read()
        return found

    def _parsed(self, said: Any) -> tuple[int, PublicKey]:
        key = _public(bytes.fromhex(said["public"]), _ED25519)
        return int(said["number"]), key


def _hex(raw: Any) -> str:
    return bytes(raw).hex()


def _write(path: Path, said: dict[str, Any]) -> None:
    """Whole or not at all, and readable by this user alone."""
    new = path.with_suffix(".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(said, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
