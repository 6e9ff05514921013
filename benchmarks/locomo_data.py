"""Files of LoCoMo's form: conversations in sessions, questions, and the turns that answer them.

The data is not ours to ship (CC BY-NC 4.0): it is read from wherever `--data` says.
"""

import gzip
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cluster.errors import InvalidInput

CATEGORIES: Final = (1, 2, 3, 4)
"""Several facts, when, inference, one fact. The fifth asks what was never said."""
_EVIDENCE: Final = re.compile(r"D\d+:\d+")
_SESSION: Final = re.compile(r"session_(\d+)")


@dataclass(frozen=True)
class Turn:
    """What one speaker said at once, pictures by their captions."""

    id: str
    session: int
    number: int
    speaker: str
    text: str
    at: float


@dataclass(frozen=True)
class Question:
    """A question and the ids of the turns that answer it, at least one."""

    text: str
    category: int
    evidence: frozenset[str]


@dataclass(frozen=True)
class Conversation:
    """Two speakers over many sessions."""

    name: str
    turns: tuple[Turn, ...]
    questions: tuple[Question, ...]

    @property
    def speakers(self) -> list[str]:
        return sorted({turn.speaker for turn in self.turns})


def load(path: Path) -> list[Conversation]:
    """The conversations of a .json or .json.gz file. Raises InvalidInput when it has another
    form."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            return [_conversation(n, one) for n, one in enumerate(json.load(file), 1)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput("--data", str(path), f"a file of LoCoMo's form ({error!r})") from error


def _conversation(number: int, given: dict[str, Any]) -> Conversation:
    said = given["conversation"]
    sessions = sorted(int(m[1]) for key in said if (m := _SESSION.fullmatch(key)))
    turns = [
        _turn(session, n, turn, _time(said.get(f"session_{session}_date_time", "")))
        for session in sessions
        for n, turn in enumerate(said[f"session_{session}"], 1)
    ]
    known = {turn.id for turn in turns}
    questions = [
        Question(str(qa["question"]), int(qa["category"]), evidence)
        for qa in given["qa"]
        if int(qa["category"]) in CATEGORIES and (evidence := _evidence(qa) & known)
    ]
    name = str(given.get("sample_id", f"conversation {number}"))
    return Conversation(name, tuple(turns), tuple(questions))


def _turn(session: int, number: int, given: dict[str, Any], at: float) -> Turn:
    caption = given.get("blip_caption", "")
    text = given.get("text", "") + (f" [shares {caption}]" if caption else "")
    return Turn(given["dia_id"], session, number, given["speaker"], text.strip() or "-", at)


def _evidence(qa: dict[str, Any]) -> frozenset[str]:
    # some entries name several turns in one string
    return frozenset(_EVIDENCE.findall(" ".join(map(str, qa.get("evidence", [])))))


def _time(written: str) -> float:
    try:
        return datetime.strptime(written, "%I:%M %p on %d %B, %Y").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0
