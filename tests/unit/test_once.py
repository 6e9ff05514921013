"""Once per key, whoever asks at the same time."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from agents.once import Once


class Backend:
    """Does what it is told, as often as it is told."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def find(self, key: str) -> dict[str, str] | None:
        return {"key": key} if key in self.done else None

    def do(self, key: str) -> dict[str, str]:
        time.sleep(0.01)
        self.done.append(key)
        return {"key": key}


def test_of_many_who_ask_at_once_one_does_it_and_all_get_the_receipt() -> None:
    backend = Backend()
    once = Once(backend.find)
    with ThreadPoolExecutor(16) as pool:
        asked = [
            pool.submit(once.do, f"k{i % 4}", lambda i=i: backend.do(f"k{i % 4}"))  # type: ignore[misc]
            for i in range(64)
        ]
        receipts = [a.result() for a in asked]
    assert sorted(backend.done) == ["k0", "k1", "k2", "k3"]
    assert [r["key"] for r in receipts] == [f"k{i % 4}" for i in range(64)]


def test_who_looks_waits_for_what_is_being_done() -> None:
    backend = Backend()
    once = Once(backend.find)
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> dict[str, str]:
        begun.set()
        assert go_on.wait(5)
        return backend.do("k")

    with ThreadPoolExecutor(2) as pool:
        doing = pool.submit(once.do, "k", slow)
        assert begun.wait(5)
        looking = pool.submit(once.find, "k")
        time.sleep(0.05)
        assert not looking.done()
        go_on.set()
        assert doing.result() == looking.result() == {"key": "k"}


def test_what_failed_may_be_asked_for_again() -> None:
    backend = Backend()
    once = Once(backend.find)

    def broken() -> dict[str, str]:
        raise OSError("the line is dead")

    with pytest.raises(OSError, match="dead"):
        once.do("k", broken)
    assert once.find("k") is None
    assert once.do("k", lambda: backend.do("k")) == {"key": "k"}
