"""make bench-budgets: does a budget of one dollar hold under fire?

200 clients at once, half of them streaming, ask three gateway processes on one database, with one
key whose budget is a dollar; in the middle of each repeat one gateway is killed (SIGKILL) with its
requests under way. The engine is a stand-in that answers with a random number of tokens, so that
what is reserved is never what is used. A client that is told to come again does; it ends when
nothing is left that its request would fit into. ARGS="--database postgresql" for the other one.
"""

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import uvicorn
from aiohttp import web

from benchmarks import postgres
from benchmarks.report import Figure, write
from cluster.ids import SystemClock, SystemIds
from cluster.settings import AccountsSection, GatewaySection, ModelSection
from serve.books import Books
from serve.budget_table import Budget
from serve.budgets import NANO, Caller
from serve.catalog import Catalog
from serve.directory import Replica
from serve.gateway import build_app
from serve.listener import Listener
from serve.metering import Meter
from serve.router import Router

MAX_TOKENS = 200
DEADLINE_S = 3.0
MARGIN_S = 3.0  # a busy machine settles late, and what is settled later than this is not billed
TENANT = "bench"
MODEL = ModelSection(
    id="small", source="x", tier="routine", usd_per_mtok_in=0.5, usd_per_mtok_out=20.0,
    max_ongoing_requests=4096,
)  # fmt: skip


@dataclass
class Repeat:
    """One dollar: what the ledger says was spent and not billed, what clients were told they paid,
    how many answers and refusals there were, and how long it took. Dollars and seconds."""

    spent: float = 0.0
    unbilled: float = 0.0
    told: float = 0.0
    answers: int = 0
    refusals: int = 0
    lost: int = 0
    seconds: float = 0.0
    highest: float = 0.0


@dataclass
class Fleet:
    """Gateway processes; `urls` are those that may be asked."""

    data_dir: Path
    database: str
    engine: str
    processes: list[asyncio.subprocess.Process] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)

    async def add(self) -> None:
        """Start one more and wait until it listens."""
        words = ["--gateway", str(self.data_dir), self.database, self.engine]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.budgets",
            *words,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[1],
        )
        assert process.stdout is not None
        url = (await asyncio.wait_for(process.stdout.readline(), 120)).decode().strip()
        self.processes.append(process)
        self.urls.append(url)

    async def kill_one(self, chance: random.Random) -> None:
        """SIGKILL to one of them."""
        number = chance.randrange(len(self.processes))
        process = self.processes.pop(number)
        del self.urls[number]
        process.kill()
        await process.wait()

    async def end(self) -> None:
        for process in self.processes:
            process.kill()
            await process.wait()


