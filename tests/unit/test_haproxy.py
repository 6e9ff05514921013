"""What stands in for HAProxy moves the operator's ports to loopback and becomes HAProxy."""

import http.client
import json
import os
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cluster.errors import ConfigError
from cluster.settings import GatewaySection
from serve import haproxy

AS_RAY_WRITES_IT = """\
defaults
    option splice-request
    option splice-response
frontend prometheus
    bind :9101
frontend http_frontend
    bind 127.0.0.1:8000
frontend open_frontend
    bind *:8000
listen stats
  bind *:8404
  stats enable
"""


@pytest.fixture
def binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake HAProxy that tells its process id and its arguments."""
    path = tmp_path / "real haproxy"
    path.write_text('#!/bin/sh\necho "$$"\nfor a in "$@"; do echo "$a"; done\n')
    path.chmod(0o700)
    monkeypatch.setattr(haproxy, "_installed_binary", lambda: str(path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return path


def test_only_the_operators_ports_and_spliced_requests_are_changed(
    binary: Path, tmp_path: Path
) -> None:
    values = haproxy.environment(GatewaySection(), tmp_path / "a folder" / "haproxy")
    config = tmp_path / "haproxy.cfg"
    config.write_text(AS_RAY_WRITES_IT)
    arguments = ["-db", "-f", str(config), "-sf", "12", "-x", "some.sock"]
    program = values["RAY_SERVE_HAPROXY_BINARY_PATH"]
    process = subprocess.Popen([program, *arguments], stdout=subprocess.PIPE, text=True)
    lines = process.communicate(timeout=20)[0].splitlines()
    assert lines == [str(process.pid), *arguments]
    narrowed = config.read_text()
    binds = [line.strip() for line in narrowed.splitlines() if "bind" in line]
    assert binds == [
        "bind 127.0.0.1:9101", "bind 127.0.0.1:8000", "bind *:8000", "bind 127.0.0.1:8404",
    ]  # fmt: skip
    assert [line.strip() for line in narrowed.splitlines() if "splice" in line] == [
        "option splice-response"
    ]
    subprocess.run([program, *arguments], stdout=subprocess.DEVNULL, timeout=20, check=True)
    assert config.read_text() == narrowed


def test_two_stacks_share_no_path_and_no_port_unless_told(binary: Path, tmp_path: Path) -> None:
    one = haproxy.environment(GatewaySection(), tmp_path / "one")
    other = haproxy.environment(GatewaySection(haproxy_stats_port=8405), tmp_path / "other")
    paths = {k for k in one if k.endswith(("PATH", "LOC", "BASE", "FILE"))}
    assert len(paths) == 6
    assert all(one[k] != other[k] for k in paths)
    assert other["RAY_SERVE_HAPROXY_STATS_PORT"] == "8405"


def test_socket_folder_is_short_and_of_this_user_alone(binary: Path, tmp_path: Path) -> None:
    folder = tmp_path / ("deep/" * 30) / "haproxy"
    socket = Path(haproxy.environment(GatewaySection(), folder)["RAY_SERVE_HAPROXY_SOCKET_PATH"])
    assert len(socket.parent.name) < 30
    assert socket.parent.stat().st_mode & 0o077 == 0


def test_socket_folder_that_others_can_enter_is_refused(binary: Path, tmp_path: Path) -> None:
    values = haproxy.environment(GatewaySection(), tmp_path / "x")
    os.chmod(Path(values["RAY_SERVE_HAPROXY_SOCKET_PATH"]).parent, 0o755)
    with pytest.raises(ConfigError):
        haproxy.environment(GatewaySection(), tmp_path / "x")


def test_without_haproxy_nothing_is_written(tmp_path: Path) -> None:
    values = haproxy.environment(GatewaySection(haproxy=False), tmp_path / "none")
    assert json.dumps(values) == '{"RAY_SERVE_ENABLE_HA_PROXY": "0"}'
    assert not (tmp_path / "none").exists()


REAL = """\
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend http_frontend
    bind 127.0.0.1:{port}
    default_backend b
backend b
    server s 127.0.0.1:{behind}
"""


class _Server(BaseHTTPRequestHandler):
    """Answers with the type that the path names."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", self.path[1:].replace("-", "/", 1))
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """Not to the tests' output."""


@pytest.mark.enable_socket
def test_a_connection_ends_with_its_stream_and_with_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        config = tmp_path / "haproxy.cfg"
        config.write_text(REAL.format(port=port, behind=server.server_address[1]))
        values = haproxy.environment(GatewaySection(), tmp_path / "haproxy")
        program = values["RAY_SERVE_HAPROXY_BINARY_PATH"]
        process = subprocess.Popen([program, "-db", "-f", str(config)])
        try:
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            assert _connected(client, "/application-json") == ""
            assert _connected(client, "/text-event-stream; charset=utf-8") == "close"
        finally:
            process.terminate()
            process.wait(10)
            server.shutdown()


def _connected(client: http.client.HTTPConnection, path: str) -> str:
    """What the response says of its connection."""
    for _ in range(100):
        try:
            client.request("GET", path.replace(" ", ""))
            break
        except ConnectionRefusedError:
            client.close()
            time.sleep(0.05)
    response = client.getresponse()
    response.read()
    return response.getheader("connection", "")
