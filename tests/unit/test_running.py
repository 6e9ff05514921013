"""One stack a data folder; a dead one is seen as dead."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import ConfigError, Conflict, Unavailable
from cluster.settings import load
from serve.running import (
    Claim,
    Running,
    find,
    home_of,
    is_free,
    read,
    require,
    require_free_ports,
)

OURS = Running(os.getpid(), "stack_1", "http://127.0.0.1:8000", "127.0.0.1:6379", {"total": 1.5})


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_second_claim_is_refused_and_names_the_holder(tmp_path: Path) -> None:
    claim = Claim(tmp_path)
    with pytest.raises(Conflict, match="is starting"):
        Claim(tmp_path)
    claim.write(OURS)
    with pytest.raises(Conflict, match=f"process {os.getpid()}, http://127"):
        Claim(tmp_path)
    claim.release()
    Claim(tmp_path).release()


def test_what_the_owner_wrote_is_read_and_gone_after_release(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "new" / "folder")
    assert claim.left_behind is None
    claim.write(OURS)
    assert read(tmp_path / "new" / "folder") == OURS
    claim.release()
    assert read(tmp_path / "new" / "folder") is None


def test_a_claim_dies_with_its_process_and_leaves_its_note(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from serve.running import Claim, Running\n"
        "Claim(Path(sys.argv[1])).write(Running(os.getpid(), 'stack_9'))\nos._exit(9)"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, check=False)
    with pytest.raises(Unavailable):
        require(tmp_path)
    claim = Claim(tmp_path)
    assert claim.left_behind is not None
    assert claim.left_behind.stack == "stack_9"
    claim.release()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', '{"pid":1,"stack":"s","x":1}'])
def test_a_broken_note_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "running.json").write_text(content)
    assert read(tmp_path) is None


def test_a_running_stack_is_required_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="mainspring up"):
        require(tmp_path)
    claim = Claim(tmp_path)
    claim.write(OURS)
    assert require(tmp_path) == OURS
    claim.release()


def test_a_port_is_free_unless_somebody_listens(taken: int) -> None:
    assert not is_free(taken)
    assert is_free(_free())


@pytest.mark.parametrize("name", ["port", "haproxy_stats_port", "haproxy_metrics_port"])
def test_a_taken_port_stops_the_start_and_names_the_setting(name: str, taken: int) -> None:
    ports = {n: _free() for n in ("port", "haproxy_stats_port", "haproxy_metrics_port")}
    require_free_ports(load(gateway=ports))
    with pytest.raises(ConfigError) as caught:
        require_free_ports(load(gateway={**ports, name: taken}))
    assert (caught.value.field, caught.value.value) == (f"gateway.{name}", taken)


def test_haproxys_ports_do_not_matter_without_haproxy(taken: int) -> None:
    ports = {"port": _free(), "haproxy_stats_port": taken}
    require_free_ports(load(gateway={**ports, "haproxy": False}))
    with pytest.raises(ConfigError):
        require_free_ports(load(gateway={**ports, "haproxy": True}))


def test_the_demos_stack_is_found_from_the_folder_of_its_data(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    assert find(tmp_path / "demo") is None
    claim = Claim(tmp_path)
    claim.write(Running(os.getpid(), "stack_1", "http://127.0.0.1:1"))
    found = find(tmp_path / "demo")
    assert found is not None and found.stack == "stack_1"
    assert home_of(tmp_path / "demo") == tmp_path
    assert find(tmp_path / "other") is None
    claim.release()
