"""Where the shop's products and payments are, beside its own records: Shopify and Stripe, by REST.

`shop.yaml` in the pack's folder (`DATA_DIR/packs/shop/`) names them; without it the shop is local.

    shopify: {url: https://SHOP.myshopify.com, token_env: SHOPIFY_TOKEN, location: 655441491}
    stripe: {url: https://api.stripe.com, key_env: STRIPE_KEY}

Each call may be made again: prices, texts and stock are set and never added to, and a refund
carries the effect's key as Stripe's Idempotency-Key. Forms as in Shopify's Admin API 2025-01 and
Stripe's API, tried against servers of these forms and not against the services themselves.
"""

import html
import os
from pathlib import Path
from typing import Any, Final, Protocol

import httpx
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.errors import ConfigError, Conflict, NotFound, Unavailable

FILE: Final = "shop.yaml"
_API: Final = "/admin/api/2025-01"
_TIMEOUT_S: Final = 4.0
_PAGES: Final = 100


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShopifySection(_Section):
    """A shop at Shopify; `token_env` is the environment variable that holds its access token."""

    url: str = Field(pattern=r"^https?://\S*[^/\s]$")
    token_env: str
    location: int


class StripeSection(_Section):
    """An account at Stripe; `key_env` is the environment variable that holds its secret key."""

    url: str = Field("https://api.stripe.com", pattern=r"^https?://\S*[^/\s]$")
    key_env: str


class Places(_Section):
    """What `shop.yaml` holds."""

    shopify: ShopifySection | None = None
    stripe: StripeSection | None = None


class Outside(Protocol):
    """Brings there what was changed here. NotFound or Conflict where it is refused, Unavailable
    where nobody answers; nothing is changed here then."""

    def product(self, product: dict[str, Any]) -> None:
        """Its title and its price."""

    def copy(self, sku: str, text: str) -> None:
        """What its page says."""

    def price(self, sku: str, cents: int) -> None:
        """What it costs."""

    def stock(self, sku: str, count: int) -> None:
        """How many there are."""

    def refund(self, key: str, payment: str, cents: int) -> str:
        """Pay back; the refund's id there, "" where nobody was asked."""


class Local:
    """A shop that is here and nowhere else."""

    def product(self, product: dict[str, Any]) -> None:
        """See `Outside`."""

    def copy(self, sku: str, text: str) -> None:
        """See `Outside`."""

    def price(self, sku: str, cents: int) -> None:
        """See `Outside`."""

    def stock(self, sku: str, count: int) -> None:
        """See `Outside`."""

    def refund(self, key: str, payment: str, cents: int) -> str:
        """See `Outside`."""
        return ""


