"""Records leave and come as JSON lines.

A line holds id, content, type, source, validity and tags, as other memories' formats have them, and
under `ext` what is ours. Files that are written into the data folder are known to `forget`, which
takes lines out of them. Vectors are never exported: they are made from the text.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from cluster.errors import InvalidInput
from memory.records import Origin, Record

FOLDER: Final = "memory-exports"
_EXT: Final = (
    "tier", "kind", "subject", "agent", "session", "importance", "trust", "parents", "pinned",
    "meta",
)  # fmt: skip


def line_of(record: Record) -> str:
    """The record as one line of JSON, without a line break."""
    ext = {name: _plain(getattr(record, name)) for name in _EXT}
    row: dict[str, Any] = {
        "id": record.id,
        "content": record.text,
        "type": record.kind,
        "source": record.source,
        "tags": list(record.labels),
        "valid_from": record.event_at,
        "valid_to": record.expires_at,
        "created_at": record.recorded_at,
        "ext": ext | {"tenant": record.tenant, "origin": asdict(record.origin)},
    }
    return json.dumps(row, ensure_ascii=False)


def record_of(line: str, tenant: str) -> Record:
    """The line as a record of `tenant`, whoever's it was. Raises InvalidInput.

    What an import says about trust is not believed: the record is untrusted until somebody says
    more. Parents are kept only where the line was the tenant's own.
    """
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise InvalidInput("line", line, "a JSON object")
        ext = row.get("ext") or {}
        return Record(
            tenant=tenant,
            kind=str(row.get("type", "note")),
            source=row["source"],
            text=row["content"],
            event_at=row.get("valid_from") or row.get("created_at") or 0.0,
            meta=ext.get("meta") or {},
            tier=ext.get("tier", "long_term"),
            subject=ext.get("subject", ""),
            agent=ext.get("agent", ""),
            session=ext.get("session", ""),
            expires_at=row.get("valid_to"),
            importance=ext.get("importance", 0.5),
            labels=tuple(row.get("tags") or ()),
            parents=tuple(ext.get("parents") or ()) if ext.get("tenant") == tenant else (),
            origin=Origin(**(ext.get("origin") or {})),
            pinned=bool(ext.get("pinned", False)),
        )
    except KeyError as error:
        raise InvalidInput("line", line, f"a field {error.args[0]!r}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidInput("line", line, f"a record as JSON ({error})") from None


class Exports:
    """The export files in the data folder, one folder per tenant. Calls block."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / FOLDER

    def write(self, tenant: str, name: str, records: Iterable[Record]) -> Path:
        """A new file of the records; it appears whole or not at all."""
        path = self._folder / tenant / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, (line_of(record) for record in records))
        return path

    def forget(self, tenant: str, ids: frozenset[str], subject: str) -> tuple[str, ...]:
        """Rewrite the tenant's exports without the records. Returns the names of those that held
        one."""
        folder = self._folder / tenant
        changed = []
        for path in sorted(folder.glob("*.jsonl")) if folder.is_dir() else []:
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if not _tells_of(json.loads(line), ids, subject)]
            if len(kept) < len(lines):
                _replace(path, kept)
                changed.append(path.name)
        return tuple(changed)


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of a file that hold something."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else value


def _tells_of(row: dict[str, Any], ids: frozenset[str], subject: str) -> bool:
    ext = row.get("ext") or {}
    about = bool(subject) and ext.get("subject") == subject
    return about or row.get("id") in ids


def _replace(path: Path, content: Iterable[str]) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        for line in content:
            file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
