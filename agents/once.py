"""An effect once per key, at a backend that would do twice what it is told twice.

Who calls has looked before; but a call of an earlier owner may still be on its way then. So the
connector itself looks again, with nobody else at that key, before it does anything.
"""

import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

Receipt = dict[str, Any]


class _Lock:
    def __init__(self) -> None:
        self.held = threading.Lock()


class Once:
    """`lookup` gives the receipt of what was done under a key, or None. It has to know of an effect
    as soon as that is done."""

    def __init__(self, lookup: Callable[[str], Receipt | None]) -> None:
        self._lookup = lookup
        self._guard = threading.Lock()
        # A lock lives as long as somebody holds or awaits it.
        self._locks: WeakValueDictionary[str, _Lock] = WeakValueDictionary()

    def do(self, key: str, work: Callable[[], Receipt]) -> Receipt:
        """The receipt of what was done under `key` before, or else of `work`, which does it."""
        with self._guard:
            lock = self._locks.setdefault(key, _Lock())
        with lock.held:
            found = self._lookup(key)
            return work() if found is None else found

    def find(self, key: str) -> Receipt | None:
        """The receipt of what was done under `key`, once nobody is at it any more."""
        with self._guard:
            lock = self._locks.setdefault(key, _Lock())
        with lock.held:
            return self._lookup(key)