async def serve_gateway(data_dir: Path, database: str, engine: str) -> None:
    """What a gateway process does: the real app on a port of its own, which it prints."""
    clock, ids = SystemClock(), SystemIds()
    section = AccountsSection(url=database, lease_margin_s=MARGIN_S)
    catalog = Catalog((MODEL,))
    meter = Meter(catalog)
    router = Router(catalog, lambda: [Replica("r1", "small", engine)], meter, clock, "secret")
    books = Books(section, data_dir, clock, ids)
    app = build_app(GatewaySection(), catalog, router, meter, books=books)
    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off", ws="none")
    server = Listener(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    print(f"http://127.0.0.1:{port}", flush=True)
    await task


@contextlib.asynccontextmanager
async def engine(chance: random.Random) -> AsyncIterator[str]:
    """The address of a stand-in for an engine."""

    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        out = chance.randint(1, body["max_tokens"])
        usage = {"prompt_tokens": 60, "completion_tokens": out, "total_tokens": 60 + out}
        await asyncio.sleep(chance.uniform(0.01, 0.1))
        if not body.get("stream"):
            return web.json_response({"choices": [], "usage": usage})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        with contextlib.suppress(ConnectionError):  # its gateway may just have been killed
            await stream(request, response, usage)
        return response

    async def stream(
        request: web.Request, response: web.StreamResponse, usage: dict[str, int]
    ) -> None:
        await response.prepare(request)
        await response.write(b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n')
        await asyncio.sleep(chance.uniform(0.01, 0.1))
        last = json.dumps({"choices": [], "usage": usage}).encode()
        await response.write(b"data: " + last + b"\n\ndata: [DONE]\n\n")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield str(site.name)
    finally:
        await runner.cleanup()


async def spend(
    fleet: Fleet, books: Books, http: aiohttp.ClientSession, clients: int, chance: random.Random
) -> Repeat:
    """Give a fresh key a dollar and let `clients` spend it; kill a gateway on the way."""
    made, key = await asyncio.to_thread(books.keyring.create, TENANT, "bench")
    dollar = Budget(TENANT, "key", made.account, "total", NANO)
    await asyncio.to_thread(books.budgets.put, dollar)
    repeat, began = Repeat(), time.monotonic()
    kill_at = chance.randint(clients // 2, 3 * clients // 2)
    headers = {"authorization": f"Bearer {key}"}
    killing: list[asyncio.Task[None]] = []

    async def client(stream: bool) -> None:
        while await _ask(fleet, http, headers, stream, repeat):
            if repeat.answers >= kill_at and not killing:
                killing.append(asyncio.create_task(_replace_one(fleet, chance)))

    async def watch() -> None:
        caller = Caller(TENANT, made.account)
        while True:
            (balance,) = await asyncio.to_thread(books.reservations.balances, caller)
            repeat.highest = max(repeat.highest, (balance.spent + balance.reserved) / NANO)
            await asyncio.sleep(0.1)

    watching = asyncio.create_task(watch())
    async with asyncio.timeout(180):
        await asyncio.gather(*(client(n % 2 == 0) for n in range(clients)))
    watching.cancel()
    repeat.seconds = time.monotonic() - began
    for task in killing:
        await task
    await asyncio.sleep(DEADLINE_S / 3)  # what streams used is settled behind their last byte
    (total,) = await asyncio.to_thread(books.ledger.sums, (), {"key": made.account})
    repeat.spent, repeat.unbilled = total.price_nano / NANO, total.unbilled_nano / NANO
    return repeat


async def _replace_one(fleet: Fleet, chance: random.Random) -> None:
    await fleet.kill_one(chance)
    await fleet.add()


async def _ask(
    fleet: Fleet, http: aiohttp.ClientSession, headers: dict[str, str], stream: bool, repeat: Repeat
) -> bool:
    """One request; whether it makes sense to ask again."""
    body = {
        "model": "small", "messages": [{"role": "user", "content": "hello"}], "stream": stream,
        "max_tokens": MAX_TOKENS, "stream_options": {"include_usage": True},
        "mainspring": {"deadline_ms": int(DEADLINE_S * 1000)},
    }  # fmt: skip
    if not stream:
        del body["stream_options"]
    url = f"{random.choice(fleet.urls)}/v1/chat/completions"
    try:
        async with http.post(url, json=body, headers=headers) as response:
            data = await response.read()
            status, told = response.status, response.headers
    except aiohttp.ClientError:
        repeat.lost += 1
        return True
    if status == 200:
        repeat.answers += 1
        cost = told.get("x-mainspring-cost-usd")
        repeat.told += float(cost) if cost else _cost_in(data)
        return True
    repeat.refusals += 1
    if status != 429:
        return True
    wait = int(told["retry-after"])
    if wait > 1:
        return False  # what is spent does not leave room for one more
    await asyncio.sleep(wait * random.uniform(0.5, 1.0))
    return True


def _cost_in(stream: bytes) -> float:
    for line in stream.split(b"\n\n"):
        if b'"cost_usd"' in line:
            return float(json.loads(line.removeprefix(b"data: "))["usage"]["cost_usd"])
    return 0.0


async def measure(
    database: str, data_dir: Path, *, repeats: int, clients: int, gateways: int, seed: int = 7
) -> list[Repeat]:
    """All repeats, on one fleet whose killed member is replaced each time."""
    chance = random.Random(seed)
    books = Books(
        AccountsSection(url=database, lease_margin_s=MARGIN_S), data_dir, SystemClock(), SystemIds()
    )
    done: list[Repeat] = []
    async with engine(chance) as address:
        fleet = Fleet(data_dir, database, address)
        connector = aiohttp.TCPConnector(limit=0)
        try:
            await asyncio.gather(*(fleet.add() for _ in range(gateways)))
            limit = aiohttp.ClientTimeout(total=60)
            async with aiohttp.ClientSession(connector=connector, timeout=limit) as http:
                for number in range(repeats):
                    done.append(await spend(fleet, books, http, clients, chance))
                    print(f"{number + 1:>3}  {asdict(done[-1])}", flush=True)
        finally:
            await fleet.end()
            await books.close()
    return done


@contextlib.contextmanager
def database_url(kind: str) -> Iterator[str]:
    """A database for one run of the benchmark."""
    if kind == "sqlite":
        yield "sqlite:///accounts.db"
        return
    with postgres.server(sync=True) as url:
        yield url


def figures(done: Sequence[Repeat]) -> list[Figure]:
    """What was promised, and what says how far it held."""
    return [
        Figure("most spent of 1 dollar", max(r.spent for r in done), 1.0, "at most"),
        Figure("least spent of 1 dollar", min(r.spent for r in done), 0.98, "at least"),
        Figure("most spent and reserved at once", max(r.highest for r in done), 1.0, "at most"),
        Figure("most that clients were told", max(r.told for r in done), 1.0, "at most"),
        Figure("most work not billed, dollars", max(r.unbilled for r in done)),
        Figure("requests lost in kills, mean", sum(r.lost for r in done) / len(done)),
        Figure("seconds a repeat, mean", sum(r.seconds for r in done) / len(done)),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateway", nargs=3, metavar=("DATA_DIR", "DATABASE", "ENGINE"))
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--gateways", type=int, default=3)
    given = parser.parse_args()
    if given.gateway:
        data_dir, database, address = given.gateway
        asyncio.run(serve_gateway(Path(data_dir), database, address))
        return 0
    with TemporaryDirectory() as folder, database_url(given.database) as url:
        done = asyncio.run(
            measure(
                url, Path(folder), repeats=given.repeats, clients=given.clients,
                gateways=given.gateways,
            )
        )  # fmt: skip
    load = (
        f"{given.repeats} repeats of {given.clients} clients at {given.gateways} gateways on "
        f"{given.database}, one gateway killed in each"
    )
    name = "budgets" if given.database == "sqlite" else "budgets-postgresql"
    return write(name, figures(done), load=load, details={"repeats": [asdict(r) for r in done]})


if __name__ == "__main__":
    sys.exit(main())
