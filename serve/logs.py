"""The logs of a stack's processes on this machine as one: merged by time, filtered by ids.

Each process writes its own file, in the format of `cluster/telemetry.py`. What stands behind an
entry without being one (a stack trace) belongs to it; what stands before the first (words of Ray or
vLLM) is passed over.
"""

import heapq
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cluster.errors import InvalidInput

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_FILES: Final = "worker-*.err*"
_ENTRY: Final = re.compile(
    r"(?P<at>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) (?P<level>[A-Z]+) mainspring\.(?P<part>\S+) "
    r"request=(?P<request>\S+) run=(?P<run>\S+) trace=(?P<trace>\S+) (?P<text>.*)"
)
_PAST: Final = re.compile(r"(\d+)([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_MOST_BYTES: Final = 64_000_000
_MOST_LINES_BEHIND: Final = 200


@dataclass(frozen=True)
class Entry:
    """A line of a log with what belongs to it. `at` is seconds since the epoch; an id that it has
    not is "-"."""

    at: float
    level: str
    part: str
    request: str
    run: str
    trace: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Wanted:
    """Which entries: of this run, request or trace (any where empty), at least of a level, from
    `since` on (seconds since the epoch)."""

    run: str = ""
    request: str = ""
    trace: str = ""
    level: str = "INFO"
    since: float = 0.0

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise InvalidInput("level", self.level, f"one of {list(LEVELS)}")

    def has(self, entry: Entry) -> bool:
        """Whether it is one of them."""
        ids = ((self.run, entry.run), (self.request, entry.request), (self.trace, entry.trace))
        level = LEVELS.index(entry.level) if entry.level in LEVELS else len(LEVELS)
        return (
            entry.at >= self.since
            and level >= LEVELS.index(self.level)
            and all(not wanted or wanted == found for wanted, found in ids)
        )


@dataclass
class Logs:
    """The files below `folder`; remembers how far each was read, whatever it is called by then."""

    folder: Path
    _read: dict[int, int] = field(default_factory=dict)

    def fresh(self, wanted: Wanted) -> Iterator[Entry]:
        """What was written since the last call, by time. A file that was rotated is read to its
        end, the one in its place from its beginning, as one that was cut off is."""
        before, self._read = self._read, {}  # a file that is gone is forgotten: so is its number
        paths = sorted(self.folder.glob(_FILES))
        found = [list(entries(self._lines(path, before))) for path in paths]
        merged = heapq.merge(*found, key=lambda entry: entry.at)
        return (entry for entry in merged if wanted.has(entry))

    def _lines(self, path: Path, before: Mapping[int, int]) -> Sequence[str]:
        """Whole lines only: the end of one that is being written is read when it is there."""
        try:
            with path.open("rb") as file:
                about = os.fstat(file.fileno())  # the name may be another file's by now
                at = before.get(about.st_ino, 0)
                if about.st_size < at:
                    at = 0
                file.seek(max(at, about.st_size - _MOST_BYTES))
                data = file.read(about.st_size - file.tell())
                whole = data.rfind(b"\n") + 1
                self._read[about.st_ino] = file.tell() - len(data) + whole
        except OSError:
            return ()  # it went away while we looked
        return data[:whole].decode("utf-8", "replace").splitlines()


def entries(lines: Iterable[str]) -> Iterator[Entry]:
    """PURE: the entries of one process's log, in order."""
    head: Mapping[str, Any] | None = None
    behind: list[str] = []
    for line in lines:
        found = _ENTRY.match(line)
        if found and (at := _time(found["at"])) is not None:
            if head is not None:
                yield _entry(head, behind)
            head, behind = found.groupdict() | {"at": at}, []
        elif len(behind) < _MOST_LINES_BEHIND:
            behind.append(line)
    if head is not None:
        yield _entry(head, behind)


def since(past: str, now: float) -> float:
    """The time that lies so far in the past: 30s, 10m, 2h, 1d; 0 for ""."""
    if not past:
        return 0.0
    found = _PAST.fullmatch(past)
    if found is None:
        raise InvalidInput("since", past, "a number with s, m, h or d, as 10m")
    return now - int(found[1]) * _SECONDS[found[2]]


def shown(entry: Entry) -> str:
    """An entry as a person reads it: the time of day, and the ids that it has."""
    at = datetime.fromtimestamp(entry.at)
    ids = {"run": entry.run, "request": entry.request}
    told = " ".join(f"{name}={id}" for name, id in ids.items() if id != "-")
    head = f"{at:%H:%M:%S.%f}"[:12]
    first = f"{head} {entry.level:<7} {entry.part}: {entry.lines[0]}"
    return "\n".join([f"{first}  [{told}]" if told else first, *entry.lines[1:]])


def _time(text: str) -> float | None:
    """None for what only looks like one: words of others that were written into a line of ours."""
    try:
        return datetime.strptime(text, "%Y-%m-%d %H:%M:%S,%f").timestamp()
    except ValueError:
        return None


def _entry(head: Mapping[str, Any], behind: list[str]) -> Entry:
    return Entry(
        head["at"], head["level"], head["part"], head["request"], head["run"], head["trace"],
        (head["text"], *behind),
    )  # fmt: skip
