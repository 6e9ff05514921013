"""The logs of many processes as one."""

import logging
import os
from pathlib import Path

import pytest

from cluster import telemetry
from cluster.errors import InvalidInput
from cluster.settings import GatewaySection
from serve.logs import Logs, Wanted, entries, shown, since
from tests.gateways import HELLO, serving

FIRST = "2026-11-23 17:00:00,100 INFO mainspring.router request=q1 run=r1 trace=- sent"
SECOND = "2026-11-23 17:00:00,200 ERROR mainspring.driver request=- run=r1 trace=t1 broke"
THIRD = "2026-11-23 17:00:00,300 WARNING mainspring.router request=q2 run=- trace=- slow"


def _texts(logs: Logs, **wanted: str) -> list[str]:
    return [entry.lines[0] for entry in logs.fresh(Wanted(**wanted))]  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    one = ["(raylet) some words of Ray", FIRST, THIRD, ""]
    (tmp_path / "worker-a-1.err").write_text("\n".join(one))
    other = [SECOND, "Traceback (most recent call last):", "ValueError: x", ""]
    (tmp_path / "worker-b-2.err").write_text("\n".join(other))
    (tmp_path / "raylet.err").write_text(FIRST + "\n")
    return tmp_path


def test_processes_are_merged_by_time_and_traces_stay_with_their_entry(folder: Path) -> None:
    found = list(Logs(folder).fresh(Wanted()))
    assert [e.lines[0] for e in found] == ["sent", "broke", "slow"]
    assert found[1].lines[1:] == ("Traceback (most recent call last):", "ValueError: x")
    assert shown(found[0]) == "17:00:00.100 INFO    router: sent  [run=r1 request=q1]"


def test_only_what_is_asked_for_is_shown(folder: Path) -> None:
    assert _texts(Logs(folder), run="r1") == ["sent", "broke"]
    assert _texts(Logs(folder), request="q2") == ["slow"]
    assert _texts(Logs(folder), trace="t1") == ["broke"]
    assert _texts(Logs(folder), level="ERROR") == ["broke"]
    later = next(entries([SECOND])).at
    assert len(list(Logs(folder).fresh(Wanted(since=later)))) == 2
    with pytest.raises(InvalidInput, match="level"):
        Wanted(level="LOUD")


def test_what_is_added_rotated_or_half_written_is_read_once(folder: Path) -> None:
    logs, file = Logs(folder), folder / "worker-a-1.err"
    assert len(_texts(logs)) == 3
    assert _texts(logs) == []
    with file.open("a") as out:
        out.write(FIRST.replace("sent", "again") + "\n" + THIRD[:40])
    assert _texts(logs) == ["again"]
    with file.open("a") as out:
        out.write(THIRD[40:] + "\n")
    assert _texts(logs) == ["slow"]
    with file.open("a") as out:
        out.write(FIRST.replace("sent", "last") + "\n")
    os.replace(file, folder / "worker-a-1.err.1")
    file.write_text(FIRST.replace("sent", "anew") + "\n")
    assert sorted(_texts(logs)) == ["anew", "last"]
    assert _texts(logs) == []
    file.write_text("")
    assert _texts(logs) == []


def test_broken_lines_belong_to_the_entry_before_them(folder: Path) -> None:
    file = folder / "worker-a-1.err"
    wrong = FIRST.replace("2026-11-23", "2026-99-23")
    file.write_bytes(FIRST.encode() + b"\n" + wrong.encode() + b"\n\xff\xfe\n" + THIRD[:30].encode()
                     + b"\n" + THIRD.encode() + b"\n")  # fmt: skip
    found = [e for e in Logs(folder).fresh(Wanted()) if e.part == "router"]
    assert [e.lines[0] for e in found] == ["sent", "slow"]
    assert found[0].lines[1:] == (wrong, "\ufffd\ufffd", THIRD[:30])


def test_times_in_the_past() -> None:
    assert since("", 100.0) == 0.0
    assert since("10m", 1_000.0) == 400.0
    assert since("1d", 90_000.0) == 3_600.0
    for wrong in ("10", "m", "-5m", "1w"):
        with pytest.raises(InvalidInput, match="since"):
            since(wrong, 0.0)


def test_what_our_own_format_writes_is_read() -> None:
    telemetry.logger("test")
    handler = logging.getLogger("mainspring").handlers[0]
    record = logging.LogRecord("mainspring.x", logging.WARNING, "", 0, "two\nlines", None, None)
    handler.filter(record)
    (entry,) = entries(handler.format(record).splitlines())
    assert (entry.level, entry.part, entry.lines) == ("WARNING", "x", ("two", "lines"))


@pytest.mark.enable_socket
async def test_a_refused_request_is_logged_under_its_ids_and_a_served_one_not(
    tmp_path: Path,
) -> None:
    file = tmp_path / "worker-a-1.err"
    root, told = telemetry.logger("door").parent, logging.FileHandler(file)
    assert root is not None
    told.addFilter(root.handlers[0].filters[0])
    told.setFormatter(root.handlers[0].formatter)
    root.addHandler(told)
    try:
        async with serving(GatewaySection()) as stack:
            url = f"{stack.url}/v1/chat/completions"
            asked = {"x-request-id": "req-ours", "x-mainspring-run": "run-7"}
            async with stack.client.post(url, json={"model": "none"}, headers=asked) as refused:
                assert refused.status >= 400
            wrong = {"x-request-id": "req-odd", "x-mainspring-run": "run=1 request=2"}
            async with stack.client.post(url, json=HELLO, headers=wrong) as odd:
                assert odd.status == 400
            headers = {"x-request-id": "req-fine"}
            async with stack.client.post(url, json=HELLO, headers=headers) as served:
                assert served.status == 200
    finally:
        root.removeHandler(told)
        told.close()
    (strange,) = Logs(tmp_path).fresh(Wanted(request="req-odd"))
    assert strange.run == "-"
    (found,) = Logs(tmp_path).fresh(Wanted(request="req-ours"))
    assert (found.run, found.lines[0]) == ("run-7", f"POST /v1/chat: {refused.status}")
    assert list(Logs(tmp_path).fresh(Wanted(run="run-7"))) == [found]
    assert list(Logs(tmp_path).fresh(Wanted(request="req-fine"))) == []