class Services(Local):
    """Shopify, Stripe, or both."""

    def __init__(self, places: Places) -> None:
        """ConfigError when a variable that holds a credential is not set."""
        self._places = places
        self._variants: dict[str, dict[str, Any]] = {}
        if shopify := places.shopify:
            headers = {"X-Shopify-Access-Token": _secret(shopify.token_env)}
            self._shopify = httpx.Client(base_url=shopify.url, headers=headers, timeout=_TIMEOUT_S)
        if stripe := places.stripe:
            headers = {"Authorization": f"Bearer {_secret(stripe.key_env)}"}
            self._stripe = httpx.Client(base_url=stripe.url, headers=headers, timeout=_TIMEOUT_S)

    def product(self, product: dict[str, Any]) -> None:
        """See `Outside`. A product that Shopify does not have yet is made there."""
        if not self._places.shopify:
            return
        variant = self._variant(product["sku"])
        if variant is None:
            made = {"sku": product["sku"], "price": _money(product["price_cents"])}
            body = {"product": {"title": product["title"], "variants": [made]}}
            self._ask(self._shopify, "POST", f"{_API}/products.json", json=body)
            return
        body = {"product": {"id": variant["product_id"], "title": product["title"]}}
        self._ask(self._shopify, "PUT", f"{_API}/products/{variant['product_id']}.json", json=body)
        self.price(product["sku"], product["price_cents"])

    def copy(self, sku: str, text: str) -> None:
        """See `Outside`."""
        if self._places.shopify:
            id = self._known(sku)["product_id"]
            lines = "".join(f"<p>{html.escape(line)}</p>" for line in text.splitlines() if line)
            body = {"product": {"id": id, "body_html": lines}}
            self._ask(self._shopify, "PUT", f"{_API}/products/{id}.json", json=body)

    def price(self, sku: str, cents: int) -> None:
        """See `Outside`."""
        if self._places.shopify:
            id = self._known(sku)["id"]
            body = {"variant": {"id": id, "price": _money(cents)}}
            self._ask(self._shopify, "PUT", f"{_API}/variants/{id}.json", json=body)

    def stock(self, sku: str, count: int) -> None:
        """See `Outside`."""
        if shopify := self._places.shopify:
            body = {
                "location_id": shopify.location, "available": count,
                "inventory_item_id": self._known(sku)["inventory_item_id"],
            }  # fmt: skip
            self._ask(self._shopify, "POST", f"{_API}/inventory_levels/set.json", json=body)

    def refund(self, key: str, payment: str, cents: int) -> str:
        """See `Outside`. Conflict for a unit that no payment of Stripe's is known of."""
        if not self._places.stripe:
            return ""
        if not payment:
            raise Conflict("refund", "no payment of Stripe's is known of this unit")
        made = self._ask(
            self._stripe, "POST", "/v1/refunds", headers={"Idempotency-Key": key},
            data={"payment_intent": payment, "amount": str(cents)},
        )  # fmt: skip
        return str(made["id"])

    def _known(self, sku: str) -> dict[str, Any]:
        variant = self._variant(sku)
        if variant is None:
            raise NotFound("product at Shopify", sku)
        return variant

    def _variant(self, sku: str) -> dict[str, Any] | None:
        """Shopify does not look for a unit by its name: all are read, once, and again for one that
        is not among them."""
        if sku not in self._variants:
            since = 0
            for _ in range(_PAGES):
                query = {"limit": 250, "since_id": since, "fields": "id,variants"}
                page = self._ask(self._shopify, "GET", f"{_API}/products.json", params=query)
                for product in page["products"]:
                    since = product["id"]
                    self._variants |= {v["sku"]: v for v in product["variants"] if v.get("sku")}
                if not page["products"]:
                    break
        return self._variants.get(sku)

    def _ask(self, client: httpx.Client, method: str, path: str, **given: Any) -> dict[str, Any]:
        where = client.base_url.host
        try:
            answer = client.request(method, path, **given)
        except httpx.HTTPError as error:
            raise Unavailable(where, type(error).__name__) from error
        if answer.status_code >= 500 or answer.status_code == 429:
            raise Unavailable(where, f"HTTP {answer.status_code}")
        if answer.status_code == 404:
            raise NotFound(f"{where} {path}", given.get("json", {}))
        if answer.status_code >= 400:
            raise Conflict(f"{where} {path}", f"HTTP {answer.status_code}: {answer.text[:200]}")
        try:
            told: dict[str, Any] = answer.json()
        except ValueError:
            raise Unavailable(where, "an answer that is no JSON") from None
        return told


def outside_of(folder: Path) -> Outside:
    """What the pack's `folder` names. ConfigError, naming the field, for a file that is not whole,
    or where a credential is missing."""
    file = folder / FILE
    if not file.is_file():
        return Local()
    try:
        places = Places.model_validate(yaml.safe_load(file.read_text("utf-8")) or {})
    except (OSError, ValueError, yaml.YAMLError) as error:
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"{FILE}: {where}", first["input"], first["msg"]) from None
        raise ConfigError(FILE, str(file), f"readable YAML ({error})") from None
    return Services(places)


def _secret(variable: str) -> str:
    value = os.environ.get(variable, "")
    if not value:
        raise ConfigError(f"{FILE}: environment", variable, "a variable that is set")
    return value


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"
