"""Keys, limits and the ledger as clients see them: the real app, the real database."""

import asyncio
import hashlib
import hmac
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agents.listed import Page, RunsAsked
from cluster.ids import SystemClock, SystemIds
from cluster.settings import AccountsSection, GatewaySection
from serve import admission as module
from serve import doorkeeper, keys
from serve.books import Books
from serve.budget_table import Budget
from serve.budgets import NANO, Caller, Limits
from serve.keys import Keyring
from serve.ledger import Used
from tests.gateways import HELLO, FakeEngine, Stack, eventually, refusing, serving

CENT = NANO // 100
COST = 2_000_000  # what a fake engine's answer costs at the fake model's price: $0.002
BODY = {**HELLO, "max_tokens": 500}
OWN = "the stack's own"


@dataclass
class Bank:
    """A gateway with its books."""

    stack: Stack
    books: Books

    async def ask(self, key: str | None, **fields: Any) -> tuple[int, str, dict[str, str]]:
        """The status, the error's code or "" and the headers of a chat."""
        client = self.stack.client
        url = f"{self.stack.url}/v1/chat/completions"
        more = fields.pop("headers", {})
        headers = {**({"authorization": f"Bearer {key}"} if key else {}), **more}
        async with client.post(url, json={**BODY, **fields}, headers=headers) as response:
            told = {k.lower(): v for k, v in response.headers.items()}
            if response.status == 200:
                await response.read()
                return 200, "", told
            return response.status, (await response.json())["error"]["code"], told

    async def get(self, path: str, key: str | None = None) -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        async with self.stack.client.get(self.stack.url + path, headers=headers) as response:
            return response.status, await response.json()

    def key(self, **options: Any) -> tuple[str, str]:
        """A new key's account and text."""
        made, full = self.books.keyring.create(options.pop("tenant", "acme"), "test", **options)
        return made.account, full

    def allow(self, kind: Any, subject: str, nano: int, tenant: str = "acme") -> None:
        self.books.budgets.put(Budget(tenant, kind, subject, "total", nano))

    def spent(self) -> int:
        return self.books.ledger.sums()[0].price_nano

    def rows(self) -> int:
        return self.books.ledger.sums()[0].requests


@asynccontextmanager
async def banking(tmp_path: Path, *, room: int = 64, **section: Any) -> AsyncIterator[Bank]:
    books = Books(AccountsSection(), tmp_path, SystemClock(), SystemIds())
    given = GatewaySection(request_timeout_s=5.0, **section)
    async with serving(given, books=books, own_key=OWN, tenant="house", room=room) as stack:
        yield Bank(stack, books)
    await books.close()


@pytest.fixture
async def bank(tmp_path: Path) -> AsyncIterator[Bank]:
    async with banking(tmp_path) as made:
        yield made


