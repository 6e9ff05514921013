"""Shop operations on the real orchestrator, policy, journal and desk; the model is scripted."""

from functools import partial
from typing import Any

import pytest

from agents.host import Workflow
from agents.packs import PackParts
from agents.state import RunState
from agents.workflows.shop.workflow import PACK
from cluster.errors import InvalidInput
from cluster.ids import SystemClock
from tests.fakes import ListRecaller, ScriptedChat
from tests.world import Crash, World, Worlds

LAMP, RUG, CLOCK = "LAMP-01", "RUG-01", "CLOCK-01"
LEAD = "newsletter: Hi there! (E1) The oak stool is made of solid oak."
RETURN = {"task": "return", "subject": LAMP, "order": "LO-48213", "unit": "LAMP-01-1000"}


def _parts(*lines: str | Exception) -> PackParts:
    chat = ScriptedChat({"routine": list(lines) or ["NO_ANSWER"]})
    return PackParts(chat, ListRecaller(), "planner", "routine", 5.0, SystemClock())  # type: ignore[arg-type]


@pytest.fixture
def usual_work() -> Workflow:
    return partial(PACK.worked, parts=_parts())


def _world(worlds: Worlds, *lines: str | Exception, **section: Any) -> World:
    work = partial(PACK.worked, parts=_parts(*lines))
    return worlds.make(others={"shop": work}, **{"packs": ("shop",), **section})


async def _ended(world: World, key: str = "k", **given: Any) -> RunState:
    asked = PACK.read(given)
    agent = f"shop/{asked['subject']}"
    run = await world.orchestrator.submit("default", key, "shop", agent, asked)
    (state,) = await world.ended(run)
    return state


def _told(state: RunState) -> tuple[str, str]:
    assert state.ended is not None
    return state.ended.decision, state.ended.reason


# --- copy


async def test_copy_is_written_from_the_attributes_with_a_lead_that_holds(worlds: Worlds) -> None:
    world = _world(worlds, LEAD)
    state = await _ended(world, task="copy", subject="STOOL-01", tone="friendly")
    assert _told(state) == ("written", "lead by routine")
    product = world.desk("shop").one("select copy from products where sku = 'STOOL-01'")
    assert product["copy"].splitlines()[:2] == [
        "Oak stool", "Hi there! The oak stool is made of solid oak.",
    ]  # fmt: skip
    assert "- guarantee: 5 years" in product["copy"]


@pytest.mark.parametrize(
    "said",
    [
        "newsletter: (E1) The oak stool is made of solid walnut from Sweden.",
        "newsletter: (E2) The oak stool is 99 cm high.",
        "NO_ANSWER",
        "",
    ],
)
async def test_a_lead_that_is_in_no_attribute_is_left_out(worlds: Worlds, said: str) -> None:
    world = _world(worlds, said)
    state = await _ended(world, task="copy", subject="STOOL-01")
    assert _told(state) == ("written", "lead by the attributes alone")
    assert state.ended is not None and state.ended.result["left_out"]
    text = world.desk("shop").one("select copy from products where sku = 'STOOL-01'")["copy"]
    assert "walnut" not in text and "99" not in text
    assert "- material: solid oak" in text


# --- prices


