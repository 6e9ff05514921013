"""The shipped desk holds together: tickets, orders, policies, examples and expectations."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from stdnum import iban, luhn

from agents.helpdesk import HelpDesk
from agents.references import PERSONAL, REFERENCE, References, references_in
from agents.workflows import prompts
from cluster.ids import SystemClock
from cluster.settings import INFRA

FOLDER = INFRA / "support"
EXPECTED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "demo_expected.json").read_text(encoding="utf-8")
)
INTENTS = set(
    "order_status delivery_late cancel_order change_address return_item refund_request "
    "damaged_item wrong_item invoice_copy payment_failed discount_code warranty account_access "
    "delivery_options complaint".split()
)
CAP_CENTS = 3000


def lines(name: str) -> list[dict[str, Any]]:
    text = (FOLDER / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


SEED = json.loads((FOLDER / "desk.json").read_text(encoding="utf-8"))
CUSTOMERS = {c["id"]: c for c in SEED["customers"]}
ORDERS = {o["id"]: o for o in SEED["orders"]}
TICKETS = {t["id"]: t for t in lines("tickets.jsonl")}
PAST = lines("past_tickets.jsonl")
EXAMPLES = lines("intents.jsonl")


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The redacted text of every ticket, as the desk hands it out."""
    desk = HelpDesk(tmp_path_factory.mktemp("desk") / "desk.db", SystemClock())
    desk.seed(FOLDER)
    for ticket in TICKETS.values():
        desk.open_ticket(**ticket)
    texts = {id: str(desk.read_ticket(id)["text"]) for id in TICKETS}
    desk.close()
    return texts


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def likeness(one: str, other: str) -> float:
    return shared(words(one), words(other))


def shared(one: set[str], other: set[str]) -> float:
    """The words that both hold, as a share of all their words (Jaccard)."""
    return len(one & other) / max(1, len(one | other))


def test_there_are_thirty_tickets_and_an_expectation_for_each() -> None:
    assert list(TICKETS) == [f"T-{n:03d}" for n in range(1, 31)]
    assert set(EXPECTED) == set(TICKETS)
    for expected in EXPECTED.values():
        assert expected["intent"] in INTENTS | {"out_of_scope"}
        assert set(expected["acceptable"]) <= {"replied", "escalated"}
        assert expected["must_escalate"] == (expected["acceptable"] == ["escalated"])


def test_no_ticket_shows_its_customers_data_or_another_secret(views: dict[str, str]) -> None:
    for id, text in views.items():
        customer = CUSTOMERS[TICKETS[id]["customer"]]
        last = customer["name"].split()[-1]
        for secret in (customer["name"], last, customer["email"], customer["phone"]):
            assert secret.lower() not in text.lower(), id
        assert customer["address"].split(",")[0] not in text, id
        assert "@" not in text, id
        digits = re.sub(r"\D", "", REFERENCE.sub("", References().rewrite(text)))
        assert digits == "", id


def test_the_tickets_hold_every_kind_of_personal_data(views: dict[str, str]) -> None:
    found = {r[1:].split("_")[0] for text in views.values() for r in references_in(text)}
    assert found == set(PERSONAL) - {"ID", "IP"}
    assert luhn.is_valid("4539578763621486") and "4539 5787 6362 1486" in TICKETS["T-013"]["body"]
    assert iban.is_valid("DE04500105170000012345")
    assert "DE04 5001 0517 0000 0123 45" in TICKETS["T-014"]["body"]


def test_the_orders_named_in_tickets_are_what_the_expectations_say() -> None:
    foreign: set[str] = set()
    unknown: set[str] = set()
    for id, ticket in TICKETS.items():
        for order in re.findall(r"LO-\d{5}", ticket["subject"] + ticket["body"]):
            if order not in ORDERS:
                unknown.add(id)
            elif ORDERS[order]["customer"] != ticket["customer"]:
                foreign.add(id)
    assert (foreign, unknown) == ({"T-011"}, {"T-012"})


def test_amounts_asked_back_lie_on_the_side_of_the_cap_that_is_expected() -> None:
    asked = {"T-006": 1850, "T-008": 490, "T-014": 880, "T-030": 1250, "T-007": 24900}
    asked |= {"T-019": ORDERS["LO-47933"]["total_cents"], "T-020": 34900}
    for id, cents in asked.items():
        assert EXPECTED[id]["must_escalate"] == (cents > CAP_CENTS), id
        order = re.findall(r"LO-\d{5}", TICKETS[id]["body"])[0]
        assert cents <= ORDERS[order]["total_cents"], id


