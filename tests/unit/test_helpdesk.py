"""The help-desk does each effect once and lets nothing personal out."""

import json
import pickle
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agents.desk_file import day, money
from agents.helpdesk import HelpDesk
from agents.workflows import prompts
from cluster.errors import Conflict, DataError, InvalidInput, NotFound

DESK: dict[str, list[dict[str, Any]]] = {
    "customers": [
        {
            "id": "C-1",
            "name": "Anna Weber",
            "email": "anna@example.com",
            "phone": "+49 30 23125 104",
            "address": "Lindenstraße 4, 50674 Köln",
            "since": "2024-03-08",
        },
        {
            "id": "C-2",
            "name": "Tom Marsh",
            "email": "tom@example.com",
            "phone": "+44 20 7946 0123",
            "address": "12 Baker Street, London NW1 6XE",
            "since": "2025-01-02",
        },
    ],
    "orders": [
        {
            "id": "LO-10001",
            "customer": "C-1",
            "item": "oak side table",
            "total_cents": 2490,
            "currency": "EUR",
            "status": "shipped",
            "ordered": "2026-05-12",
            "shipped": "2026-05-13",
            "expected": "2026-05-18",
            "tracking": "LX123456789DE",
        },
        {
            "id": "LO-10002",
            "customer": "C-1",
            "item": "wall clock",
            "total_cents": 5000,
            "currency": "EUR",
            "status": "delivered",
            "ordered": "2026-04-01",
            "refunded_cents": 1000,
        },
        {
            "id": "LO-20001",
            "customer": "C-2",
            "item": "vase",
            "total_cents": 900,
            "currency": "EUR",
            "status": "processing",
            "ordered": "2026-05-20",
        },
    ],
}
BODY = "It is late. Call 030 23125104 or write to anna@example.com. Anna Weber, Lindenstraße 4"


class FixedClock:
    def now(self) -> float:
        return 1_795_000_000.5

    def monotonic(self) -> float:
        return 0.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "desk.json").write_text(json.dumps(DESK), encoding="utf-8")
    return tmp_path


@pytest.fixture
def desk(folder: Path) -> Iterator[HelpDesk]:
    desk = HelpDesk(folder / "state" / "desk.db", FixedClock())
    desk.seed(folder)
    desk.open_ticket("T-1", "C-1", "Where is LO-10001?", BODY, "2026-05-20T08:00:00Z")
    yield desk
    desk.close()


def test_a_ticket_is_read_without_personal_data(desk: HelpDesk) -> None:
    view = desk.read_ticket("T-1")
    assert view == {
        "id": "T-1",
        "customer": "C-1",
        "text": "Where is LO-10001?\nIt is late. Call [PHONE_1] or write to [EMAIL_1]. "
        "[NAME_1], [ADDRESS_1]",
        "received": "2026-05-20T08:00:00Z",
        "status": "open",
        "earlier": [],
    }


def test_a_ticket_names_the_same_customers_earlier_tickets_newest_first(desk: HelpDesk) -> None:
    desk.open_ticket("T-2", "C-1", "", "and?", "2026-05-21T08:00:00Z")
    desk.open_ticket("T-3", "C-2", "", "hello", "2026-05-21T09:00:00Z")
    desk.open_ticket("T-4", "C-1", "", "well?", "2026-05-22T08:00:00Z")
    desk.escalate("k", "T-1", "needs_person", "late")
    assert desk.read_ticket("T-4")["earlier"] == [
        {"id": "T-2", "status": "open"},
        {"id": "T-1", "status": "escalated"},
    ]
    assert desk.read_ticket("T-3")["earlier"] == []


def test_opening_a_ticket_again_changes_nothing_and_another_text_is_refused(
    desk: HelpDesk,
) -> None:
    ticket = ("T-1", "C-1", "Where is LO-10001?", BODY, "2026-05-20T08:00:00Z")
    desk.escalate("k", "T-1", "needs_person", "")
    assert desk.open_ticket(*ticket)["repeated"] is True
    assert desk.read_ticket("T-1")["status"] == "escalated"
    with pytest.raises(Conflict):
        desk.open_ticket("T-1", "C-1", "", "something else", "2026-05-20T08:00:00Z")
    with pytest.raises(NotFound):
        desk.open_ticket("T-9", "C-9", "", "who am I", "2026-05-20T08:00:00Z")
    with pytest.raises(InvalidInput):
        desk.open_ticket("T-9", "C-1", "a subject", " ", "2026-05-20T08:00:00Z")


