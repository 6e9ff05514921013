"""What the routine model is taught of content work: brief to outline, outline to posts.

A fact of the evidence fits when it names the brief's topic; facts about other things, news of the
business and injections are left out. Both answers are functions of their prompt: the outline names
each fitting fact's kind and id, a post copies the facts that its outline lists first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from agents.references import References
from agents.workflows.prompts import (
    NO_ANSWER,
    Evidence,
    Message,
    outline_messages,
    posts_messages,
)
from serve.distill.grammar import expand, lexicon, words
from serve.distill.tickets import amount, date

_UNFIT: Final = 0.12  # of the briefs have nothing in their evidence
_DESCRIBED: Final = {"goods": "adjectives", "food": "flavours", "service": "occasions"}
_MOST_COPIED: Final = 4  # facts in all posts of an answer


@dataclass(frozen=True)
class _Line:
    """A line of evidence as a person wrote it. `copied` is the sentence that a post takes; a line
    that fits no topic has no `kind`."""

    text: str
    copied: str = ""
    kind: str = ""


@dataclass(frozen=True)
class _Brief:
    """What is asked for, with its evidence numbered and its values replaced by references.
    `fitting` are the evidence ids to use, with kind and sentence, in the evidence's order."""

    topic: str
    tone: str
    evidence: list[Evidence]
    fitting: list[tuple[str, str, str]]


def make_outline(rng: Random, split: str) -> tuple[list[Message], str]:
    """The prompt for an outline, and the outline or NO_ANSWER."""
    brief = _brief(rng, split)
    audience = rng.choice(words("content", "audiences", split))
    messages = outline_messages(
        topic=brief.topic, audience=audience, tone=brief.tone, evidence=brief.evidence
    )
    if not brief.fitting:
        return messages, NO_ANSWER
    return messages, _outline(brief.topic, audience, brief.fitting)


def make_posts(rng: Random, split: str) -> tuple[list[Message], str]:
    """The prompt for the posts of an outline that a person may have cut and reordered, and the
    posts, or NO_ANSWER where the outline or the evidence has nothing on the topic."""
    brief = _brief(rng, split)
    audience = rng.choice(words("content", "audiences", split))
    points = list(brief.fitting)
    if rng.random() < 0.5:
        points = rng.sample(points, min(len(points), rng.choice((1, 2, 3))))
    # Without a fitting fact, an outline may still be handed over that lists one that does not fit.
    stray = [("E1", rng.choice(lexicon("content")["kinds"]["goods"]), "")]
    listed = points or rng.choice(([], stray))
    channels = _channels(rng)
    messages = posts_messages(
        topic=brief.topic,
        tone=brief.tone,
        outline=_outline(brief.topic, audience, listed),
        evidence=brief.evidence,
        channels=channels,
    )
    posts = [_post(channel, brief.tone, points) for channel in channels]
    return messages, "\n".join(posts) if points else NO_ANSWER


def _outline(topic: str, audience: str, points: list[tuple[str, str, str]]) -> str:
    lines = [f"- {id}: {kind.capitalize()}" for id, kind, _ in points]
    return "\n".join((f"# {topic}", *lines, f"- Call to action for {audience}"))


def _post(channel: str, tone: str, points: list[tuple[str, str, str]]) -> str:
    content = lexicon("content")
    facts = [
        f"({id}) {text.rstrip('.')}." for id, _, text in points[: content["channels"][channel]]
    ]
    return " ".join((f"{channel}: {content['openings'][tone]}", *facts))


def _channels(rng: Random) -> list[str]:
    """One to three channels, each once, that together copy few enough facts."""
    listed: dict[str, int] = lexicon("content")["channels"]
    chosen: list[str] = []
    for channel in rng.sample(list(listed), rng.choice((1, 1, 2, 2, 3))):
        if sum(listed[c] for c in (*chosen, channel)) <= _MOST_COPIED:
            chosen.append(channel)
    return chosen


def _brief(rng: Random, split: str) -> _Brief:
    family = rng.choice(("goods", "goods", "food", "service"))
    thing = _thing(rng, family, split)
    count = 0 if rng.random() < _UNFIT else rng.choice((1, 2, 2, 3, 3, 4))
    kinds = rng.sample(lexicon("content")["kinds"][family], count)
    lines = [_fact(rng, kind, thing, split) for kind in kinds]
    others = rng.choice((0, 1, 1, 2)) if count else rng.choice((1, 2, 2, 3))
    lines += [_distractor(rng, family, thing, split) for _ in range(others)]
    rng.shuffle(lines)
    refs = References()
    topic = expand(rng, rng.choice(words("content", "topics", split)), lambda _: thing)
    evidence: list[Evidence] = []
    fitting: list[tuple[str, str, str]] = []
    for number, line in enumerate(lines, 1):
        evidence.append(Evidence(f"E{number}", "note", refs.rewrite(line.text)))
        if line.kind:
            fitting.append((f"E{number}", line.kind, refs.rewrite(line.copied)))
    return _Brief(topic, rng.choice(list(lexicon("content")["openings"])), evidence, fitting)


def _fact(rng: Random, kind: str, thing: str, split: str) -> _Line:
    """A fact of `kind`, now and then with an injection behind it that a post must not copy."""
    text = _sentence(rng, kind, thing, split)
    trap = f" {_sentence(rng, 'injections', thing, split)}" if rng.random() < 0.04 else ""
    return _Line(text + trap, text, kind)


def _distractor(rng: Random, family: str, thing: str, split: str) -> _Line:
    """A fact about another thing (often of the same family, and of nearly the same name), news of
    the business, or an injection."""
    form = rng.random()
    if form < 0.15:
        return _Line(_sentence(rng, "injections", thing, split))
    if form < 0.4:
        return _Line(_sentence(rng, "news", thing, split))
    family = family if rng.random() < 0.7 else rng.choice(list(_DESCRIBED))
    kind = rng.choice(lexicon("content")["kinds"][family])
    return _Line(_sentence(rng, kind, _other(rng, family, thing, split), split))


def _sentence(rng: Random, kind: str, thing: str, split: str) -> str:
    text = expand(rng, rng.choice(words("content", kind, split)), _slots(rng, thing))
    return text[0].upper() + text[1:]


def _slots(rng: Random, thing: str) -> Callable[[str], str]:
    made: dict[str, Callable[[], Any]] = {
        "thing": lambda: thing,
        "n": lambda: rng.randrange(2, 100),
        "money": lambda: amount(rng),
        "date": lambda: date(rng),
    }
    return lambda name: str(made[name]())


def _thing(rng: Random, family: str, split: str) -> str:
    """The name of a thing, with now and then a made-up word in it."""
    first = rng.choice(words("content", _DESCRIBED[family], split))
    if rng.random() < 0.2:
        first = "".join(rng.choices(words("passages", "syllables", split), k=rng.randrange(2, 4)))
    return f"{first} {rng.choice(words('content', family, split))}"


def _other(rng: Random, family: str, thing: str, split: str) -> str:
    """The name of another thing, which shares a word with `thing` about half the time. Neither
    name holds the other."""
    while True:
        other = _thing(rng, family, split)
        if rng.random() < 0.25:
            other = f"{thing.split()[0]} {other.split(' ', 1)[1]}"
        elif rng.random() < 0.35:
            other = f"{other.split()[0]} {thing.split(' ', 1)[1]}"
        if other not in thing and thing not in other:
            return other


__all__ = ["make_outline", "make_posts"]
