"""Ids and the clock: the only place that reads time or randomness."""

import secrets
import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since the Unix epoch, UTC."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back; for durations and deadlines."""


class Ids(Protocol):
    def new(self, kind: str) -> str:
        """A fresh id such as `run_0198f2a1b3c4d5e6f7`, sortable by time of making."""


class SystemClock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


def jittered(seconds: float) -> float:
    """Half of `seconds` to all of it, so that those who wait together do not come together."""
    return seconds * (0.5 + secrets.randbelow(1001) / 2000)


class SystemIds:
    """Ids of 44 bits of milliseconds and 48 random bits, in hex behind the kind."""

    def new(self, kind: str) -> str:
        return f"{kind}_{int(time.time() * 1000):011x}{secrets.token_hex(6)}"


def new_secret() -> str:
    """256 random bits, URL-safe; for tokens that guard an internal door."""
    return secrets.token_urlsafe(32)
