"""How far long work is, for whoever watches it from outside."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Told = Callable[[int, int], None]
"""Told how much is done, of how much."""


class Progresses:
    """Work under way by name, each with what is done and of how much."""

    def __init__(self) -> None:
        self._now: dict[str, tuple[int, int]] = {}

    @contextmanager
    def of(self, name: str, also: Told | None = None) -> Iterator[Told]:
        """Show the work while the block runs, and tell `also`."""

        def told(done: int, total: int) -> None:
            self._now[name] = (done, total)
            if also is not None:
                also(done, total)

        try:
            yield told
        finally:
            self._now.pop(name, None)

    def now(self) -> dict[str, tuple[int, int]]:
        """All of it."""
        return dict(self._now)
