"""The key that signs checkpoints and exports: Ed25519, in a file below the data folder.

Whoever has the public file can verify without the stack. The key outlives rotations of the intents'
key, so that old checkpoints stay verifiable; only this machine's user can read it.
"""

import os
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from cluster.errors import DataError

_PRIVATE: Final = "audit-key.pem"
_PUBLIC: Final = "audit-key.pub.pem"


class AuditKey:
    """The key of a folder; it is made when there is none."""

    def __init__(self, folder: Path) -> None:
        """DataError when the file holds no such key."""
        self._private = _loaded(folder / _PRIVATE)
        public = self._private.public_key()
        self._public: Ed25519PublicKey = public
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        if not (folder / _PUBLIC).is_file():
            _write(folder / _PUBLIC, pem)
        self.id = public.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    def sign(self, text: str) -> str:
        """The signature of a text, in hex."""
        return self._private.sign(text.encode()).hex()

    def verifies(self, text: str, signature: str) -> bool:
        """Whether this key has signed that text."""
        try:
            self._public.verify(bytes.fromhex(signature), text.encode())
        except (InvalidSignature, ValueError):
            return False
        return True


def _loaded(path: Path) -> Ed25519PrivateKey:
    if not path.is_file():
        made = Ed25519PrivateKey.generate()
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except ValueError as error:
        raise DataError(str(path), f"not a key ({error})") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise DataError(str(path), "not an Ed25519 key")
    return key


def _write(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
