"""The logs of a stack's processes on this machine as one: merged by time, filtered by ids.

Each process writes its own file, in the format of `cluster/telemetry.py`. What stands behind an
entry without being one (a stack trace) belongs to it; what stands before the first (words of Ray or
vLLM) is passed over.
"""

import heapq
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

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
    """The files below `folder`; remembers how far each was read."""

    folder: Path
    _read: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def fresh(self, wanted: Wanted) -> Iterator[Entry]:
        """What was written since the last call, by time. A file that was rotated or cut off is read
        from its beginning."""
        found = [list(entries(self._lines(path))) for path in sorted(self.folder.glob(_FILES))]
        merged = heapq.merge(*found, key=lambda entry: entry.at)
        return (entry for entry in merged if wanted.has(entry))

    def _lines(self, path: Path) -> Sequence[str]:
        """Whole lines only: the end of one that is being written is read when it is there."""
        try:
            with path.open("rb") as file:
                size, inode = path.stat().st_size, path.stat().st_ino
                known, at = self._read.get(path, (inode, 0))
                if known != inode or size < at:
                    at = 0
                file.seek(max(at, size - _MOST_BYTES))
                data = file.read(size - file.tell())
                whole = data.rfind(b"\n") + 1
                self._read[path] = (inode, file.tell() - len(data) + whole)
        except OSError:
            return ()  # it went away while we looked
        return data[:whole].decode("utf-8", "replace").splitlines()


def entries(lines: Iterable[str]) -> Iterator[Entry]:
    """PURE: the entries of one process's log, in order."""
    head: Mapping[str, str] | None = None
    behind: list[str] = []
    for line in lines:
        if found := _ENTRY.match(line):
            if head is not None:
                yield _entry(head, behind)
            head, behind = found.groupdict(), []
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


def _entry(head: Mapping[str, str], behind: list[str]) -> Entry:
    at = datetime.strptime(head["at"], "%Y-%m-%d %H:%M:%S,%f").timestamp()
    return Entry(
        at, head["level"], head["part"], head["request"], head["run"], head["trace"],
        (head["text"], *behind),
    )  # fmt: skip
