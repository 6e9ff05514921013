"""`mainspring distill promote` and `rollback`: what must hold, and then the swap.

Nothing overrides a refusal. Where a stack runs on the data folder it swaps the engines and keeps
the history; where none runs, the history is all there is to change, and the next start heeds it.
"""

import getpass
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from cluster.errors import NotFound, Unavailable
from cluster.ids import Clock
from cluster.settings import ModelSection, Settings
from serve.catalog import resolve_source
from serve.lifecycle import joined
from serve.registry import Change, Registry
from serve.running import find

Say = Callable[[str], None]


class Place(Protocol):
    """Where a change takes effect."""

    def section(self, model: str) -> ModelSection:
        """The model as the profile has it. NotFound for an unknown one."""

    def apply(self, model: str, change: Change, over: str | None, to: str | None) -> None:
        """Have version `to` serve instead of `over`, and record the change; or raise, and change
        nothing."""


def promote(
    place: Place, home: Path, model: str, candidate: Path, clock: Clock, say: Say
) -> Change:
    """Put a candidate behind a model id.

    Raises InvalidInput or DataError for a checkpoint that can't serve, Conflict when its evaluation
    does not speak for it or it serves already, Unavailable when the disk or the engine has no room
    for it. Then nothing has changed.
    """
    # Torch takes seconds to import, for which a rollback need not wait.
    from serve.distill.gate import accepted
    from serve.distill.vetting import local_folder, validate

    section = place.section(model)
    registry = Registry(home, section)
    over = registry.current()
    incumbent = local_folder(resolve_source(registry.serving().source))
    say(f"looking at {candidate}")
    validate(candidate, incumbent, section.max_model_len)
    evaluation = accepted(candidate, incumbent)
    version = registry.store(candidate)
    change = _change("promote", version, section, clock, asdict(evaluation))
    say(f"{version} takes over from {over or section.source}")
    place.apply(model, change, over, version)
    return change


def roll_back(place: Place, home: Path, model: str, clock: Clock, say: Say) -> Change:
    """Return to what served before the last promotion.

    Raises NotFound when there was none; else as `promote`.
    """
    section = place.section(model)
    top, below = Registry(home, section).below()
    change = _change("rollback", top, section, clock, {})
    say(f"{below or section.source} takes over from {top}")
    place.apply(model, change, top, below)
    return change


@contextmanager
def place_of(settings: Settings, say: Say) -> Iterator[Place]:
    """The stack that runs on the data folder, or the folder alone when none does."""
    running = find(settings.data_dir)
    if running is None:
        yield Folder(settings)
        say("no stack runs: this counts from the next start")
        return
    with joined(running, settings.data_dir) as actors:
        from serve.swap import NAME

        yield Stack(actors(NAME))


class Folder:
    """A data folder without a stack."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def section(self, model: str) -> ModelSection:
        for section in self._settings.models:
            if section.id == model:
                return section
        raise NotFound("model", model)

    def apply(self, model: str, change: Change, over: str | None, to: str | None) -> None:
        registry = Registry(self._settings.data_dir, self.section(model))
        registry.whole(to)
        registry.record(change, over)


class Stack:
    """A running stack, by its swapper."""

    def __init__(self, swapper: Any) -> None:
        self._swapper = swapper

    def section(self, model: str) -> ModelSection:
        section: ModelSection = self._ask(self._swapper.section.remote(model))
        return section

    def apply(self, model: str, change: Change, over: str | None, to: str | None) -> None:
        self._ask(self._swapper.swap.remote(model, change, over, to))

    def _ask(self, reference: Any) -> Any:
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        from cluster.session import own

        try:
            return ray.get(reference)
        except RayActorError as error:
            raise Unavailable("the swap", f"it was broken off; run this again ({error})") from None
        except RayTaskError as error:
            raise own(error) from None


def _change(
    action: Literal["promote", "rollback"],
    version: str,
    section: ModelSection,
    clock: Clock,
    evaluation: dict[str, Any],
) -> Change:
    at = datetime.fromtimestamp(clock.now(), UTC).isoformat(timespec="seconds")
    return Change(
        action=action, version=version, base=section.source, at=at, by=_user(),
        evaluation=evaluation,
    )  # fmt: skip


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
