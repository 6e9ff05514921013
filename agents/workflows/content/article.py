"""PURE: a piece put together: what search engines are shown, and the article in Markdown and HTML.

A piece is JSON, as it stands in the journal and goes to the desk: slug, topic, title, description,
sections (heading, passages of text with the ids of their facts), sources, related, posts, kinds.
"""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from agents.workflows.content.brief import Brief
from agents.workflows.content.evidence import Fact

Piece = dict[str, Any]
TITLE: Final = (15, 60)
DESCRIPTION: Final = (50, 160)
"""The characters that search engines show of them, and the fewest that say something."""
_MARKED: Final = re.compile(r"([\\`*_\[\]#|])")


def piece_of(
    brief: Brief,
    facts: Sequence[Fact],
    text: Mapping[str, Any],
    related: Sequence[Mapping[str, str]],
) -> Piece:
    """The piece of a brief from its `written` texts; `related` are earlier pieces (title, url)."""
    sources = {fact.id: fact.source for fact in facts if fact.source}
    said = [p["text"] for s in text["sections"] for p in s["passages"]]
    return {
        "slug": brief.subject,
        "topic": brief.topic,
        "title": brief.title or _title(brief.topic, [s["heading"] for s in text["sections"]]),
        "description": brief.description or _description(said) or _named(brief),
        "keywords": list(brief.keywords),
        "sections": [
            {
                "heading": s["heading"],
                "passages": [
                    {**p, "sources": sorted({sources[f] for f in p["facts"] if f in sources})}
                    for p in s["passages"]
                ],
            }
            for s in text["sections"]
        ],
        "sources": list(brief.sources),
        "related": [{"title": r["title"], "url": r["url"]} for r in related],
        "posts": {channel: post["text"] for channel, post in text["posts"].items()},
        "leads": {channel: post["lead"] for channel, post in text["posts"].items()},
    }


def plain(piece: Piece) -> str:
    """The article's sentences, without headings."""
    return " ".join(p["text"] for s in piece["sections"] for p in s["passages"])


def headings(piece: Piece) -> list[str]:
    """Those of its sections."""
    return [s["heading"] for s in piece["sections"]]


def links(piece: Piece) -> list[tuple[str, str]]:
    """Its links as (words, address)."""
    own = [(r["title"], r["url"]) for r in piece["related"]]
    return [*own, *((_host(url), url) for url in piece["sources"])]


def markdown(piece: Piece) -> str:
    """The article; no HTML of a fact comes through."""
    rows = [f"# {_md(piece['title'])}", _md(piece["description"])]
    for section in piece["sections"]:
        rows.append(f"## {_md(section['heading'])}")
        rows.append(
            "\n".join(_cited(_md(p["text"]), p["sources"], "[{0}]") for p in section["passages"])
        )
    for heading, items in _lists(piece):
        rows.append(f"## {heading}")
        rows.append(
            "\n".join(f"{n}. [{_md(words)}]({url})" for n, (words, url) in enumerate(items, 1))
        )
    return "\n\n".join(rows) + "\n"


def as_html(piece: Piece) -> str:
    """The article without its title, which a site shows itself."""
    rows = [f"<p>{_esc(piece['description'])}</p>"]
    for section in piece["sections"]:
        said = " ".join(_cited(_esc(p["text"]), p["sources"], "[{0}]") for p in section["passages"])
        rows += [f"<h2>{_esc(section['heading'])}</h2>", f"<p>{said}</p>"]
    for heading, items in _lists(piece):
        listed = "".join(f'<li><a href="{_esc(url)}">{_esc(w)}</a></li>' for w, url in items)
        rows += [f"<h2>{heading}</h2>", f"<ol>{listed}</ol>"]
    return "\n".join(rows)


def _lists(piece: Piece) -> list[tuple[str, list[tuple[str, str]]]]:
    related = [(r["title"], r["url"]) for r in piece["related"]]
    sources = [(_host(url), url) for url in piece["sources"]]
    return [(h, rows) for h, rows in (("Read on", related), ("Sources", sources)) if rows]


def _title(topic: str, kinds: Sequence[str]) -> str:
    title = topic[:1].upper() + topic[1:]
    told = [kind.lower() for kind in kinds][:3]
    listed = " and ".join(([", ".join(told[:-1])] if told[:-1] else []) + told[-1:])
    longer = f"{title}: {listed}"
    return longer if len(title) < 40 and len(longer) <= TITLE[1] and told else title


def _description(said: Sequence[str]) -> str:
    """Whole sentences of the article, as many as are shown."""
    found = ""
    for text in said:
        longer = f"{found} {text}".strip()
        if len(longer) <= DESCRIPTION[1]:
            found = longer
    return found


def _named(brief: Brief) -> str:
    """A description by the brief's own words, where no fact is short enough."""
    return f"{brief.topic[:1].upper()}{brief.topic[1:]}, for {brief.audience}"


def _cited(text: str, sources: Sequence[int], form: str) -> str:
    return " ".join([text, *(form.format(number) for number in sources)])


def _host(url: str) -> str:
    return re.sub(r"^https?://(?:www\.)?", "", url).split("/")[0]


def _md(text: str) -> str:
    return _MARKED.sub(r"\\\1", html.escape(text, quote=False))


def _esc(text: str) -> str:
    return html.escape(text, quote=True)