def test_an_order_reads_as_evidence(desk: HelpDesk) -> None:
    order = desk.order("C-1", "lo-10001 ")
    assert prompts.order_text(order) == (
        "Order LO-10001 is shipped; item oak side table; total 24.90 EUR; ordered 12 May 2026; "
        "shipped 13 May 2026; expected 18 May 2026; tracking LX123456789DE."
    )
    assert (order["total_cents"], order["refunded_cents"]) == (2490, 0)
    assert desk.order("C-1", "LO-10002")["refunded"] == "10.00 EUR"


def test_an_account_reads_as_evidence_without_its_name(desk: HelpDesk) -> None:
    assert prompts.account_text(desk.account("C-1")) == (
        "Customer [NAME_1] since 8 March 2024; orders LO-10001, LO-10002."
    )
    with pytest.raises(NotFound):
        desk.account("C-9")


def test_another_customers_order_is_as_unknown_as_one_that_does_not_exist(desk: HelpDesk) -> None:
    with pytest.raises(NotFound) as foreign:
        desk.order("C-1", "LO-20001")
    with pytest.raises(NotFound) as missing:
        desk.order("C-1", "LO-99999")
    assert str(foreign.value).replace("LO-20001", "X") == str(missing.value).replace(
        "LO-99999", "X"
    )


def test_a_reply_goes_out_with_the_values_behind_its_placeholders(desk: HelpDesk) -> None:
    receipt = desk.reply("k", "T-1", "Dear [NAME_1], LO-10001 is late. We call [PHONE_1].")
    assert receipt["kind"] == "reply"
    assert desk.sent("T-1") == "Dear Anna Weber, LO-10001 is late. We call 030 23125104."
    assert "Anna" not in json.dumps(receipt)
    assert desk.read_ticket("T-1")["status"] == "replied"


@pytest.mark.parametrize("text", ["Order [ORDER_1] is late.", "To [IBAN_1].", " "])
def test_a_reply_that_would_show_a_reference_or_nothing_is_refused(
    desk: HelpDesk, text: str
) -> None:
    with pytest.raises(InvalidInput):
        desk.reply("k", "T-1", text)
    assert desk.sent("T-1") is None
    assert desk.find("k") is None


EFFECTS: dict[str, tuple[Callable[..., dict[str, Any]], tuple[Any, ...], tuple[Any, ...]]] = {
    "reply": (HelpDesk.reply, ("Hello.",), ("Hello!",)),
    "refund": (HelpDesk.refund, ("LO-10001", 490), ("LO-10001", 491)),
    "escalate": (HelpDesk.escalate, ("needs_person", "late"), ("not_allowed", "late")),
    "assign": (HelpDesk.assign, ("delivery",), ("returns",)),
}


@pytest.mark.parametrize("kind", EFFECTS)
def test_an_effect_is_done_once_for_its_key(desk: HelpDesk, kind: str) -> None:
    effect, args, others = EFFECTS[kind]
    first = effect(desk, "k", "T-1", *args)
    assert (first["kind"], first["ticket"], first["repeated"]) == (kind, "T-1", False)
    counts = desk.counts()
    assert effect(desk, "k", "T-1", *args) == {**first, "repeated": True}
    assert desk.find("k") == first
    with pytest.raises(Conflict):
        effect(desk, "k", "T-1", *others)
    assert desk.counts() == counts
    assert counts["effects"] == 1


@pytest.mark.parametrize("kind", EFFECTS)
def test_an_effect_on_an_unknown_ticket_leaves_nothing(desk: HelpDesk, kind: str) -> None:
    effect, args, _ = EFFECTS[kind]
    with pytest.raises(NotFound):
        effect(desk, "k", "T-99", *args)
    with pytest.raises(InvalidInput):
        effect(desk, "", "T-1", *args)
    assert desk.counts()["effects"] == 0


def test_one_key_is_not_shared_between_kinds_or_tickets(desk: HelpDesk) -> None:
    desk.open_ticket("T-2", "C-1", "", "and?", "2026-05-21T08:00:00Z")
    desk.reply("k", "T-1", "Hello.")
    with pytest.raises(Conflict):
        desk.assign("k", "T-1", "delivery")
    with pytest.raises(Conflict):
        desk.reply("k", "T-2", "Hello.")