async def test_a_price_is_tried_looked_at_and_adopted_when_it_wins(worlds: Worlds) -> None:
    world = _world(worlds)
    price = _price(world, RUG)
    started = await _ended(world, "1", task="price", subject=RUG, price_cents=price * 11 // 10)
    assert _told(started)[0] == "started"
    needed = started.receipts["start"]["experiment"] and started.decisions["start"].args["needed"]
    few = {"visitors": needed // 10, "buyers": 5}
    waits = await _ended(
        world, "2", task="look", subject=RUG, traffic={"control": few, "candidate": few}
    )
    assert _told(waits)[0] == "goes_on"
    assert _price(world, RUG) == price  # while it is tried, the usual price stays
    many = {"control": _arm(needed, 0.05), "candidate": _arm(needed, 0.08)}
    won = await _ended(world, "3", task="look", subject=RUG, traffic=many)
    assert _told(won)[0] == "adopted"
    assert _price(world, RUG) == price * 11 // 10
    again = await _ended(world, "4", task="look", subject=RUG)
    assert _told(again) == ("refused", "no price of it is being tried")


async def test_a_price_that_does_worse_is_rolled_back_by_itself(worlds: Worlds) -> None:
    world = _world(worlds)
    price = _price(world, RUG)
    await _ended(world, "1", task="price", subject=RUG, price_cents=price * 11 // 10)
    needed = world.desk("shop").one("select needed from experiments")["needed"]
    bad = {"control": _arm(needed // 2, 0.06), "candidate": _arm(needed // 2, 0.02)}
    lost = await _ended(world, "2", task="look", subject=RUG, traffic=bad)
    assert _told(lost)[0] == "rolled_back"
    assert _told(lost)[1].startswith("worse")
    assert _price(world, RUG) == price
    assert world.desk("shop").one("select state from experiments")["state"] == "rolled back"


async def test_guard_rails_of_prices(worlds: Worlds) -> None:
    world = _world(worlds)
    product = world.desk("shop").one("select * from products where sku = ?", RUG)
    floor, now, ceiling = (product[f"{n}_cents"] for n in ("floor", "price", "ceiling"))
    below = await _ended(world, "1", task="price", subject=RUG, price_cents=floor - 1)
    assert _told(below) == ("denied", "start: the price is below the product's floor "
                                      "[shop-below-floor]")  # fmt: skip
    far = await _ended(world, "2", task="price", subject=RUG, price_cents=now * 12 // 10)
    assert "[shop-large-step]" in _told(far)[1]
    same = await _ended(world, "3", task="price", subject=RUG, price_cents=now)
    assert "[shop-same-price]" in _told(same)[1]
    under_cost = await _ended(world, "4", task="price", subject=RUG, price_cents=1)
    assert _told(under_cost)[0] == "refused"
    assert "prices above the cost" in _told(under_cost)[1]
    trusted = await _ended(
        _trusted(worlds), "5", task="price", subject=RUG, price_cents=ceiling * 2
    )
    assert _told(trusted)[0] == "started"
    assert trusted.receipts["start"]["price_cents"] == ceiling


async def test_one_experiment_at_a_time(worlds: Worlds) -> None:
    world = _world(worlds)
    price = _price(world, RUG)
    await _ended(world, "1", task="price", subject=RUG, price_cents=price + 100)
    second = await _ended(world, "2", task="price", subject=RUG, price_cents=price - 100)
    assert "[shop-one-experiment]" in _told(second)[1]


async def test_counts_never_fall_and_belong_to_the_experiment(worlds: Worlds) -> None:
    world = _world(worlds)
    await _ended(world, "1", task="price", subject=RUG, price_cents=_price(world, RUG) + 100)
    first = {"control": _arm(50, 0.1), "candidate": _arm(50, 0.1)}
    fewer = {"control": _arm(40, 0.1), "candidate": _arm(50, 0.1)}
    await _ended(world, "2", task="look", subject=RUG, traffic=first)
    refused = await _ended(world, "3", task="look", subject=RUG, traffic=fewer)
    assert _told(refused)[0] == "refused"
    assert "40 are fewer than the 50 before" in _told(refused)[1]


# --- returns


async def test_a_unit_comes_back_and_its_trail_says_how(worlds: Worlds) -> None:
    world = _world(worlds)
    stock = _stock(world, LAMP)
    state = await _ended(world, **RETURN, condition="unopened")
    assert _told(state) == ("returned", "6490 cents paid back")
    assert state.ended is not None
    result = state.ended.result
    assert (result["state"], result["stock"]) == ("restocked", stock + 1)
    assert [t["what"] for t in result["trail"]] == [
        "a label was made for its return", "6490 cents were paid back", "came back unopened",
    ]  # fmt: skip


async def test_a_return_waits_for_who_unpacks_it(worlds: Worlds) -> None:
    world = _world(worlds)
    run = await world.orchestrator.submit("default", "k", "shop", "shop/x", PACK.read(RETURN))
    await world.until(lambda: "after append wait_begun arrived" in world.trace)
    await world.orchestrator.signal(run, "arrived", {"condition": "opened"}, "ines")
    (state,) = await world.ended(run)
    assert _told(state)[0] == "returned"
    assert state.ended is not None and state.ended.result["state"] == "second"


async def test_what_was_damaged_is_asked_of_a_person(worlds: Worlds) -> None:
    world = _world(worlds)
    state = await _ended(world, **RETURN, condition="damaged")
    assert _told(state)[0] == "denied"
    assert "[shop-refund-damaged]" in _told(state)[1]
    assert world.desk("shop").one("select state from units where unit = 'LAMP-01-1000'") == {
        "state": "labelled"
    }


async def test_two_returns_of_one_unit_pay_once(worlds: Worlds) -> None:
    world = _world(worlds)
    first = await _ended(world, "1", **RETURN, condition="unopened")
    second = await _ended(world, "2", **RETURN, condition="unopened")
    assert _told(first)[0] == "returned"
    assert _told(second) == ("denied", "label: no rule allows shop.label here [default-deny]")
    paid = world.desk("shop").all("select * from movements where what like '%paid back%'")
    assert len(paid) == 1


async def test_late_foreign_and_unknown_units_are_not_taken_back(worlds: Worlds) -> None:
    world = _world(worlds)
    late = world.desk("shop").one("select * from units where sku = 'RUG-02'")
    named = {"order": late["order_id"], "unit": late["unit"], "condition": "unopened"}
    over = await _ended(world, "1", task="return", subject="RUG-02", **named)
    assert "[shop-late]" in _told(over)[1]
    foreign = await _ended(world, "2", task="return", subject=LAMP, **named)
    assert "[default-deny]" in _told(foreign)[1]
    unknown = await _ended(
        world, "3", task="return", subject=LAMP, order="LO-1", unit="x", condition="opened"
    )
    assert _told(unknown)[0] == "refused"


async def test_a_sale_takes_from_stock_until_there_is_none(worlds: Worlds) -> None:
    world = _world(worlds)
    stock = _stock(world, CLOCK)
    sale = {"task": "sale", "subject": CLOCK, "order": "LO-9", "paid_cents": 5000}
    for number in range(stock):
        sold = await _ended(world, f"{number}", **sale, unit=f"u{number}", delivered="2026-11-20")
    assert _told(sold) == ("sold", "0 left")
    none = await _ended(world, "more", **sale, unit="more", delivered="2026-11-20")
    assert _told(none) == ("refused", "sell: product CLOCK-01: there is none in stock")
    assert _stock(world, CLOCK) == 0


# --- rounds, autonomy, crashes


async def test_a_round_does_what_is_open_by_unit_of_stock(worlds: Worlds) -> None:
    world = _world(worlds)
    price = _price(world, RUG)
    await _ended(world, "1", task="price", subject=RUG, price_cents=price + 100)
    state = await _ended(world, "2")
    assert _told(state) == ("done", "13 done")
    assert state.ended is not None
    tasks = [row["task"] for row in state.ended.result["done"]]
    assert (tasks.count("copy"), tasks.count("look")) == (12, 1)
    assert world.desk("shop").all("select 1 from products where copy = ''") == []
    again = await _ended(world, "3")
    assert _told(again) == ("done", "1 done")


async def test_without_trust_every_effect_asks(worlds: Worlds) -> None:
    world = _world(worlds, autonomy={"*": 0})
    state = await _ended(world, task="copy", subject=LAMP)
    assert "[shop-proposes-only]" in _told(state)[1]
    assert world.desk("shop").effects() == []


POINTS = [
    f"{side} {what}"
    for what in (
        *(f"connector shop.{t}" for t in ("unit", "label", "refund", "restock")),
        *(f"append step_decided {s}+effect_started {s}" for s in ("label", "refund", "restock")),
        *(f"append effect_done {s}" for s in ("label", "refund", "restock", "unit:labelled")),
        "append run_ended",
    )
    for side in ("before", "after")
]


@pytest.mark.parametrize("point", POINTS)
async def test_after_a_crash_at_any_point_a_return_is_done_once(worlds: Worlds, point: str) -> None:
    world = _world(worlds)
    stock = _stock(world, LAMP)
    world.faults[point] = [Crash()]
    await world.orchestrator.submit(
        "default", "k", "shop", "shop/LAMP-01", PACK.read({**RETURN, "condition": "unopened"})
    )
    await world.until(lambda: world.dead)
    await world.stop()
    world.start()
    state = await _ended(world, **RETURN, condition="unopened")
    assert _told(state) == ("returned", "6490 cents paid back")
    kinds = [e["kind"] for e in world.desk("shop").effects()]
    assert kinds == ["label", "refund", "restock"]
    assert _stock(world, LAMP) == stock + 1


# --- bad input


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"task": "price", "subject": RUG, "price_cents": 0}, "price_cents"),
        ({"task": "price", "subject": RUG, "price_cents": -5}, "price_cents"),
        ({"task": "price", "subject": "a b", "price_cents": 5}, "subject"),
        ({"task": "return", "subject": RUG, "order": "", "unit": "x"}, "order"),
        ({"task": "return", "subject": RUG, "order": "o", "unit": "x", "condition": "ok"},
         "condition"),
        ({"task": "dance"}, "input"),
        ({"task": "copy", "subject": RUG, "extra": 1}, "extra"),
        ({"task": "look", "subject": RUG, "traffic": {
            "control": {"visitors": 1, "buyers": 2}, "candidate": {"visitors": 1, "buyers": 0}}},
         "control"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_its_field(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        PACK.read(given)


@pytest.mark.parametrize(
    "changes",
    [
        {"stock": -1}, {"price_cents": 0}, {"floor_cents": 9000}, {"attributes": {}},
        {"cost_cents": 5000}, {"title": ""}, {"currency": "euro"},
    ],
)  # fmt: skip
def test_a_product_that_is_not_whole_is_refused(changes: dict[str, Any]) -> None:
    whole = {
        "task": "put", "subject": "NEW-1", "title": "<script>alert(1)</script> \u202elamp",
        "attributes": {"material": "oak"}, "price_cents": 5000, "cost_cents": 2000,
        "floor_cents": 4000, "ceiling_cents": 6000, "stock": 1,
    }  # fmt: skip
    assert PACK.read(whole)["title"] == whole["title"]
    with pytest.raises(InvalidInput, match=r"input"):
        PACK.read({**whole, **changes})


def _arm(visitors: int, rate: float) -> dict[str, int]:
    return {"visitors": visitors, "buyers": round(visitors * rate)}


def _trusted(worlds: Worlds) -> World:
    return _world(worlds, autonomy={"*": 3})


def _price(world: World, sku: str) -> int:
    return int(world.desk("shop").one("select price_cents from products where sku = ?", sku)[
        "price_cents"
    ])  # fmt: skip


def _stock(world: World, sku: str) -> int:
    return int(world.desk("shop").one("select stock from products where sku = ?", sku)["stock"])
