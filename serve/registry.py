"""Which checkpoint serves a model: the one its profile names, or one promoted over it.

`DATA/checkpoints/MODEL/VERSION/` are the promoted checkpoints, `history.json` beside them every
promotion and rollback, oldest first; what serves is their fold. A promotion counts over the source
that the profile named then: under another source it is as if it had never been. Where engines run
on several nodes, all of them must see the data folder.
"""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from cluster.errors import Conflict, DataError, NotFound, Unavailable
from cluster.settings import ModelSection
from serve.distill.digest import digest

_KEPT: Final = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.md")
_PART: Final = ".part-"


class Change(BaseModel):
    """One promotion of `version`, or its taking back. `base` is the source that the profile named,
    `at` the time in UTC, `evaluation` what spoke for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Literal["promote", "rollback"]
    version: str
    base: str
    at: str
    by: str
    evaluation: dict[str, Any] = {}


_HISTORY: Final = TypeAdapter(list[Change])


def serving(models: Iterable[ModelSection], data_dir: Path) -> tuple[ModelSection, ...]:
    """The models as they are served: `source` is the promoted checkpoint where there is one.

    Raises DataError when it or the history is damaged.
    """
    return tuple(Registry(data_dir, model).serving() for model in models)


class Registry:
    """The checkpoints of one model. `model` is its section as the profile has it."""

    def __init__(self, data_dir: Path, model: ModelSection) -> None:
        self._model = model
        self.folder = data_dir.resolve() / "checkpoints" / model.id
        self._path = self.folder / "history.json"

    def history(self) -> list[Change]:
        """Every change, oldest first. Raises DataError when the file is damaged."""
        try:
            return _HISTORY.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return []
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"]
            raise DataError(str(self._path), f"not a history of promotions: {reason}") from None

    def versions(self) -> list[str]:
        """The promoted checkpoints one above the other; the last one serves, none: the base."""
        return _fold(c for c in self.history() if c.base == self._model.source)

    def current(self) -> str | None:
        """The version that serves; None: what the profile names."""
        return next(reversed(self.versions()), None)

    def serving(self) -> ModelSection:
        """The model as it is served now. Raises DataError when its checkpoint is gone."""
        return self.whole(self.current())

    def on(self, version: str | None) -> ModelSection:
        """The model on a promoted version, or on what the profile names."""
        if version is None:
            return self._model
        return self._model.model_copy(update={"source": str(self.folder / version)})

    def whole(self, version: str | None) -> ModelSection:
        """As `on`; raises DataError when that checkpoint is gone."""
        model = self.on(version)
        if version is not None and not (Path(model.source) / "config.json").is_file():
            raise DataError(
                model.source,
                "this promoted checkpoint is gone; put it back, or take the promotion back: "
                f"mainspring distill rollback --model {self._model.id}",
            )
        return model

    def store(self, candidate: Path) -> str:
        """Copy a checkpoint in, whole or not at all; its version.

        Raises Unavailable when the disk has no room, Conflict when another copy is under way, and
        DataError when the candidate changes meanwhile.
        """
        version = digest(candidate)
        with self._alone():
            for left in self.folder.glob(f"{_PART}*"):
                shutil.rmtree(left)
            if (self.folder / version).is_dir():
                if digest(self.folder / version) == version:
                    return version
                shutil.rmtree(self.folder / version)
            files = sorted({f for pattern in _KEPT for f in candidate.glob(pattern)})
            _require_room(self.folder, sum(f.stat().st_size for f in files))
            part = Path(tempfile.mkdtemp(prefix=_PART, dir=self.folder))
            try:
                _copy(files, part)
                if digest(part) != version:
                    raise DataError(str(candidate), "it changed while it was copied; try again")
                part.rename(self.folder / version)
                _sync(self.folder)
            except OSError as error:
                raise Unavailable(f"room in {self.folder}", error.strerror or str(error)) from error
            finally:
                shutil.rmtree(part, ignore_errors=True)
        return version

    def expect(self, current: str | None) -> None:
        """Raises Conflict when another version serves than the caller knows of."""
        found = self.current()
        if found != current:
            serves = found or self._model.source
            raise Conflict(f"model {self._model.id}", f"{serves} serves by now; look again")

    def record(self, change: Change, current: str | None) -> None:
        """Append a change to the history, durably. Raises Conflict when `current` is not what
        serves, Unavailable when the disk does not take it."""
        with self._alone():
            self.expect(current)
            entries = [c.model_dump() for c in (*self.history(), change)]
            part = self._path.with_suffix(".part")
            try:
                with part.open("w", encoding="utf-8") as file:
                    json.dump(entries, file, indent=1)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(self._path)
                _sync(self.folder)
            except OSError as error:
                part.unlink(missing_ok=True)
                raise Unavailable(str(self._path), error.strerror or str(error)) from error

    def below(self) -> tuple[str, str | None]:
        """(what serves, what a rollback returns to). Raises NotFound when nothing is promoted."""
        versions: list[str | None] = [None, *self.versions()]
        if (top := versions.pop()) is None:
            raise NotFound("promoted checkpoint of model", self._model.id)
        return top, versions[-1]

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("a")
        except OSError as error:
            raise Unavailable(str(self.folder), error.strerror or str(error)) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                reason = "another process is writing there; wait for it"
                raise Conflict(str(self.folder), reason) from None
            yield


def _fold(changes: Iterable[Change]) -> list[str]:
    versions: list[str] = []
    for change in changes:
        if change.action == "promote":
            versions.append(change.version)
        elif versions and versions[-1] == change.version:
            versions.pop()
    return versions


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise Unavailable(
            f"room in {folder}", f"{needed / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB free"
        )


def _copy(files: Sequence[Path], folder: Path) -> None:
    for path in files:
        with path.open("rb") as source, (folder / path.name).open("wb") as copy:
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())
    _sync(folder)


def _sync(folder: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
