"""Chats as training reads them: JSONL, one object a line.

    {"messages": [{"role": "system", "content": ...}, {"role": "user", ...},
                  {"role": "assistant", "content": the answer}],
     "task": "draft", "split": "train", "provenance": {...}}

`messages` is the form of OpenAI's fine-tuning files, and alone it is enough: such a line is of
task `chat`, has no provenance, and its split follows from its prompt. Not covered: tool calls,
content in parts, weights.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agents.journal import Verdict
from agents.workflows import prompts
from cluster.errors import InvalidInput, Unavailable
from serve.distill.corpus import Example

Role = Literal["system", "user", "assistant"]
Split = Literal["train", "heldout"]

HELDOUT_OF_TEN: Final = 2
_ORDER: Final = "an optional system message, then user and assistant in turns, assistant last"
_LINE: Final = '{"messages": [...]} as one JSON object a line'


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Message(_Strict):
    role: Role
    content: str = Field(min_length=1, pattern=r"\S")


class Provenance(_Strict):
    """Where a chat comes from. `agent` is a hash, `judged_at` seconds since the epoch,
    `journal_hash` the last hash of the run's verified chain."""

    tenant: str
    run_id: str
    agent: str
    workflow: str
    model: str
    verdict: Verdict
    by: str
    judged_at: float
    journal_hash: str


class TracedChat(_Strict):
    """One chat with its answer, what it is for, and where it comes from."""

    messages: tuple[Message, ...] = Field(min_length=2, strict=False)
    task: str = "chat"
    split: Split = "train"
    provenance: Provenance | None = None

    @property
    def prompt(self) -> list[prompts.Message]:
        """What the model is given."""
        return [m.model_dump() for m in self.messages[:-1]]

    @property
    def answer(self) -> str:
        """What it should say."""
        return self.messages[-1].content

    @property
    def example(self) -> Example:
        """The chat as the corpus has them."""
        return Example(self.task, self.prompt, self.answer)

    @model_validator(mode="after")
    def _roles_take_turns(self) -> Self:
        roles = [m.role for m in self.messages]
        turns = roles[1:] if roles[0] == "system" else roles
        right: list[Role] = ["user", "assistant"] * (len(turns) // 2)
        if not turns or turns != right:
            raise ValueError(f"{_ORDER}; got {', '.join(roles)}")
        return self


_KEYS: Final = f"one of the keys {[*TracedChat.model_fields]}, in a message role and content"


def split_of(key: str) -> Split:
    """The split of what `key` names: two in ten are held out, the same ones every time."""
    tenth = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % 10
    return "heldout" if tenth < HELDOUT_OF_TEN else "train"


def write_chats(path: Path, chats: Iterable[TracedChat]) -> None:
    """Write `chats` to `path`, all or nothing: what was there stays until the new file is whole
    and on disk. Only its owner may read it. Unavailable when it can't be written."""
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            for chat in chats:
                file.write(json.dumps(chat.model_dump(), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise Unavailable(f"file {path}", f"can't be written ({error.strerror})") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def read_chats(path: Path) -> list[TracedChat]:
    """The chats of a JSONL file, in its order.

    Raises InvalidInput, naming file, line and field, the value found and what would be right:
    no such file, no line, not UTF-8, not JSON, wrong roles, empty content, unknown keys.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InvalidInput("file", str(path), f"a readable file ({error.strerror})") from None
    chats = [_chat(f"{path}:{n}", line) for n, line in enumerate(lines, 1) if line.strip()]
    if not chats:
        raise InvalidInput(str(path), "", f"at least one chat: {_LINE}")
    return chats


def _chat(where: str, line: bytes) -> TracedChat:
    shown: Any = line
    try:
        shown = line.decode("utf-8-sig")
        given = json.loads(shown)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(where, shown, f"{_LINE} in UTF-8 ({error})") from None
    if not isinstance(given, dict):
        raise InvalidInput(where, given, _LINE)
    try:
        chat = TracedChat.model_validate(given)
    except ValidationError as error:
        raise _problem(where, error) from None
    if "split" in given:
        return chat
    # By the prompt: two answers to one question must not stand on both sides.
    return chat.model_copy(update={"split": split_of(json.dumps(chat.prompt, sort_keys=True))})


def _problem(where: str, error: ValidationError) -> InvalidInput:
    first = error.errors(include_url=False)[0]
    field = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"])
    value, expected = first["input"], first["msg"].removeprefix("Value error, ")
    match first["type"]:
        case "missing":
            value, expected = None, "this field"
        case "tuple_type":
            expected = "a list of messages"
        case "extra_forbidden":
            expected = _KEYS
        case "string_too_short" | "string_pattern_mismatch":
            expected = "words, not an empty text"
        case "value_error":
            field, value = ".messages", [m.get("role") for m in first["input"]["messages"]]
            expected = _ORDER
    return InvalidInput(f"{where}: {field.lstrip('.') or 'chat'}", value, expected)
