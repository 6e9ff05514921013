"""Triage: a queue when the gate is open, a person when it is not, and no model is asked."""

from pathlib import Path

import pytest

from agents.workflows.triage import work
from cluster.errors import NotFound, Unavailable
from memory.records import Hit, Query
from tests.fakes import ListRecaller, Office, ScriptedClassifier, connector, ticket


@pytest.fixture
def office(tmp_path: Path) -> Office:
    desk = connector(tmp_path)
    desk.open_tickets([ticket("T-001")])
    return Office(desk, "T-001", workflow="triage")


MEMORY = ListRecaller([("ticket:train-1", "where is my parcel"), ("ticket:train-2", "late")])


async def test_a_sure_ticket_goes_to_its_intents_queue(office: Office) -> None:
    await work(office.turn(), ScriptedClassifier(intent="card_arrival"), MEMORY, 2)
    ended = office.state.ended
    assert ended is not None
    assert ended.decision == "assigned"
    assert ended.reason == "the calibrated gate let the intent through: card_arrival 0.95"
    assert ended.result["evidence"] == ["ticket:train-1", "ticket:train-2"]
    assert ended.result["usage"] == []
    counts = office.connector.counts()
    assert (counts["queues"], counts["escalations"], counts["outbox"]) == (1, 0, 0)
    assert office.asked[-1] == ("assign", "assign", {"queue": "card_arrival"})


async def test_an_unsure_ticket_goes_to_a_person_with_the_best_guess(office: Office) -> None:
    """The gate decides, however sure the number looks."""
    classifier = ScriptedClassifier(intent="card_arrival", confidence=0.99, gate=False)
    await work(office.turn(), classifier, MEMORY, 2)
    ended = office.state.ended
    assert ended is not None
    assert (ended.decision, office.answers()["assign"]) == ("escalated", "ask")
    assert ended.reason.startswith("unsure intent:")
    assert "best guess card_arrival" in ended.reason
    counts = office.connector.counts()
    assert (counts["queues"], counts["escalations"]) == (0, 1)


async def test_a_ticket_that_is_gone_is_not_found(office: Office) -> None:
    office.state.input["ticket"] = "T-404"
    with pytest.raises(NotFound, match="T-404"):
        await work(office.turn(), ScriptedClassifier(), MEMORY, 2)
    assert office.state.ended is None


async def test_a_resumed_turn_classifies_and_assigns_once(office: Office) -> None:
    class Away(ListRecaller):
        async def recall(self, query: Query) -> list[Hit]:
            raise Unavailable("memory", "starting")

    classifier = ScriptedClassifier()
    with pytest.raises(Unavailable):
        await work(office.turn(), classifier, Away(), 2)
    await work(office.turn(), classifier, MEMORY, 2)
    assert len(classifier.seen) == 1
    assert office.connector.counts()["queues"] == 1


async def test_personal_data_stays_at_the_desk(office: Office) -> None:
    classifier = ScriptedClassifier()
    await work(office.turn(), classifier, MEMORY, 2)
    assert "Weber" not in classifier.seen[0]
    assert "[NAME_1]" in classifier.seen[0]
