"""Shopify's and Stripe's REST, against a server of their forms."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from agents.workflows.shop.desk import ShopDesk
from cluster.errors import ConfigError, Conflict, NotFound, Unavailable
from tests.fakes import FakeClock

pytestmark = pytest.mark.enable_socket
API = "/admin/api/2025-01"


class Services:
    """What both hold; `status` other than 200 is what every write is answered with."""

    def __init__(self) -> None:
        self.products = {
            7: {"id": 7, "variants": [
                {"id": 71, "product_id": 7, "sku": "LAMP-01", "inventory_item_id": 711}]},
            9: {"id": 9, "variants": [
                {"id": 91, "product_id": 9, "sku": "RUG-01", "inventory_item_id": 911}]},
        }  # fmt: skip
        self.refunds: dict[str, dict[str, Any]] = {}
        self.writes: list[tuple[str, str, Any]] = []
        self.status = 200

    def answer(self, method: str, path: str, headers: Any, body: str) -> tuple[int, Any]:
        where = urlsplit(path)
        if where.path == "/v1/refunds":
            return self._refund(headers, body)
        if headers["X-Shopify-Access-Token"] != "shpat":
            return 401, {"errors": "[API] Invalid API key or access token"}
        if method == "GET":
            since = int(parse_qs(where.query)["since_id"][0])
            return 200, {"products": [p for i, p in self.products.items() if i > since][:1]}
        self.writes.append((method, where.path, json.loads(body)))
        return self.status, {} if self.status == 200 else {"errors": "no"}

    def _refund(self, headers: Any, body: str) -> tuple[int, Any]:
        if headers["Authorization"] != "Bearer sk":
            return 401, {"error": {"message": "Invalid API Key provided"}}
        if self.status != 200:
            return self.status, {"error": {"message": "charge already refunded"}}
        key = headers["Idempotency-Key"]
        asked = {name: values[0] for name, values in parse_qs(body).items()}
        made = {"id": f"re_{len(self.refunds)}", "object": "refund", **asked}
        return 200, self.refunds.setdefault(key, made)


@pytest.fixture
def services() -> Iterator[tuple[Services, str]]:
    held = Services()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            size = int(self.headers.get("content-length", 0))
            body = self.rfile.read(size).decode()
            status, told = held.answer(self.command, self.path, self.headers, body)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

        do_GET = do_POST = do_PUT = _answer

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield held, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def desk(
    services: tuple[Services, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ShopDesk]:
    monkeypatch.setenv("TOKEN", "shpat")
    monkeypatch.setenv("STRIPE", "sk")
    (tmp_path / "shop.yaml").write_text(
        f"shopify: {{url: {services[1]}, token_env: TOKEN, location: 5}}\n"
        f"stripe: {{url: {services[1]}, key_env: STRIPE}}\n"
    )
    made = ShopDesk(tmp_path, FakeClock())
    yield made
    made.close()


SALE = {
    "order": "O-1",
    "unit": "u",
    "paid_cents": 6490,
    "delivered": "2026-11-18",
    "payment": "pi_1",
}
NAMED = {"order": "O-1", "unit": "u"}


def test_what_is_done_here_is_done_there(desk: ShopDesk, services: tuple[Services, str]) -> None:
    held = services[0]
    desk.perform("describe", "k1", "RUG-01", {"text": "A rug\n<b>wool</b>"})
    desk.perform("sell", "k2", "LAMP-01", SALE)
    desk.perform("label", "k3", "LAMP-01", NAMED)
    paid = desk.perform("refund", "k4", "LAMP-01", {**NAMED, "amount_cents": 6490})
    desk.perform("restock", "k5", "LAMP-01", {**NAMED, "condition": "unopened"})
    assert paid["payment"] == "re_0"
    assert held.refunds == {
        "k4": {"id": "re_0", "object": "refund", "payment_intent": "pi_1", "amount": "6490"}
    }
    stock = desk.one("select stock from products where sku = 'LAMP-01'")
    assert stock is not None
    level = {"location_id": 5, "inventory_item_id": 711}
    assert held.writes == [
        ("PUT", f"{API}/products/9.json",
         {"product": {"id": 9, "body_html": "<p>A rug</p><p>&lt;b&gt;wool&lt;/b&gt;</p>"}}),
        ("POST", f"{API}/inventory_levels/set.json", {**level, "available": stock["stock"] - 1}),
        ("POST", f"{API}/inventory_levels/set.json", {**level, "available": stock["stock"]}),
    ]  # fmt: skip


def test_an_adopted_price_goes_there_in_euros_and_cents(
    desk: ShopDesk, services: tuple[Services, str]
) -> None:
    desk.perform("start", "k1", "RUG-01", {"price_cents": 20005, "needed": 10, "looks": 1})
    desk.perform("adopt", "k2", "RUG-01", {"experiment": "k1"})
    variant = {"variant": {"id": 91, "price": "200.05"}}
    assert services[0].writes == [("PUT", f"{API}/variants/91.json", variant)]


def test_a_refund_that_was_made_there_and_not_here_is_made_once(
    desk: ShopDesk, services: tuple[Services, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.perform("sell", "k1", "LAMP-01", SALE)
    desk.perform("label", "k2", "LAMP-01", NAMED)
    args = {**NAMED, "amount_cents": 100}
    refund = desk._outside.refund

    def power_cut(*given: Any) -> str:
        refund(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(desk._outside, "refund", power_cut)
    with pytest.raises(KeyboardInterrupt):
        desk.perform("refund", "k3", "LAMP-01", args)
    assert desk.find("k3") is None
    monkeypatch.undo()
    assert desk.perform("refund", "k3", "LAMP-01", args)["payment"] == "re_0"
    assert len(services[0].refunds) == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [(500, Unavailable), (429, Unavailable), (422, Conflict), (404, NotFound), (401, Conflict)],
)
def test_what_is_refused_there_is_not_done_here(
    desk: ShopDesk, services: tuple[Services, str], status: int, error: type[Exception]
) -> None:
    services[0].status = status
    with pytest.raises(error):
        desk.perform("describe", "k", "RUG-01", {"text": "x"})
    assert desk.find("k") is None
    row = desk.one("select copy from products where sku = 'RUG-01'")
    assert row == {"copy": ""}


def test_what_shopify_does_not_have_is_made_there_or_named(
    desk: ShopDesk, services: tuple[Services, str]
) -> None:
    with pytest.raises(NotFound, match="VASE-01"):
        desk.perform("describe", "k", "VASE-01", {"text": "x"})
    product = {
        "title": "new", "attributes": {"a": "b"}, "price_cents": 500, "cost_cents": 1,
        "floor_cents": 2, "ceiling_cents": 900, "currency": "EUR", "stock": 1,
    }  # fmt: skip
    desk.perform("put", "k2", "NEW-1", {"product": product})
    variants = [{"sku": "NEW-1", "price": "5.00"}]
    body = {"product": {"title": "new", "variants": variants}}
    assert services[0].writes == [("POST", f"{API}/products.json", body)]


def test_a_service_that_is_away_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "x")
    (tmp_path / "shop.yaml").write_text(
        "shopify: {url: http://127.0.0.1:1, token_env: TOKEN, location: 5}\n"
    )
    desk = ShopDesk(tmp_path, FakeClock())
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1"):
        desk.perform("describe", "k", "RUG-01", {"text": "x"})
    desk.close()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("shopify: {url: nowhere, token_env: T, location: 5}", "shopify.url"),
        ("shopify: {url: 'http://x', token_env: NOT_SET, location: 5}", "NOT_SET"),
        ("stripe: {}", "stripe.key_env"),
        ("paypal: {}", "paypal"),
        ("[", "YAML"),
    ],
)
def test_a_file_that_is_not_whole_stops_the_desk(tmp_path: Path, text: str, field: str) -> None:
    (tmp_path / "shop.yaml").write_text(text)
    with pytest.raises(ConfigError, match=field):
        ShopDesk(tmp_path, FakeClock())