@pytest.fixture(autouse=True)
def looked_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a gateway believes for a second is looked up each time."""
    monkeypatch.setattr(module, "FRESH_S", 0.0)
    monkeypatch.setattr(doorkeeper, "FRESH_S", 0.0)


async def test_loopback_is_the_development_tenant_until_a_key_is_made(bank: Bank) -> None:
    assert (await bank.ask(None))[0] == 200
    assert (await bank.ask("anything"))[0] == 200
    assert bank.books.ledger.sums(("tenant", "key"))[0].group == {
        "tenant": "house", "key": "development",
    }  # fmt: skip
    _, key = bank.key()
    assert (await bank.ask(None))[:2] == (401, "invalid_api_key")
    assert (await bank.ask("ms-0123456789abcdef-x"))[:2] == (401, "invalid_api_key")
    assert (await bank.ask(key))[0] == 200
    assert (await bank.ask(OWN))[0] == 200


async def test_revoked_key_opens_nothing(bank: Bank) -> None:
    account, key = bank.key()
    assert (await bank.ask(key))[0] == 200
    bank.books.keyring.revoke(account)
    assert (await bank.ask(key))[:2] == (401, "invalid_api_key")


async def test_a_key_opens_what_its_scopes_say(bank: Bank) -> None:
    _, key = bank.key(scopes=("models",))
    assert (await bank.get("/v1/models", key))[0] == 200
    for path, scope in (("/v1/runs", "agents"), ("/v1/memory", "memory"), ("/metrics", "admin")):
        status, body = await bank.get(path, key)
        assert (status, body["error"]["code"]) == (403, "insufficient_scope")
        assert body["error"]["type"] == "permission_error"
        assert scope in body["error"]["message"]
    _, other = bank.key(scopes=("memory",))
    assert (await bank.ask(other))[:2] == (403, "insufficient_scope")


async def test_wrong_key_does_the_work_of_a_right_one(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def counted(real: Any, name: str) -> Any:
        def call(*args: Any) -> Any:
            done.append(name)
            return real(*args)

        return call

    _, key = bank.key()
    monkeypatch.setattr(Keyring, "find", counted(Keyring.find, "find"))
    monkeypatch.setattr(keys, "digest_of", counted(keys.digest_of, "hash"))
    monkeypatch.setattr(hmac, "compare_digest", counted(hmac.compare_digest, "compare"))
    work = []
    for given in (key, key[:-1] + "~", f"ms-{'0' * 16}-{key[20:]}"):
        done.clear()
        await bank.ask(given)
        work.append(list(done))
    assert work[0] == work[1] == work[2] == ["compare", "find", "hash", "compare"]


async def test_budget_is_spent_and_then_refuses_with_when_to_come_again(bank: Bank) -> None:
    account, key = bank.key()
    bank.allow("key", account, 7 * COST)
    answers = [await bank.ask(key) for _ in range(9)]
    good = [a for a in answers if a[0] == 200]
    assert good[0][2]["x-mainspring-cost-usd"] == "0.002000000"
    status, code, headers = answers[-1]
    assert (status, code) == (429, "budget_exceeded")
    assert int(headers["retry-after"]) > 60
    # A prompt of a thousand tokens was the fake's answer to a body of a hundred bytes: more than
    # the reservation, and yet never more than the budget.
    assert bank.spent() <= 7 * COST
    assert bank.spent() >= 5 * COST


async def test_concurrent_requests_do_not_pass_a_budget_together(bank: Bank) -> None:
    account, key = bank.key()
    bank.allow("key", account, 10 * COST)
    # The fake engine uses more than was reserved: what no budget has room for is withheld.
    expected = {(200, ""), (429, "budget_exceeded"), (429, "answer_withheld")}
    held = 0
    for _ in range(5):
        answers = await asyncio.gather(*(bank.ask(key) for _ in range(20)))
        assert {a[:2] for a in answers} <= expected
        held += sum(COST for a in answers if a[0] == 200)
        assert held <= bank.spent() <= 10 * COST
    assert bank.spent() >= 8 * COST


async def test_failed_requests_cost_nothing(bank: Bank) -> None:
    account, key = bank.key()
    bank.allow("key", account, 2 * COST)
    bank.stack.small.behave = refusing(500)
    for _ in range(2):  # one more would open the engine's circuit
        assert (await bank.ask(key))[0] == 503
    bank.stack.small.behave = None
    assert (await bank.ask(key))[0] == 200
    assert bank.rows() == 1


@pytest.mark.parametrize("kind", ["agent", "run"])
async def test_agents_and_runs_have_budgets_of_their_own(bank: Bank, kind: str) -> None:
    bank.allow(kind, "one", 2 * COST)
    who = {"x-mainspring-tenant": "acme", "x-mainspring-workflow": "support"}
    own = [await bank.ask(OWN, headers={**who, f"x-mainspring-{kind}": "one"}) for _ in range(3)]
    assert [a[0] for a in own] == [200, 200, 429]
    other = await bank.ask(OWN, headers={**who, f"x-mainspring-{kind}": "two"})
    assert other[0] == 200
    sums = bank.books.ledger.sums((kind, "tenant", "workflow"))
    assert {(s.group[kind], s.group["tenant"], s.group["workflow"]) for s in sums} == {
        ("one", "acme", "support"), ("two", "acme", "support"),
    }  # fmt: skip


async def test_only_the_stacks_own_agents_speak_for_other_tenants(bank: Bank) -> None:
    _, key = bank.key()
    await bank.ask(key, headers={"x-mainspring-tenant": "rich"})
    assert bank.books.ledger.sums(("tenant",))[0].group == {"tenant": "acme"}


async def test_whole_stream_is_paid_before_its_client_has_it(bank: Bank) -> None:
    account, key = bank.key()
    bank.allow("key", account, 10 * COST)
    assert (await bank.ask(key, stream=True))[0] == 200
    assert bank.spent() == COST


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_whose_lease_ran_out_and_whose_money_is_gone_is_withheld(
    bank: Bank, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    account, key = bank.key()
    bank.allow("key", account, COST)
    settle = bank.books.admission._reservations.settle  # type: ignore[union-attr]

    def late(id: str, caller: Caller, used: Used | None) -> int:
        """Others have spent it all by the time that this request is settled."""
        settle(id, caller, None)
        settle("another", caller, Used("r2", "small", 200, 1, 1, COST))
        return settle(id, caller, used)

    monkeypatch.setattr(bank.books.admission._reservations, "settle", late)
    url, headers = f"{bank.stack.url}/v1/chat/completions", {"authorization": f"Bearer {key}"}
    body = {**BODY, "max_tokens": 5, "stream": stream}
    async with bank.stack.client.post(url, json=body, headers=headers) as response:
        text = await response.text()
        assert response.status == (200 if stream else 429)
    assert "answer_withheld" in text and "[DONE]" not in text
    assert bank.spent() == COST


async def test_stream_whose_client_left_is_charged_for_what_came(bank: Bank) -> None:
    account, key = bank.key(limits=Limits(max_streams=1))
    bank.allow("key", account, 10 * COST)
    engine: FakeEngine = bank.stack.small
    engine.behave = lambda request, _: engine.stream(request, tokens=1000, pause=0.02)
    url, headers = f"{bank.stack.url}/v1/chat/completions", {"authorization": f"Bearer {key}"}
    response = await bank.stack.client.post(url, json={**BODY, "stream": True}, headers=headers)
    await response.content.readany()
    assert (await bank.ask(key, stream=True))[:2] == (429, "rate_limited")
    response.close()
    await eventually(lambda: bank.rows() == 1)
    assert 0 < bank.spent() < COST
    engine.behave = None
    assert (await bank.ask(key, stream=True))[0] == 200


async def test_rates_are_refused_with_when_to_come_again(bank: Bank) -> None:
    _, key = bank.key(limits=Limits(requests_per_minute=3))
    answers = [await bank.ask(key) for _ in range(4)]
    assert [a[0] for a in answers] == [200, 200, 200, 429]
    assert answers[-1][1] == "rate_limited"
    assert 30 <= int(answers[-1][2]["retry-after"]) <= 61


async def test_usage_is_told_to_who_used_it(bank: Bank) -> None:
    (account, key), (_, boss) = bank.key(), bank.key(scopes=("models", "admin"))
    _, stranger = bank.key(tenant="other", scopes=("admin",))
    await bank.ask(key)
    await bank.ask(boss, model="big")
    status, mine = await bank.get("/v1/usage", key)
    assert status == 200
    assert [(r["model"], r["requests"], r["cost_usd"]) for r in mine["data"]] == [
        ("small", 1, 0.002)
    ]
    _, ours = await bank.get("/v1/usage?by=key,model&since=2026-01-01", boss)
    assert {(r["key"], r["model"]) for r in ours["data"]} >= {(account, "small")}
    assert len(ours["data"]) == 2
    _, theirs = await bank.get("/v1/usage?by=tenant&tenant=acme", stranger)
    assert theirs["data"] == []
    for bad in ("by=price", "since=yesterday", "limit=0", "day=3"):
        status, body = await bank.get(f"/v1/usage?{bad}", boss)
        assert (status, body["error"]["param"]) == (400, bad.partition("=")[0])


async def test_first_administrator_comes_by_the_settings(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"boss").hexdigest()
    async with banking(tmp_path, api_key_sha256=(digest,)) as bank:
        assert (await bank.ask(None))[:2] == (401, "invalid_api_key")
        assert (await bank.ask("boss"))[0] == 200
        _, key = bank.key()
        assert (await bank.ask(key))[0] == 200


async def test_limits_that_cannot_be_looked_up_are_not_passed(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster.errors import Unavailable

    def broken(*_: Any) -> Any:
        raise Unavailable("database", "gone")

    account, key = bank.key()
    bank.allow("key", account, 10 * COST)
    monkeypatch.setattr(bank.books.admission._reservations, "reserve", broken)
    status, code, headers = await bank.ask(key)
    assert (status, code) == (503, "unavailable")
    assert "retry-after" in headers
    assert bank.stack.small.seen == []


class Clerk:
    """An office without runs; `asked` is what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    async def ask(self, method: str, *args: Any, timeout_s: float = 5.0) -> Any:
        self.asked.append((method, *args))
        return {"metrics": b"", "list_runs": Page(())}.get(method, [])


