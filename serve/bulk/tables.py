"""Rows of a table as the lines of a batch: JSON lines, CSV or Parquet, and a template.

Parquet and CSV are read by Arrow, a part at a time.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any, Final, Protocol

from cluster.errors import InvalidInput, NotFound
from serve.bulk.kinds import RUNS
from serve.bulk.lines import EXPECT
from serve.bulk.runs import KEY

SUFFIXES: Final = (".jsonl", ".csv", ".parquet")
ID: Final = "custom_id"
_KEYS: Final = {ID, "method", "url", "body"}


class Form(Protocol):
    """What a row becomes: a request at `endpoint`."""

    @property
    def endpoint(self) -> str: ...

    def body(self, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
        """The request's body for a row, its `custom_id` not among the columns. InvalidInput when it
        lacks a column."""


@dataclass(frozen=True)
class PromptForm:
    """A request of `model`, whose text is `prompt` with the row's columns in the place of
    `{column}`; `max_tokens` of 0 asks for no limit."""

    endpoint: str
    model: str
    prompt: str
    max_tokens: int = 0

    def body(self, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
        """See `Form`."""
        body = {"model": self.model, **self._asked(self._text(number, row))}
        if self.max_tokens and self.endpoint != "/v1/embeddings":
            name = "max_output_tokens" if self.endpoint == "/v1/responses" else "max_tokens"
            body[name] = self.max_tokens
        return body

    def _text(self, number: int, row: Mapping[str, Any]) -> str:
        parts = []
        for literal, column, _, _ in Formatter().parse(self.prompt):
            parts.append(literal)
            if column is None:
                continue
            if column not in row:
                known = f"columns of the table: {', '.join(row)}"
                raise InvalidInput("prompt", f"{{{column}}} (row {number})", known)
            parts.append(str(row[column]))
        return "".join(parts)

    def _asked(self, text: str) -> dict[str, Any]:
        if self.endpoint == "/v1/chat/completions":
            return {"messages": [{"role": "user", "content": text}]}
        return {"prompt" if self.endpoint == "/v1/completions" else "input": text}


@dataclass(frozen=True)
class RunForm:
    """A run of `workflow`: the row's columns over what is `given` to all, empty cells left out. The
    same row under the same `key` is the same run, whatever batch it is in."""

    workflow: str
    given: Mapping[str, Any]
    key: str
    endpoint: str = RUNS

    def body(self, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
        """See `Form`."""
        columns = {k: v for k, v in row.items() if k != ID and v not in (None, "")}
        named = f"{self.key}\0{self.workflow}\0{_id(number, row)}"
        key = hashlib.sha256(named.encode()).hexdigest()[:40]
        return {"workflow": self.workflow, "input": {**self.given, **columns}, KEY: key}


def key_of(file: Path) -> str:
    """The key of a table: of its content, whatever it is called. NotFound when there is none."""
    if not file.is_file():
        raise NotFound("file", str(file))
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:24]


def lines(path: Path, form: Form | None, expect: str = "") -> Iterator[bytes]:
    """The lines of the input file that `path` stands for. Without a `form` it must be one already:
    JSON lines in the form of OpenAI's batches. The column `expect` holds what a row's answer should
    be, see `judging.py`.

    Raises NotFound when there is no such file, InvalidInput when it can't be read."""
    if not path.is_file():
        raise NotFound("file", str(path))
    if path.suffix not in SUFFIXES:
        raise InvalidInput("file", path.name, f"a name that ends in one of {list(SUFFIXES)}")
    for number, row in enumerate(rows(path), start=1):
        if form is not None:
            row = _line(form, number, row, expect)
        elif not set(row) >= _KEYS:
            right = f"lines with {', '.join(sorted(_KEYS))}, or --prompt with a template"
            raise InvalidInput("file", f"line {number} of {path.name}", right)
        yield json.dumps(row, ensure_ascii=False, default=str).encode() + b"\n"


def _line(form: Form, number: int, row: dict[str, Any], expect: str) -> dict[str, Any]:
    wanted = {}
    if expect:
        if expect not in row:
            right = f"columns of the table: {', '.join(row)}"
            raise InvalidInput("expect", f"{expect} (row {number})", right)
        wanted = {EXPECT: row[expect]}
        row = {name: value for name, value in row.items() if name != expect}
    body = form.body(number, row)
    line = {ID: _id(number, row), "method": "POST", "url": form.endpoint, "body": body}
    return {**line, **wanted}


def _id(number: int, row: Mapping[str, Any]) -> str:
    return str(row.get(ID) or f"row-{number}")


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table by column."""
    if path.suffix == ".jsonl":
        yield from _json_rows(path)
        return
    import pyarrow as pa  # type: ignore[import-untyped]

    try:
        for batch in _batches(path):
            yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise InvalidInput("file", path.name, f"a readable table ({error})") from None


def _batches(path: Path) -> Iterator[Any]:
    if path.suffix == ".csv":
        from pyarrow import csv  # type: ignore[import-untyped]

        yield from csv.open_csv(path)
        return
    from pyarrow import parquet  # type: ignore[import-untyped]

    with parquet.ParquetFile(path) as file:
        yield from file.iter_batches()


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                row = json.loads(raw)
            except ValueError as error:
                where = f"line {number} of {path.name}"
                raise InvalidInput("file", where, f"JSON ({error})") from None
            if not isinstance(row, dict):
                raise InvalidInput("file", f"line {number} of {path.name}", "a JSON object")
            yield row
