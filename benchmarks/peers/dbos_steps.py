"""The same durable steps on DBOS Transact, for `benchmarks.durability`; run by the Python that has
it. `python dbos_steps.py URL RUNS STEPS` prints JSON: steps/s with RUNS workflows at once, and the
seconds of every step of one workflow alone."""

import asyncio
import json
import sys
import time

from dbos import DBOS

RESULT = "x" * 1024


@DBOS.step()
async def step(number: int) -> str:
    return f"{number} {RESULT}"


@DBOS.workflow()
async def workflow(steps: int) -> list[float]:
    seconds = []
    for number in range(steps):
        began = time.perf_counter()
        await step(number)
        seconds.append(time.perf_counter() - began)
    return seconds


async def measured(runs: int, steps: int) -> dict:
    await workflow(20)  # warm
    alone = await workflow(steps)
    began = time.perf_counter()
    await asyncio.gather(*(workflow(steps) for _ in range(runs)))
    return {"steps_per_s": runs * steps / (time.perf_counter() - began), "alone_s": alone}


if __name__ == "__main__":
    url, runs, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    DBOS(config={"name": "durability", "system_database_url": url, "log_level": "ERROR"})
    DBOS.launch()
    print(json.dumps(asyncio.run(measured(runs, steps))))
    DBOS.destroy()
