"""A laptop stays closed: nothing of ours answers from beyond loopback."""

import socket

import psutil
import pytest

from cluster.environment import STACK_VARIABLE
from serve.running import read
from tests.stack.conftest import Demo

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

# Processes that are Ray's alone, as Ray builds them: guarded by its token, see the README. The
# workers ("ray::...") are not among them: they run our code.
RAYS_OWN = ("gcs_server", "raylet", "ray/_private", "ray/dashboard", "ray/core", "ray/autoscaler")


def own_address() -> str | None:
    """An address of this machine that is not loopback."""
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == socket.AF_INET and not address.address.startswith("127."):
                return str(address.address)
    return None


def test_our_ports_refuse_a_connection_to_the_machines_other_address(demo: Demo) -> None:
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    for name in ("PORT", "HAPROXY_STATS_PORT", "HAPROXY_METRICS_PORT"):
        port = int(demo.environment[f"MAINSPRING_GATEWAY__{name}"])
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, port), timeout=5)


def test_no_process_with_our_code_answers_http_beyond_loopback(demo: Demo) -> None:
    running, address = read(demo.home), own_address()
    assert running is not None
    if address is None:
        pytest.skip("this machine has no address but loopback")
    inside, answering = 0, []
    for process in psutil.process_iter():
        try:
            if process.environ().get(STACK_VARIABLE) != running.stack:
                continue
            command = " ".join(process.cmdline())
            listening = [c for c in process.net_connections("inet") if c.status == "LISTEN"]
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if any(mark in command for mark in RAYS_OWN):
            continue
        for port in {c.laddr.port for c in listening}:
            inside += answers_http("127.0.0.1", port)
            if answers_http(address, port):
                answering.append((command[:80], port))
    assert inside >= 4, "the gateway, HAProxy and two engines answer on loopback"
    assert answering == []


def answers_http(host: str, port: int) -> bool:
    """Whether something at the address speaks HTTP/1."""
    try:
        with socket.create_connection((host, port), timeout=2) as connection:
            connection.settimeout(2)
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return connection.recv(16).startswith(b"HTTP/1")
    except OSError:
        return False
