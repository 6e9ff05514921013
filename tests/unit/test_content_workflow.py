"""A brief becomes a piece that says only what the brief says, published once, or held."""

from itertools import count
from pathlib import Path
from typing import Any

import pytest

from agents import policy_cases
from agents.packs import Packs
from agents.policy_cases import Case
from agents.workflows.content.brief import CHANNELS, OPENINGS, length
from agents.workflows.content.evidence import KINDS
from cluster.errors import Unavailable
from serve.distill.grammar import lexicon
from tests.content import BRIEF, FACTS, OTHERS, GoodWriter, Newsroom
from tests.fakes import POLICY, FakeClock, ScriptedChat
from tests.packs import shipped

PACK = shipped("content")
CASES = policy_cases.read(PACK.folder / "cases.yaml")
POSTS = ["newsletter", "linkedin", "x"]


@pytest.fixture
def room(tmp_path: Path) -> Newsroom:
    return Newsroom(tmp_path)


@pytest.mark.parametrize("case", CASES.cases, ids=str)
def test_the_policy(case: Case) -> None:
    policy = Packs([PACK]).policy(POLICY)
    (tried,) = policy_cases.tried(policy, CASES.model_copy(update={"cases": (case,)}))
    assert tried.wrong == ""


def test_what_the_pack_knows_is_what_the_routine_model_is_taught() -> None:
    taught = lexicon("content")
    assert {name: channel.facts for name, channel in CHANNELS.items()} == taught["channels"]
    assert taught["openings"] == OPENINGS
    assert {kind for kinds in taught["kinds"].values() for kind in kinds} < set(KINDS)


async def test_a_brief_is_published_with_the_facts_that_name_its_topic(room: Newsroom) -> None:
    run = await room.run({**BRIEF, "channels": POSTS})
    assert run.ended == ("published", "each sentence stands in the brief, and no check of the "
                         "piece failed")  # fmt: skip
    article = room.published("the-new-oak-lamp.md")
    for fact in FACTS:
        assert fact in article
    for other in OTHERS:
        assert other not in article
    assert [row["text"] for row in run.result["left_out"]] == list(OTHERS)
    assert run.result["outline"]["by"] == "model"
    assert {s["by"] for s in run.result["sections"]} == {"model"}
    assert {c: p["by"] for c, p in run.result["posts"].items()} == dict.fromkeys(POSTS, "model")
    assert run.result["problems"] == []
    assert room.published("the-new-oak-lamp.x.txt").startswith("Hi there! The oak lamp ")
    assert "[example.com](https://example.com/oak)" in article
    (record,) = room.memory.told
    assert (record.kind, record.source) == ("piece", "content:the-new-oak-lamp")
    assert record.tier == "long_term"


async def test_models_see_references_and_no_digit(room: Newsroom) -> None:
    chat = GoodWriter()
    room.chat = chat
    await room.run(BRIEF)
    told = " ".join(m["content"] for messages in chat.asked for m in messages)
    assert "[AMOUNT_1]" in told
    for value in ("49.90", "3 May", "40 cm", "9 to 17"):
        assert value not in told


async def test_an_invented_fact_is_replaced_by_the_brief_s_own_words(room: Newsroom) -> None:
    room.chat = ScriptedChat(
        {"routine": ["x: Hi there! (E1) The oak lamp is made of gold and lasts 99 years."]}
    )
    run = await room.run({**BRIEF, "channels": ["x"]})
    assert run.ended[0] == "published"
    assert run.result["posts"]["x"]["by"] == "composed"
    assert run.result["posts"]["x"]["text"] == f"Hi there! {FACTS[0]}"
    assert run.result["outline"]["by"] == "composed"
    assert {s["by"] for s in run.result["sections"]} == {"composed"}
    written = "".join(p.read_text("utf-8") for p in (room.files / "published").iterdir())
    assert "gold" not in written and "99 years" not in written
    assert any("99" in problem for problem in run.result["problems"])


@pytest.mark.parametrize(
    "post",
    [
        "x: Hi there! (E1) The oak lamp is made of sullid oak and brass.",
        "x: Hi there! (E1) The elegant oak lamp is made of solid oak and brass.",
        "x: Hi there! (E1) The oak lamp is not made of solid oak and brass.",
        "x: Hi there! (E1) The oak lamp is made of solid oak and brass. It is from Berlin.",
        "x: Hi there! The oak lamp is made of solid oak and brass.",
    ],
)
async def test_a_post_with_a_word_of_its_own_is_composed(room: Newsroom, post: str) -> None:
    room.chat = ScriptedChat({"routine": [post]})
    run = await room.run({**BRIEF, "channels": ["x"]})
    assert run.result["posts"]["x"]["by"] == "composed"
    assert run.result["posts"]["x"]["text"] == f"Hi there! {FACTS[0]}"


