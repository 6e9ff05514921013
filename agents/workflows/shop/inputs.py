"""What the shop's workflow is asked: one task a run, on one unit of stock (`subject`) or all."""

from datetime import date
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

Sku = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")]
Name = Annotated[str, Field(min_length=1, max_length=60)]
Cents = Annotated[int, Field(gt=0, le=100_000_000)]
Condition = Literal["unopened", "opened", "damaged"]
EVERYTHING: Final = "shop"
"""The subject of a round, which is about all of it."""


class _Asked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Round(_Asked):
    """Do what is open: write what has no copy, look at what is tried."""

    task: Literal["round"] = "round"
    subject: Literal["shop"] = "shop"


class Put(_Asked):
    """Add a product, or change it."""

    task: Literal["put"]
    subject: Sku
    title: str = Field(min_length=1, max_length=120)
    attributes: dict[Name, Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        min_length=1, max_length=20
    )
    price_cents: Cents
    cost_cents: int = Field(ge=0)
    floor_cents: Cents
    ceiling_cents: Cents
    currency: str = Field("EUR", pattern=r"^[A-Z]{3}$")
    stock: int = Field(ge=0, le=1_000_000)

    @model_validator(mode="after")
    def _is_between(self) -> "Put":
        if not self.cost_cents < self.floor_cents <= self.price_cents <= self.ceiling_cents:
            raise ValueError("cost_cents < floor_cents <= price_cents <= ceiling_cents must hold")
        return self


class Sale(_Asked):
    """Write down that a unit was sold. `payment` is Stripe's id of it, where that is used."""

    task: Literal["sale"]
    subject: Sku
    order: Name
    unit: Name
    paid_cents: Cents
    delivered: date
    payment: str = Field("", max_length=120)


class Copy(_Asked):
    """Write the product's copy from its attributes."""

    task: Literal["copy"]
    subject: Sku
    tone: Literal["warm", "friendly", "factual", "formal", "calm"] = "factual"


class Price(_Asked):
    """Try another price. `least_lift` is the smallest gain in margin a visitor, as a share, that
    is worth finding; `looks` is how often it is looked at on the way."""

    task: Literal["price"]
    subject: Sku
    price_cents: Cents
    least_lift: float = Field(0.25, gt=0, le=2)
    looks: int = Field(4, ge=1, le=20)


class Counted(_Asked):
    """Visitors and buyers since the experiment began."""

    visitors: int = Field(ge=0, le=1_000_000_000)
    buyers: int = Field(ge=0)

    @model_validator(mode="after")
    def _fits(self) -> "Counted":
        if self.buyers > self.visitors:
            raise ValueError(f"buyers must be at most visitors, {self.visitors}")
        return self


class Traffic(_Asked):
    """What the storefront counted at today's price and at the one that is tried."""

    control: Counted
    candidate: Counted


class Look(_Asked):
    """Look at an experiment, with new counts if there are any."""

    task: Literal["look"]
    subject: Sku
    traffic: Traffic | None = None


class Return(_Asked):
    """Take a unit back. Without a `condition` the run waits for the signal `arrived` with it."""

    task: Literal["return"]
    subject: Sku
    order: Name
    unit: Name
    condition: Condition | None = None
    reason: str = Field("", max_length=500)


def _task(given: Any) -> str:
    return str(given.get("task", "round")) if isinstance(given, dict) else str(given.task)


Asked = Annotated[
    Annotated[Round, Tag("round")]
    | Annotated[Put, Tag("put")]
    | Annotated[Sale, Tag("sale")]
    | Annotated[Copy, Tag("copy")]
    | Annotated[Price, Tag("price")]
    | Annotated[Look, Tag("look")]
    | Annotated[Return, Tag("return")],
    Discriminator(
        _task,
        custom_error_type="task",
        custom_error_message="a task: round, put, sale, copy, price, look or return",
    ),
]
