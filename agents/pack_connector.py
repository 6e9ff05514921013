"""The connector of a workflow pack: an actor that does the pack's effects on its desk."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ray

from agents.guarded import Guarded
from agents.guarding import pack_guard
from agents.intents import Guard
from agents.packs import CONNECTOR, PACKS, load
from cluster.ids import SystemClock
from cluster.session import NAMESPACE


class PackConnector(Guarded):
    """The tools of one workflow pack, on its desk: an actor that alone holds what the desk needs to
    reach the world."""

    def __init__(self, pack: str, folder: Path, make_guard: Callable[[], Guard]) -> None:
        """`pack` is its name or path in the settings, `folder` the stack's data folder."""
        super().__init__(make_guard())
        (found,) = load([pack]).values()
        self._desk = found.desk(folder / PACKS / found.name, SystemClock())

    def pid(self) -> int:
        return os.getpid()

    def perform(self, tool: str, key: str, ticket: str, args: dict[str, Any]) -> dict[str, Any]:
        """See `agents.packs.Desk`; the receipt carries its `kind`, the tool's name there."""
        name = tool.partition(".")[2]
        return {"kind": name, **self._desk.perform(name, key, ticket, args)}

    def find(self, key: str) -> dict[str, Any] | None:
        """See `agents.packs.Desk`."""
        return self._desk.find(key)


def start_desk(packs: Mapping[str, str], folder: Path, name: str) -> Any:
    """The actor of this name that is a pack's connector; it is started when there is none, by the
    first effect that the pack wants. `packs` holds their names in the settings by their own."""
    pack = name.removeprefix(CONNECTOR)
    return (
        ray.remote(PackConnector)
        .options(
            name=name, namespace=NAMESPACE, get_if_exists=True, lifetime="detached", num_cpus=0,
            max_restarts=-1, max_task_retries=0, max_concurrency=8,
        )
        .remote(packs[pack], folder, partial(pack_guard, folder, pack))
    )  # fmt: skip