async def test_a_post_in_the_facts_own_words_stays_as_it_is_written(room: Newsroom) -> None:
    post = "x: Hi there! (E1) This oak lamp is of brass and solid oak."
    room.chat = ScriptedChat({"routine": [post]})
    run = await room.run({**BRIEF, "channels": ["x"]})
    assert run.result["posts"]["x"]["by"] == "model"


@pytest.mark.parametrize(
    "outline",
    ["", "NO_ANSWER", "- E9: Price", "- E4: Price", "- E1: Material\n- E1: Care", "all of them"],
)
async def test_an_outline_that_can_t_be_used_is_composed(room: Newsroom, outline: str) -> None:
    room.chat = ScriptedChat({"routine": [outline]})
    run = await room.run(BRIEF)
    assert run.result["outline"]["by"] == "composed"
    assert [p["fact"] for p in run.result["outline"]["points"]] == ["F1", "F2", "F3"]
    assert run.ended[0] == "published"


async def test_a_fact_that_the_model_leaves_out_is_told_all_the_same(room: Newsroom) -> None:
    room.chat = ScriptedChat({"routine": ["# lamp\n- E2: Price\n- Call to action", ""]})
    run = await room.run(BRIEF)
    assert (run.result["outline"]["by"], run.result["outline"]["added"]) == ("model", ["F1", "F3"])


async def test_posts_stay_within_their_channel(room: Newsroom) -> None:
    long = "The oak lamp " + "is very tall and " * 17 + "stands well."
    brief = {**BRIEF, "text": f"{long}\n{FACTS[2]}", "channels": ["x", "bluesky"]}
    brief["link"] = "https://example.com/the-new-oak-lamp"
    run = await room.run(brief)
    for channel, post in run.result["posts"].items():
        assert length(channel, post["text"]) <= CHANNELS[channel].limit
        assert post["text"].endswith(brief["link"])
    assert run.result["posts"]["x"] | {"text": ""} == {
        "text": "", "facts": ["F2"], "lead": "size", "by": "composed",
    }  # fmt: skip
    alone = await room.run({**brief, "subject": "alone", "text": long, "channels": ["x"]})
    assert alone.result["skipped"] == {"x": "no fact fits into 280 characters"}


async def test_a_piece_with_a_fact_that_can_t_be_checked_waits_for_a_person(
    room: Newsroom,
) -> None:
    room.chat = ScriptedChat({"routine": ["nothing"]})
    text = f"{FACTS[0]}\nThe oak lamp is called NO_ANSWER by those who made it."
    run = await room.run({**BRIEF, "text": text})
    assert run.state.ended is None
    assert run.answers()["content.publish"] == ("ask", "content-ungrounded")
    assert not (room.files / "published").exists()
    run.settled = {"content-ungrounded"}
    assert await run.work(room.parts)
    assert run.ended[0] == "published"


async def test_what_is_handed_over_ends_as_held(room: Newsroom) -> None:
    office = room.office(BRIEF, autonomy=0)
    office.waits = False
    await office.work(room.parts)
    assert office.ended == ("held", "this workflow only proposes (autonomy 0) [content-proposes]")
    assert FACTS[0] in office.result["article"]
    assert not (room.files / "published").exists()


async def test_a_brief_from_outside_is_looked_at_by_a_person(room: Newsroom) -> None:
    run = await room.run(BRIEF, untrusted=("text",))
    assert run.answers()["content.publish"] == ("ask", "content-outside")


async def test_keywords_that_stand_nowhere_hold_the_piece(room: Newsroom) -> None:
    run = await room.run({**BRIEF, "keywords": ["chandelier"]})
    assert run.answers()["content.publish"] == ("ask", "content-checks")
    assert run.state.phases["checks"]["coverage"] == 0


async def test_a_name_is_published_once(room: Newsroom) -> None:
    await room.run(BRIEF)
    again = await room.run({**BRIEF, "text": "The oak lamp is blue."})
    assert again.ended[0] == "refused" and "content-taken" in again.ended[1]
    assert "blue" not in room.published("the-new-oak-lamp.md")


