"""Checks of a piece, and the piece as Markdown and HTML."""

from typing import Any

import pytest

from agents.workflows.content.article import as_html, markdown
from agents.workflows.content.seo import checked, reading_ease, syllables_of

DESCRIPTION = "The oak lamp is made by hand. It stands on any shelf and costs 49.90 EUR."


def _piece(**changes: Any) -> dict[str, Any]:
    passage = {"text": "The oak lamp is 40 cm high.", "facts": ["F1"], "sources": [1]}
    return {
        "slug": "oak-lamp", "topic": "oak lamp", "title": "The oak lamp: size and price",
        "description": DESCRIPTION, "keywords": [],
        "sections": [{"heading": "Size", "passages": [passage]}],
        "sources": ["https://www.example.com/oak"], "related": [], "posts": {}, "leads": {},
        **changes,
    }  # fmt: skip


def _flaws(piece: dict[str, Any], *keywords: str) -> dict[str, str]:
    return {f["check"]: f["severity"] for f in checked(piece, keywords)["flaws"]}


def test_a_good_piece_has_no_flaw() -> None:
    told = checked(_piece(), ["oak lamp", "prices"])
    assert told["flaws"] == []
    assert told["coverage"] == 1.0 and told["ease"] > 80


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"title": ""}, {"title": "hard"}),
        ({"title": "Oak lamp"}, {"title": "soft"}),
        ({"title": "x" * 60}, {}),
        ({"title": "x" * 61}, {"title": "soft"}),
        ({"title": "x" * 76}, {"title": "hard"}),
        ({"description": ""}, {"description": "hard"}),
        ({"description": "y" * 49}, {"description": "soft"}),
        ({"description": "y" * 160}, {}),
        ({"description": "y" * 161}, {"description": "soft"}),
        ({"description": "y" * 221}, {"description": "hard"}),
        ({"sections": []}, {"headings": "hard"}),
        ({"sources": []}, {"links": "soft"}),
        ({"sources": [], "related": [{"title": "a", "url": "javascript:x()"}]}, {"links": "hard"}),
        ({"related": [{"title": "a", "url": "/oak-lamp"}]}, {"links": "soft"}),
        ({"related": [{"title": "a", "url": "/pine-lamp"}]}, {}),
    ],
)
def test_what_is_wrong_with_a_piece(changes: dict[str, Any], expected: dict[str, str]) -> None:
    assert _flaws(_piece(**changes)) == expected


def test_the_same_heading_twice_is_a_soft_flaw() -> None:
    section = _piece()["sections"][0]
    assert _flaws(_piece(sections=[section, section])) == {"headings": "soft"}


def test_keywords_are_covered_in_singular_or_plural() -> None:
    assert _flaws(_piece(), "Oak Lamps") == {}
    assert _flaws(_piece(), "oak lamp", "chandelier") == {"keywords": "soft"}
    assert _flaws(_piece(), "oak lamp", "chandelier", "ladder") == {"keywords": "hard"}
    assert checked(_piece(), ["oak lamp", "chandelier", "ladder"])["coverage"] == 0.33


def test_hard_words_are_hard_to_read() -> None:
    hard = "Institutional considerations necessitate organisational transformation initiatives."
    section = {"heading": "Size", "passages": [{"text": hard, "facts": ["F1"], "sources": []}]}
    assert _flaws(_piece(sections=[section])) == {"readability": "soft"}
    assert reading_ease("The cat sat on the mat.") > 100 > 0 > reading_ease(hard)
    assert reading_ease("") == 100.0


@pytest.mark.parametrize(
    ("word", "count"),
    [
        ("lamp", 1), ("table", 2), ("made", 1), ("wanted", 2), ("cleaned", 1), ("organised", 3),
        ("delivery", 4), ("guarantee", 3), ("the", 1), ("houses", 2), ("rhythm", 1), ("brushes", 2),
    ],
)  # fmt: skip
def test_syllables(word: str, count: int) -> None:
    assert syllables_of(word) == count


def test_a_piece_in_markdown_and_html_cites_its_sources_and_carries_no_tags() -> None:
    nasty = {"text": "The *oak* lamp <b>is</b> [big](x).", "facts": ["F1"], "sources": [1]}
    piece = _piece(sections=[{"heading": "Si<ze", "passages": [nasty]}])
    text = markdown(piece)
    assert text.startswith("# The oak lamp: size and price\n\n")
    assert r"The \*oak\* lamp &lt;b&gt;is&lt;/b&gt; \[big\](x). [1]" in text
    assert "## Sources\n\n1. [example.com](https://www.example.com/oak)" in text
    page = as_html(piece)
    assert "<b>" not in page and "<h2>Si&lt;ze</h2>" in page
    assert '<a href="https://www.example.com/oak">example.com</a>' in page
