"""The next brief's plan goes by what earlier pieces have had, and says by which."""

import random
from pathlib import Path

import pytest

from agents.workflows.content.brief import CHANNELS
from agents.workflows.content.plan import Plan, Seen, plan, seen_of
from tests.content import Newsroom

ALL = tuple(CHANNELS)
KINDS = ("material", "price", "size")


def _channels(made: Plan) -> list[str]:
    return [choice.name for choice in made.channels]


def _kinds(made: Plan) -> list[str]:
    return [choice.name for choice in made.kinds]


def test_without_figures_channels_are_tried_in_the_brief_s_order_with_every_kind() -> None:
    made = plan([], ("linkedin", "x", "threads", "facebook"), KINDS)
    assert _channels(made) == ["linkedin", "x", "threads"]
    assert [choice.lead for choice in made.channels] == list(KINDS)
    assert all("not measured yet" in choice.reason for choice in made.channels)
    assert made.as_json()["cites"] == []


def test_channels_are_ordered_by_their_share_and_cite_their_pieces() -> None:
    seen = [
        Seen("a", "x", "price", 1000, 5), Seen("a", "newsletter", "price", 1000, 40),
        Seen("b", "newsletter", "price", 500, 20), Seen("c", "newsletter", "price", 500, 22),
        Seen("c", "linkedin", "price", 500, 10),
    ]  # fmt: skip
    made = plan(seen, ("x", "newsletter", "linkedin"), ("price",))
    assert _channels(made) == ["newsletter", "linkedin", "x"]
    first = made.channels[0]
    assert first.reason == "newsletter: 4.1 % over 3 pieces (2,000 views)"
    assert first.pieces == ("a", "c", "b")
    assert made.as_json()["cites"] == ["a", "c", "b"]


def test_few_views_count_for_little() -> None:
    seen = [Seen("a", "x", "price", 20, 2), Seen("b", "newsletter", "price", 2000, 120)]
    made = plan(seen, ("x", "newsletter"), ("price",))
    assert _channels(made) == ["newsletter", "x"]
    assert _channels(plan([Seen("a", "x", "price", 19, 19)], ("newsletter", "x"), ("price",))) == [
        "newsletter", "x",
    ]  # fmt: skip


def test_one_post_explores_while_a_channel_is_unknown() -> None:
    seen = [Seen("a", c, "price", 100, 5) for c in ("x", "bluesky", "mastodon")]
    made = plan(seen, ALL, ("price", "size"))
    assert len(made.channels) == 3
    assert [c.measured for c in made.channels] == [True, True, False]
    assert made.channels[2].lead == "size"
    assert [c.lead for c in made.channels[:2]] == [made.kinds[0].name] * 2
    suggested = plan(seen, ALL, ("price",), suggested=("newsletter",))
    assert suggested.channels[2].name == "newsletter"
    assert "suggested" in suggested.channels[2].reason


def test_a_kind_gets_no_credit_for_the_channel_it_was_told_on() -> None:
    seen = [
        # The newsletter is clicked more, whatever is told there; on both, prices do better.
        Seen("a", "newsletter", "material", 1000, 80), Seen("b", "newsletter", "price", 1000, 120),
        Seen("a", "x", "material", 1000, 8), Seen("c", "x", "price", 9000, 108),
    ]  # fmt: skip
    made = plan(seen, ("newsletter", "x"), ("material", "price"))
    shares = {"material": 88 / 2000, "price": 228 / 10_000}
    assert shares["material"] > shares["price"]
    assert _kinds(made) == ["price", "material"]
    assert "times the clicks of its channels over 2 pieces" in made.kinds[0].reason


def test_what_does_worse_than_its_channels_comes_behind_what_nobody_knows() -> None:
    seen = [Seen("a", "x", "price", 1000, 60), Seen("b", "x", "material", 1000, 5)]
    assert _kinds(plan(seen, ("x",), ("material", "size", "price"))) == [
        "price", "size", "material",
    ]  # fmt: skip


@pytest.mark.parametrize("kinds", [(), ("price",)])
def test_a_plan_of_little_is_a_plan(kinds: tuple[str, ...]) -> None:
    made = plan([], (), kinds)
    assert (made.channels, _kinds(made)) == ((), list(kinds))


def test_pieces_without_a_view_say_nothing() -> None:
    had = {"x": {"lead": "price", "views": 0, "clicks": 0}}
    assert seen_of([{"slug": "a", "channels": had}]) == []


# What readers do in the season, which the workflow does not know: clicks of a hundred views.
READERS = {"newsletter": 6.0, "linkedin": 3.0, "site": 2.0}
LIKED = {"price": 2.0, "material": 0.5}
THINGS = ("oak lamp", "pine shelf", "wool rug", "clay mug", "brass clock", "linen towel",
          "glass bowl", "copper pan", "leather bag", "paper lantern")  # fmt: skip


async def test_a_season_of_ten_briefs_learns_what_performs(tmp_path: Path) -> None:
    room, chance = Newsroom(tmp_path), random.Random(7)
    plans = []
    for thing in THINGS:
        brief = {
            "topic": f"our {thing}",
            "text": f"The {thing} is made by hand from local materials.\n"
            f"The {thing} costs 49.90 EUR.\nThe {thing} is 40 cm wide.",
            "channels": ["x", "bluesky", "mastodon", "linkedin", "newsletter"],
        }
        run = await room.run(brief)
        assert run.ended[0] == "published"
        told = run.result["plan"]
        plans.append(told)
        leads = {c: post["lead"] for c, post in run.result["posts"].items()}
        leads["site"] = run.result["sections"][0]["heading"].lower()
        for channel, lead in leads.items():
            share = READERS.get(channel, 0.5) * LIKED.get(lead, 1.0) / 100
            clicks = sum(chance.random() < share for _ in range(1000))
            assert (await room.engage(run.result["slug"], channel, 1000, clicks)).ended[0] == (
                "recorded"
            )
    names = [[choice["name"] for choice in told["channels"]] for told in plans]
    assert names[0] == ["x", "bluesky", "mastodon"] and plans[0]["cites"] == []
    assert names[-1][0] == "newsletter" and names[-1][1] == "linkedin"
    assert [told["kinds"][0]["name"] for told in plans][-3:] == ["price"] * 3
    assert plans[0]["kinds"][0]["name"] != "price"
    # Every plan after the first cites pieces that were out by then, with their figures.
    slugs = [f"our-{thing.replace(' ', '-')}" for thing in THINGS]
    for number, told in enumerate(plans[1:], 1):
        assert told["cites"] and set(told["cites"]) <= set(slugs[:number])
    assert "% over" in plans[-1]["channels"][0]["reason"]
    assert len({tuple(row) for row in names}) >= 3
    # Later articles lead with what performs, and link to earlier pieces on the same things.
    assert room.published(f"{slugs[-1]}.md").index("## Price") < room.published(
        f"{slugs[-1]}.md"
    ).index("## M")
