"""The router's versions over HTTP: seen, measured, taken into use again; by administrators."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.ids import SystemClock, SystemIds
from cluster.settings import AccountsSection, GatewaySection
from serve.books import Books
from serve.keys import digest_of
from tests.gateways import Stack, serving
from tests.unit.test_predicted_routes import trained

__all__ = ["trained"]
KEY = "the administrator's"


@pytest.fixture
async def stack(trained: Path, tmp_path: Path) -> AsyncIterator[Stack]:
    heads = tmp_path / "router"
    shutil.copytree(trained, heads)
    shutil.copytree(trained / "1", heads / "2")
    books = Books(AccountsSection(), tmp_path, SystemClock(), SystemIds())
    section = GatewaySection(api_key_sha256=(digest_of(KEY),))
    cheap = {"usd_per_mtok_in": 0.1, "usd_per_mtok_out": 0.2}
    async with serving(section, small=cheap, books=books, heads=heads) as made:
        yield made
    await books.close()


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_quality_against_cost_is_told_with_its_interval(stack: Stack) -> None:
    async with stack.client.get(f"{stack.url}/v1/router", headers=bearer(KEY)) as answer:
        told = await answer.json()
    assert (answer.status, told["version"]) == (200, 1)
    assert [v["in_use"] for v in told["versions"]] == [True, False]
    curve = told["curve"]
    assert [p["price"] for p in curve] == sorted(p["price"] for p in curve) and len(curve) > 2
    assert curve[-1]["quality"] > curve[0]["quality"]


@pytest.mark.parametrize(
    ("body", "status"),
    [({"version": 2}, 200), ({"version": 3}, 400), ({"version": 0}, 400), ({}, 400),
     ({"version": "2"}, 400)],
)  # fmt: skip
async def test_a_version_is_taken_into_use(
    stack: Stack, body: dict[str, object], status: int
) -> None:
    address = f"{stack.url}/v1/router/use"
    async with stack.client.post(address, json=body, headers=bearer(KEY)) as answer:
        told = await answer.json()
    assert answer.status == status
    assert told.get("version", 1) == (2 if status == 200 else 1)


async def test_nobody_else_sees_or_moves_it(stack: Stack) -> None:
    async with stack.client.get(f"{stack.url}/v1/router", headers=bearer("wrong")) as answer:
        assert answer.status == 401