async def test_of_two_runs_at_once_one_publishes(room: Newsroom) -> None:
    later = (FakeClock().now() + 60) * 1.0
    brief = {**BRIEF, "publish_at": later}
    first, second = await room.run(brief), await room.run({**brief, "audience": "parents"})
    room.clock.step(61)
    assert await first.work(room.parts) and await second.work(room.parts)
    assert (first.ended[0], second.ended[0]) == ("published", "refused")
    assert "another run" in second.ended[1]


async def test_a_brief_that_names_its_topic_nowhere_is_refused(room: Newsroom) -> None:
    run = await room.run({**BRIEF, "text": "\n".join(OTHERS)})
    assert run.ended == ("refused", "no fact of the brief names its topic [content-empty]")
    assert len(run.result["left_out"]) == 2


async def test_publish_at_is_waited_for(room: Newsroom) -> None:
    run = await room.run({**BRIEF, "publish_at": "2026-11-18T12:06:40"})
    assert run.state.waiting is not None and run.performed == ["content.discover"]
    room.clock.step(3_599)
    assert not await run.work(room.parts)
    room.clock.step(2)
    assert await run.work(room.parts)
    assert run.ended[0] == "published"


async def test_a_time_that_is_over_is_now(room: Newsroom) -> None:
    run = await room.run({**BRIEF, "publish_at": "2020-01-01T00:00:00"})
    assert run.ended[0] == "published"


async def test_memory_that_is_away_does_not_hold_a_piece(room: Newsroom) -> None:
    async def remember(records: Any, note: Any = None) -> int:
        raise Unavailable("memory", "away")

    room.memory.remember = remember  # type: ignore[method-assign]
    assert (await room.run(BRIEF)).ended[0] == "published"


async def test_a_model_that_is_away_breaks_the_turn_and_nothing_is_lost(room: Newsroom) -> None:
    office = room.office(BRIEF)
    room.chat = ScriptedChat({"routine": [Unavailable("model", "away")]})
    with pytest.raises(Unavailable):
        await office.work(room.parts)
    room.chat = GoodWriter()
    assert await office.work(room.parts)
    assert office.performed == ["content.discover", "content.publish"]


async def test_killed_at_any_border_it_publishes_once(tmp_path: Path) -> None:
    whole = Newsroom(tmp_path / "whole")
    expected = (await whole.run(BRIEF)).result
    for number in count():
        room = Newsroom(tmp_path / str(number))
        office = room.office(BRIEF)
        killed = await office.worked_through(room.parts, number)
        assert office.ended[0] == "published"
        assert _settled(office.result, room) == _settled(expected, whole)
        assert len(office.desk.effects()) == 1  # type: ignore[attr-defined]
        assert len(room.memory.told) == 1
        assert len(list((room.files / "published").glob("*.md"))) == 1
        if not killed:
            break
    assert number > 15


async def test_killed_at_any_border_it_records_engagement_once(tmp_path: Path) -> None:
    given = {"task": "engagement", "subject": "the-new-oak-lamp", "channel": "site"}
    for number in count():
        room = Newsroom(tmp_path / str(number))
        await room.run(BRIEF)
        office = room.office({**given, "views": 100, "clicks": 3})
        killed = await office.worked_through(room.parts, number)
        assert office.ended[0] == "recorded"
        rows = office.desk.all("select * from engagement")  # type: ignore[attr-defined]
        assert [(r["views"], r["clicks"]) for r in rows] == [(100, 3)]
        if not killed:
            break
    assert number > 5


def _settled(result: dict[str, Any], room: Newsroom) -> dict[str, Any]:
    """A result without what differs from folder to folder and call to call."""
    published = {
        name: str(value).replace(str(room.folder), "")
        for name, value in result["published"].items()
        if name != "repeated"
    }
    return {**result, "published": published}


async def test_engagement_of_what_is_not_there_is_refused(room: Newsroom) -> None:
    unknown = await room.engage("the-new-oak-lamp", "x", 10, 1)
    assert unknown.ended[0] == "refused" and "published piece" in unknown.ended[1]
    await room.run({**BRIEF, "channels": ["x"]})
    elsewhere = await room.engage("the-new-oak-lamp", "facebook", 10, 1)
    assert elsewhere.ended[0] == "refused" and "site, x" in elsewhere.ended[1]
    assert (await room.engage("the-new-oak-lamp", "x", 10, 1)).ended[0] == "recorded"
