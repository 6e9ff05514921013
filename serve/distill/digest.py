"""What tells one checkpoint from another: a digest of the files that decide its answers."""

import hashlib
from pathlib import Path
from typing import Final

from cluster.errors import InvalidInput

_NAMED: Final = ("config.json", "tokenizer.json", "tokenizer_config.json")
_DIGITS: Final = 16


def deciding_files(folder: Path) -> list[Path]:
    """The weights, the tokenizer and the configuration, ordered by name; what is missing is left
    out."""
    named = [folder / name for name in _NAMED if (folder / name).is_file()]
    return sorted([*named, *folder.glob("*.safetensors")], key=lambda path: path.name)


def digest(folder: Path) -> str:
    """Sixteen hex digits of a SHA-256 over the names and contents of the deciding files.

    Raises InvalidInput when the folder holds none of them.
    """
    files = deciding_files(folder)
    if not files:
        raise InvalidInput("checkpoint", str(folder), "a folder with config.json and *.safetensors")
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{path.name} {content}\n".encode())
    return whole.hexdigest()[:_DIGITS]
