"""Joins the running stack, submits a queue, kills the agent host and the orchestrator in it.

Run as `python -m tests.chaos.queue_under_kills HOME COUNT KILLS`; prints one JSON object. A process
of its own, because Ray reads its environment once, at import.
"""

import asyncio
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

from agents.events import RunOptions
from cluster.environment import prepare
from serve.running import require


async def main(home: Path, count: int, kills: int) -> dict[str, Any]:
    """Work `count` copies of shipped tickets through `kills` SIGKILLs of each of the two actors."""
    from cluster import session

    tickets = [json.loads(line) for line in _shipped().splitlines() if line.strip()]
    random.Random(7).shuffle(tickets)
    copies = [{**tickets[i % len(tickets)], "id": f"K-{i:03}"} for i in range(count)]
    connector, orchestrator = session.actor("connector"), session.actor("orchestrator")
    host = session.actor("host-0")
    await connector.open_tickets.remote(copies)
    runs = {}
    for copy in copies:
        given = {"ticket": copy["id"], "head": "support"}
        run_id = await orchestrator.submit.remote(
            "default",
            f"chaos:{copy['id']}",
            "support",
            f"chaos/{copy['id']}",
            given,
            RunOptions(asks="hand_over"),
        )
        runs[run_id] = copy["id"]
    killed: list[str] = []
    for _ in range(kills):
        for name, handle in (("host", host), ("orchestrator", orchestrator)):
            await asyncio.sleep(0.6)
            pid = await _patiently(handle.pid)
            os.kill(pid, signal.SIGKILL)
            killed.append(f"{name}:{pid}")
    ended: dict[str, Any] = {}
    deadline = asyncio.get_running_loop().time() + 180
    while len(ended) < len(runs) and asyncio.get_running_loop().time() < deadline:
        states = await _patiently(orchestrator.wait, list(runs), 10.0)
        ended = {s.run_id: s for s in states}
    return {
        "killed": killed,
        "runs": len(runs),
        "ended": {runs[r]: s.ended.decision for r, s in ended.items()},
        "run_ids": list(runs),
        "epochs": [s.epoch for s in ended.values()],
        "chains": [await _patiently(orchestrator.verify, r) for r in runs],
    }


async def _patiently(method: Any, *args: Any) -> Any:
    """Call an actor that may be restarting; safe, because these calls change nothing."""
    from ray.exceptions import RayActorError

    for _ in range(100):
        try:
            return await method.remote(*args)
        except RayActorError:
            await asyncio.sleep(0.2)
    raise TimeoutError("the actor did not come back")


def _shipped() -> str:
    return (Path(__file__).resolve().parents[2] / "infra/support/tickets.jsonl").read_text("utf-8")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    running = require(folder)
    prepare(folder, None, {})
    from cluster import session as ray_session

    ray_session.join(running.gcs_address)
    print(json.dumps(asyncio.run(main(folder, int(sys.argv[2]), int(sys.argv[3])))))