def test_customers_and_orders_hold_together() -> None:
    assert (len(CUSTOMERS), len(ORDERS)) == (26, 45)
    for order in ORDERS.values():
        customer = CUSTOMERS[order["customer"]]
        days = [order.get(k) for k in ("ordered", "shipped", "delivered") if order.get(k)]
        assert [customer["since"], *days] == sorted([customer["since"], *days]), order["id"]
        assert order["item"] == order["item"].lower()
        assert (order["status"] in {"processing", "cancelled"}) == ("shipped" not in order)
        assert (order["status"] in {"delivered", "returned"}) == ("delivered" in order)
        assert re.fullmatch(r"LX\d{9}DE", order.get("tracking", "LX000000000DE"))
    assert {o["status"] for o in ORDERS.values()} == set(
        "processing shipped delivered returned cancelled".split()
    )
    assert all(t["received"][:10] <= "2026-11-20" for t in TICKETS.values())


def test_policies_are_short_passages_that_fit_an_evidence_line() -> None:
    files = sorted((FOLDER / "policies").glob("*.md"))
    assert len(files) >= 10
    for file in files:
        title, *passages = file.read_text(encoding="utf-8").strip().split("\n\n")
        assert title.startswith("# ") and passages, file.name
        for passage in passages:
            rewritten = References().rewrite(passage)
            assert len(rewritten) <= 300 < prompts.MAX_EVIDENCE_CHARS, file.name
            assert all(line.endswith(".") for line in passage.splitlines()), file.name


def test_past_tickets_are_redacted_and_their_answers_name_no_references() -> None:
    assert len({p["id"] for p in PAST}) == len(PAST) >= 40
    assert {p["intent"] for p in PAST} == INTENTS
    for past in PAST:
        # A reference in an answer would mean another value in the conversation that recalls it.
        assert not references_in(past["answer"]), past["id"]
        assert len(References().rewrite(past["answer"])) <= 300
        assert past["closed"] < "2026-11-20"


def test_one_past_ticket_holds_an_injection_that_its_ticket_recalls() -> None:
    holding = [p for p in PAST if "SYSTEM:" in p["text"] + p["answer"]]
    assert [p["id"] for p in holding] == ["1031"]
    ticket = TICKETS["T-019"]["body"]
    nearest = sorted(PAST, key=lambda p: likeness(p["text"], ticket))[-1]
    assert nearest["id"] == "1031"


def test_examples_cover_all_intents_and_hold_no_values() -> None:
    counts = Counter(e["intent"] for e in EXAMPLES)
    assert set(counts) == INTENTS | {"out_of_scope"}
    assert min(counts[i] for i in INTENTS) >= 65 and counts["out_of_scope"] >= 140
    for example in EXAMPLES:
        assert References().rewrite(example["text"]) == example["text"]


def test_most_examples_are_a_subject_and_a_body_as_the_desk_hands_tickets_out() -> None:
    for intent in INTENTS | {"out_of_scope"}:
        texts = [e["text"] for e in EXAMPLES if e["intent"] == intent]
        framed = [t.partition("\n") for t in texts if "\n" in t]
        assert len(framed) >= len(texts) / 2, intent
        assert all(subject.strip() and body.strip() for subject, _, body in framed), intent


def test_no_example_is_a_near_copy_of_a_ticket(views: dict[str, str]) -> None:
    tickets = {id: words(References().rewrite(view)) for id, view in views.items()}
    for example in EXAMPLES:
        for id, ticket in tickets.items():
            assert shared(words(example["text"]), ticket) < 0.6, (id, example["text"])


def test_no_example_is_a_near_copy_of_another() -> None:
    texts = [e["text"] for e in EXAMPLES]
    assert len({t.lower() for t in texts}) == len(texts)
    sets = [words(t) for t in texts]
    for number, one in enumerate(sets):
        if len(one) >= 6:
            nearest = max((shared(one, other) for other in sets[:number]), default=0)
            assert nearest < 0.75, texts[number]