def test_a_refund_lowers_what_is_left_and_reads_as_evidence(desk: HelpDesk) -> None:
    receipt = desk.refund("a", "T-1", "lo-10002", 3000)
    assert prompts.refund_text(receipt) == (
        "Refund of 30.00 EUR for order LO-10002 is done; it arrives within 5 working days."
    )
    assert receipt["amount_cents"] == 3000
    assert desk.order("C-1", "LO-10002")["refunded_cents"] == 4000
    with pytest.raises(Conflict, match=r"10\.01 EUR is over the 10\.00 EUR left"):
        desk.refund("b", "T-1", "LO-10002", 1001)
    desk.refund("c", "T-1", "LO-10002", 1000)
    assert desk.counts()["refunded_cents"] == 4000


@pytest.mark.parametrize("order", ["LO-20001", "LO-99999"])
def test_a_refund_of_an_order_that_is_not_the_customers_is_refused(
    desk: HelpDesk, order: str
) -> None:
    with pytest.raises(Conflict, match="not an order of this customer"):
        desk.refund("k", "T-1", order, 100)
    assert desk.find("k") is None
    assert desk.order("C-2", "LO-20001")["refunded_cents"] == 0


@pytest.mark.parametrize("cents", [0, -100])
def test_a_refund_is_a_positive_amount(desk: HelpDesk, cents: int) -> None:
    with pytest.raises(InvalidInput):
        desk.refund("k", "T-1", "LO-10001", cents)


def test_many_threads_with_one_key_make_one_refund(desk: HelpDesk) -> None:
    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(lambda _: desk.refund("k", "T-1", "LO-10001", 100), range(40)))
    assert sum(not r["repeated"] for r in receipts) == 1
    assert desk.order("C-1", "LO-10001")["refunded_cents"] == 100


def test_many_threads_with_many_keys_never_refund_more_than_was_paid(desk: HelpDesk) -> None:
    def refund(number: int) -> bool:
        try:
            desk.refund(f"k{number}", "T-1", "LO-10001", 500)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(refund, range(20))) == 4
    assert desk.order("C-1", "LO-10001")["refunded_cents"] == 2000


def test_what_was_done_is_there_after_a_restart_and_seeding_again_keeps_it(
    desk: HelpDesk, folder: Path
) -> None:
    desk.refund("k", "T-1", "LO-10001", 490)
    again = HelpDesk(folder / "state" / "desk.db", FixedClock())
    again.seed(folder)
    assert again.order("C-1", "LO-10001")["refunded_cents"] == 490
    assert again.refund("k", "T-1", "LO-10001", 490)["repeated"] is True
    assert again.reply("r", "T-1", "Dear [NAME_1], done.")["repeated"] is False
    assert desk.sent("T-1") == "Dear Anna Weber, done."
    assert [e["kind"] for e in desk.effects("T-1")] == ["refund", "reply"]
    again.close()


def test_an_effect_that_breaks_in_the_middle_leaves_nothing(
    desk: HelpDesk, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(self: HelpDesk, ticket: str, status: str) -> None:
        raise sqlite3.OperationalError("disk is full")

    monkeypatch.setattr(HelpDesk, "_set_status", torn)
    with pytest.raises(sqlite3.OperationalError):
        desk.reply("k", "T-1", "Hello.")
    monkeypatch.undo()
    assert (desk.sent("T-1"), desk.find("k")) == (None, None)
    assert desk.reply("k", "T-1", "Hello.")["repeated"] is False


def test_a_commit_is_on_disk_before_the_call_returns(desk: HelpDesk) -> None:
    assert desk._db.execute("pragma synchronous").fetchone()[0] == 2
    assert desk._db.execute("pragma journal_mode").fetchone()[0] == "wal"


@pytest.mark.parametrize(
    "text", [None, "{", "[]", '{"customers": [{}], "orders": []}', '{"customers": []}']
)
def test_a_broken_seed_is_named(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "desk.json").write_text(text, encoding="utf-8")
    desk = HelpDesk(tmp_path / "desk.db", FixedClock())
    with pytest.raises(DataError, match=r"desk\.json") as caught:
        desk.seed(tmp_path)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    desk.close()


def test_an_order_of_nobody_in_the_seed_is_refused_whole(tmp_path: Path) -> None:
    data = {**DESK, "orders": [{**DESK["orders"][0], "customer": "C-9"}]}
    (tmp_path / "desk.json").write_text(json.dumps(data), encoding="utf-8")
    desk = HelpDesk(tmp_path / "desk.db", FixedClock())
    with pytest.raises(DataError):
        desk.seed(tmp_path)
    assert desk.counts()["customers"] == 0
    desk.close()


def test_money_and_days_are_written_as_the_models_know_them() -> None:
    assert (money(5, "EUR"), money(123456, "EUR")) == ("0.05 EUR", "1234.56 EUR")
    assert day("2026-12-01") == "1 December 2026"
