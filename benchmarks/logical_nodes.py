"""Ray's fake multi-node provider for a measurement: its own autoscaler starts and ends nodes for
real, each a raylet of its own with GPUs that exist on paper only, all of them on this machine."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import ray

from cluster.environment import STACK_VARIABLE
from cluster.session import NAMESPACE, marked, sweep
from serve.running import is_free

_START_S: Final = 90.0


@contextmanager
def cluster(folder: Path, most: int, idle_minutes: float) -> Iterator[str]:
    """A head without GPUs, which Ray's autoscaler gives up to `most` nodes of one GPU and takes
    back when they idle; its address. `cluster.environment.prepare` comes first."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    path = folder / "cluster.yaml"
    path.write_text(
        json.dumps(configuration(f"127.0.0.1:{port}", most, idle_minutes)), encoding="utf-8"
    )
    head = [
        str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}",
        "--node-ip-address=127.0.0.1", "--num-cpus=4", "--num-gpus=0",
        f"--object-store-memory={200 * 1024**2}", "--include-dashboard=false",
        # Not Ray's usual place: who starts a Ray of his own there would join this one.
        f"--temp-dir={folder / 'ray'}", "--disable-usage-stats",
        f"--autoscaling-config={path}",
    ]  # fmt: skip
    # A node that has fetched an object of more than this many bytes, as Serve's description of a
    # deployment, keeps a copy and may count as busy for ever: here it travels with the call.
    os.environ["RAY_max_direct_call_object_size"] = str(1024**2)
    variables = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            head, env={**os.environ, **variables}, stdout=said, stderr=subprocess.STDOUT
        )
        try:
            _join(process, port)
            yield f"127.0.0.1:{port}"
        except BaseException:
            said.seek(0)
            sys.stderr.write(said.read().decode()[-3000:])
            raise
        finally:
            ray.shutdown()
            process.send_signal(signal.SIGTERM)
            sweep(os.environ[STACK_VARIABLE], grace_s=10.0)


def configuration(address: str, most: int, idle_minutes: float) -> dict[str, Any]:
    """The cluster file of Ray's autoscaler."""
    return {
        "cluster_name": "mainspring-logical",
        "max_workers": most,
        "idle_timeout_minutes": idle_minutes,
        "upscaling_speed": 10.0,
        "provider": {
            "type": "fake_multinode", "use_node_id_as_ip": True, "disable_node_updaters": True,
            "disable_launch_config_check": True, "gcs_address": address,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 4}, "node_config": {}, "max_workers": 0},
            "logical-gpu": {
                "resources": {"CPU": 2, "GPU": 1, "object_store_memory": 100 * 1024**2},
                "node_config": {}, "min_workers": 0, "max_workers": most,
            },
        },
        "head_node_type": "ray.head.default", "auth": {},
        "setup_commands": [], "head_setup_commands": [], "worker_setup_commands": [],
        "initialization_commands": [], "head_start_ray_commands": [],
        "worker_start_ray_commands": [], "file_mounts": {}, "cluster_synced_files": [],
        "file_mounts_sync_continuously": False, "rsync_exclude": [], "rsync_filter": [],
    }  # fmt: skip


def gpu_nodes() -> int:
    """Living nodes that have a GPU."""
    return sum(n["Alive"] and n["Resources"].get("GPU", 0) > 0 for n in ray.nodes())


def kill_one() -> None:
    """End a GPU node's raylet by SIGKILL, as a machine that loses its power."""
    for process in marked(os.environ[STACK_VARIABLE]):
        words = " ".join(process.cmdline())
        if process.name() == "raylet" and "GPU,1" in words:
            process.kill()
            return
    raise RuntimeError("no raylet of a GPU node was found")


def _join(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + _START_S
    while is_free(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("Ray's head does not start")
        time.sleep(0.2)
    ray.init(address=f"127.0.0.1:{port}", namespace=NAMESPACE, log_to_driver=False)