async def test_runs_and_agents_are_those_of_the_keys_tenant(tmp_path: Path) -> None:
    clerk = Clerk()
    books = Books(AccountsSection(), tmp_path, SystemClock(), SystemIds())
    async with serving(GatewaySection(), books=books, office=clerk, tenant="house") as stack:
        bank = Bank(stack, books)
        assert (await bank.get("/v1/runs"))[0] == 200
        _, key = bank.key(scopes=("agents",), tenant="acme")
        assert (await bank.get("/v1/runs", key))[0] == 200
        assert (await bank.get("/v1/agents", key))[0] == 200
    await books.close()
    assert [call[:2] for call in clerk.asked] == [
        ("list_runs", RunsAsked(tenant="house")), ("list_runs", RunsAsked(tenant="acme")),
        ("list_agents", "acme"),
    ]  # fmt: skip


async def test_a_stream_has_its_times_in_the_ledger(bank: Bank, tmp_path: Path) -> None:
    _, key = bank.key()
    assert (await bank.ask(key, stream=True))[0] == 200
    with sqlite3.connect(tmp_path / "accounts.db") as ledger:
        query = "SELECT gateway_s, first_s, engine_s, inter_token_s FROM usage_rows"
        ((gateway_s, first_s, engine_s, inter_token_s),) = ledger.execute(query)
    ledger.close()
    assert 0 < gateway_s < first_s <= gateway_s + engine_s
    assert 0 < inter_token_s < engine_s


