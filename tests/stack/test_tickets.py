"""A ticket over days on the live stack: asked, answered, asked again, with a person and back."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.stack.conftest import Demo
from tests.unit.test_readme import README

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

ID = "T-900"  # the README's
ENDED = ("replied", "escalated", None)  # None: a person is asked


@pytest.fixture(scope="module")
def http(demo: Demo) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=demo.url, timeout=60) as client:
        yield client


def done(demo: Demo, *words: str) -> str:
    ran = demo.mainspring("tickets", *words)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def settled(http: httpx.Client, run: str) -> dict[str, Any]:
    """The run once it has ended, or a person is asked whether its reply may go out."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        body: dict[str, Any] = http.get(f"/v1/runs/{run}").raise_for_status().json()
        if body["status"] == "ended" or (body["waiting_for"] or {}).get("awaited") == "approval":
            return body
        time.sleep(0.1)
    raise AssertionError(f"{run} has not ended")


def test_a_customer_who_writes_again_is_answered_from_the_thread(http: httpx.Client) -> None:
    text = {"text": "And when is it expected?", "id": "again-1"}
    said = http.post("/v1/tickets/T-001/messages", json=text).raise_for_status().json()
    came = settled(http, said["run"])
    assert came["decision"] in ENDED
    thread = http.get("/v1/tickets/T-001").json()
    authors = [m["author"] for m in thread["messages"]]
    # Other tests of this stack may have had it answered, too.
    assert authors[0] == "agent" and "customer" in authors[1:]
    looked = [e["tool"] for e in came["effects"]]
    assert looked[0] == "read_ticket"
    if came["decision"] == "replied":
        assert (authors[-1], "lookup_order" in looked) == ("agent", True)
        assert "LO-48213" in thread["messages"][-1]["text"]


def test_the_readmes_ticket_goes_to_a_person_and_back(http: httpx.Client, demo: Demo) -> None:
    bodies = re.findall(r"curl http://127.0.0.1:8000(/v1/tickets\S*).*?-d '(.*?)'", README, re.S)
    commands = re.findall(r"^    mainspring tickets (.*)$", README, re.M)
    assert (len(bodies), len(commands)) == (2, 3)
    for path, body in bodies:
        made = http.post(path, json=json.loads(body)).raise_for_status().json()
        if made["run"]:  # none where a person has it already
            assert settled(http, made["run"])["decision"] in ENDED
    words = [re.findall(r'"([^"]*)"|(\S+)', command) for command in commands]
    take, answer, back = ([a or b for a, b in each] for each in words)
    assert "held" in done(demo, *take)
    done(demo, *answer)
    waits = done(demo, "say", ID, "--text", "How long does it take to Austria?")
    assert "waits for a person" in waits
    told = done(demo, *back)
    run = told.rpartition("run ")[2].strip()
    assert settled(http, run)["decision"] in ENDED
    with http.stream("GET", f"/v1/runs/{run}/events?after=0") as events:
        read = next(line for line in events.iter_lines() if '"notes"' in line)
    assert "Austria takes six working days." in read
    assert "4 of 5" in (done(demo, "rate", ID, "--score", "4") and done(demo, "show", ID))


def test_people_see_who_waits_for_them(demo: Demo) -> None:
    listed = json.loads(done(demo, "list", "--status", "escalated", "--json"))
    assert listed["data"] and {row["status"] for row in listed["data"]} == {"escalated"}
    assert "damaged-photo" in done(demo, "macros")
