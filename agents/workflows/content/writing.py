"""The texts of a piece: the article's sections and the posts, written by the routine model from the
outlined facts and checked against them; what does not hold is composed of the facts word for word.
"""

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from agents.workflows.content.brief import CHANNELS, OPENINGS, length
from agents.workflows.content.evidence import Fact
from agents.workflows.content.outline import ATTEMPTS, COMPOSED, MODEL, Writer, outline_text
from agents.workflows.content.sheet import SIZE, Sheet
from agents.workflows.prompts import citation, citations, posts_messages

_TOKENS: Final = 240
_IN_ONE: Final = 4  # facts in all posts of an answer, and
_CHANNELS: Final = 3  # channels, as the reference model is taught
_SECTION: Final = 2  # facts of a section that are written at once
_AS: Final = "newsletter"
"""The channel whose posts the sections of an article are written as."""


def told(
    facts: Sequence[Fact], points: Sequence[Mapping[str, str]], kinds: Sequence[str]
) -> list[Fact]:
    """The outlined facts, those of the first of `kinds` first."""
    chosen = {point["fact"] for point in points}
    order = {kind: place for place, kind in enumerate(kinds)}
    return sorted((f for f in facts if f.id in chosen), key=lambda f: order.get(f.kind, len(order)))


async def written(
    writer: Writer, facts: Sequence[Fact], channels: Sequence[Mapping[str, str]], link: str = ""
) -> dict[str, Any]:
    """`sections` (heading, passages, by), `posts` by channel (text, facts, lead, by), `skipped`
    (why a channel has no post), `findings` (what is in no fact all the same), `problems` of answers
    that were of no use, and `usage`. `channels` are a plan's choices."""
    sections = [_section(writer, *each) for each in _sections(facts)]
    groups = [_posts(writer, facts, *each, link) for each in enumerate(_groups(channels), 1)]
    wrote = await asyncio.gather(asyncio.gather(*sections), asyncio.gather(*groups))
    parts: list[dict[str, Any]] = [*wrote[0], *wrote[1]]
    posts = {c: post for part in wrote[1] for c, post in part["posts"].items()}
    return {
        "sections": _joined([part["section"] for part in wrote[0]]),
        "posts": {c["name"]: posts[c["name"]] for c in channels if c["name"] in posts},
        "skipped": {
            c["name"]: f"no fact fits into {CHANNELS[c['name']].limit} characters"
            for c in channels
            if c["name"] not in posts
        },
        "findings": [f for part in parts for f in part["findings"]],
        "problems": [p for part in parts for p in part["problems"]],
        "usage": [u for part in parts for u in part["usage"]],
    }  # fmt: skip


# --- the article


def _sections(facts: Sequence[Fact]) -> Iterator[tuple[int, str, list[Fact]]]:
    """A number, a heading and at most _SECTION facts of one kind, for each."""
    by_kind: dict[str, list[Fact]] = {}
    for one in facts:
        by_kind.setdefault(one.kind, []).append(one)
    number = 0
    for kind, rows in by_kind.items():
        for at in range(0, len(rows), _SECTION):
            number += 1
            yield number, kind.capitalize(), rows[at : at + _SECTION]


async def _section(
    writer: Writer, number: int, heading: str, facts: Sequence[Fact]
) -> dict[str, Any]:
    sheet = _sheet(writer, facts)
    messages = _messages(writer, sheet, facts, [_AS])
    ids = [e.id for e in sheet.evidence]
    usage: list[dict[str, Any]] = []
    problems: list[str] = []
    for attempt in range(ATTEMPTS):
        answer, used = await writer.ask(messages, f"section-{number}", attempt, _TOKENS)
        usage += [used] if used else []
        text = _by_channel(answer, [_AS]).get(_AS, "")
        found = sheet.findings(text)
        if not found and sorted(citations(text)) != sorted(ids):
            found = [f"not all facts: {', '.join(citations(text))} of {', '.join(ids)}"]
        if not found:
            break
        problems.append(f"section {heading}: {'; '.join(found[:3])}")
    else:
        text = _composed(writer.tone, sheet, ids)
        found = sheet.findings(text)
    by = MODEL if len(problems) < ATTEMPTS else COMPOSED
    section = {"heading": heading, "passages": sheet.passages(text), "by": by}
    return {"section": section, "findings": found, "problems": problems, "usage": usage}