async def test_feedback_is_kept_once_for_a_request_of_ones_own_tenant(bank: Bank) -> None:
    _, mine = bank.key(scopes=("models", "admin"))
    _, other = bank.key(tenant="other", scopes=("models",))
    request_id = (await bank.ask(mine))[2]["x-request-id"]

    async def say(key: str, **said: Any) -> tuple[int, Any]:
        url, headers = f"{bank.stack.url}/v1/feedback", {"authorization": f"Bearer {key}"}
        body = {"request_id": request_id, **said}
        async with bank.stack.client.post(url, json=body, headers=headers) as response:
            return response.status, await response.json()

    for _ in range(2):
        status, body = await say(mine, verdict="accepted", score=0.9)
        assert (status, body["model"], body["verdict"]) == (200, "small", "accepted")
    assert (await say(mine, verdict="rejected"))[0] == 200
    for key, said in ((other, {}), (mine, {"request_id": "req_unknown"})):
        assert (await say(key, verdict="accepted", **said))[0] == 404
    for wrong in ({}, {"verdict": "fine"}, {"score": 2.0}, {"verdict": "accepted", "text": "x"}):
        status, body = await say(mine, **wrong)
        assert (status, body["error"]["code"]) == (400, "invalid_value")
    status, listed = await bank.get("/v1/feedback", mine)
    (row,) = listed["data"]
    assert status == 200
    assert (row["request_id"], row["verdict"], row["score"]) == (request_id, "rejected", None)
    assert (row["tokens_in"], row["route"]) == (1000, "small")
    assert (await bank.get("/v1/feedback", other))[0] == 403