def _joined(sections: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Parts under the same heading as one section."""
    found: dict[str, dict[str, Any]] = {}
    for part in sections:
        known = found.setdefault(part["heading"], {**part, "passages": []})
        known["passages"] += part["passages"]
        known["by"] = part["by"] if part["by"] == known["by"] else "both"
    return list(found.values())


# --- the posts


def _groups(channels: Sequence[Mapping[str, str]]) -> list[tuple[str, list[str]]]:
    """Channels whose posts lead with the same kind, as many as one answer holds."""
    groups: list[tuple[str, list[str]]] = []
    for choice in channels:
        name, lead = choice["name"], choice.get("lead", "")
        if groups and groups[-1][0] == lead and _fits([*groups[-1][1], name]):
            groups[-1][1].append(name)
        else:
            groups.append((lead, [name]))
    return groups


def _fits(channels: Sequence[str]) -> bool:
    return len(channels) <= _CHANNELS and sum(CHANNELS[c].facts for c in channels) <= _IN_ONE


async def _posts(
    writer: Writer, facts: Sequence[Fact], number: int, group: tuple[str, list[str]], link: str
) -> dict[str, Any]:
    lead, channels = group
    ordered = sorted(facts, key=lambda one: one.kind != lead)
    sheet = _sheet(writer, ordered[:SIZE])
    messages = _messages(writer, sheet, ordered[:SIZE], channels)
    kinds = {one.id: one.kind for one in ordered}
    posts: dict[str, dict[str, Any]] = {}
    usage: list[dict[str, Any]] = []
    problems: list[str] = []
    for attempt in range(ATTEMPTS):
        answer, used = await writer.ask(messages, f"posts-{number}", attempt, _TOKENS)
        usage += [used] if used else []
        texts = _by_channel(answer, channels)
        for channel in [c for c in channels if c not in posts]:
            found = _wrong(sheet, channel, texts.get(channel, ""), link)
            problems += [f"{channel}: {f}" for f in found[:3]]
            if not found:
                posts[channel] = _post(sheet, texts[channel], link, kinds, MODEL)
        if len(posts) == len(channels):
            break
    findings: list[str] = []
    for channel in [c for c in channels if c not in posts]:
        text = _fitted(writer.tone, sheet, channel, link)
        if text:
            findings += [f"{channel}: {f}" for f in sheet.findings(text)]
            posts[channel] = _post(sheet, text, link, kinds, COMPOSED)
    return {"posts": posts, "findings": findings, "problems": problems, "usage": usage}


def _wrong(sheet: Sheet, channel: str, text: str, link: str) -> list[str]:
    found = sheet.findings(text)
    if long := length(channel, _linked(sheet.rendered(text), link)) - CHANNELS[channel].limit:
        found += [f"{long} characters too many"] if long > 0 else []
    return found


def _post(sheet: Sheet, text: str, link: str, kinds: Mapping[str, str], by: str) -> dict[str, Any]:
    facts = [fact.id for fact in sheet.cited(text)]
    return {
        "text": _linked(sheet.rendered(text), link), "facts": facts,
        "lead": kinds[facts[0]], "by": by,
    }  # fmt: skip


def _fitted(tone: str, sheet: Sheet, channel: str, link: str) -> str:
    """A post of as many facts as the channel takes and holds, the first ones first; "" for none."""
    ids: list[str] = []
    for evidence in sheet.evidence:
        text = _composed(tone, sheet, [*ids, evidence.id])
        if length(channel, _linked(sheet.rendered(text), link)) <= CHANNELS[channel].limit:
            ids.append(evidence.id)
        if len(ids) == CHANNELS[channel].facts:
            break
    return _composed(tone, sheet, ids) if ids else ""


def _composed(tone: str, sheet: Sheet, ids: Sequence[str]) -> str:
    texts = {e.id: e.text for e in sheet.evidence}
    facts = [f"{citation([id])} {_ended(texts[id])}" for id in ids]
    return " ".join((OPENINGS[tone], *facts))


def _ended(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _linked(text: str, link: str) -> str:
    return f"{text} {link}" if link else text


def _by_channel(answer: str, channels: Sequence[str]) -> dict[str, str]:
    """The posts of an answer: a line for each channel, which names it first."""
    found: dict[str, str] = {}
    for line in answer.splitlines():
        name, colon, text = line.strip().partition(":")
        if colon and name.strip().lower() in channels and text.strip():
            found.setdefault(name.strip().lower(), text.strip())
    return found


def _sheet(writer: Writer, facts: Sequence[Fact]) -> Sheet:
    own = re.sub(r"\s+", " ", f"{OPENINGS[writer.tone]} {writer.topic} {writer.audience}")
    return Sheet(facts, own)


def _messages(
    writer: Writer, sheet: Sheet, facts: Sequence[Fact], channels: Sequence[str]
) -> list[dict[str, str]]:
    points = [(sheet.id_of(one), one.kind) for one in facts]
    return posts_messages(
        topic=writer.topic, tone=writer.tone, evidence=sheet.evidence, channels=channels,
        outline=outline_text(writer.topic, writer.audience, points),
    )  # fmt: skip
