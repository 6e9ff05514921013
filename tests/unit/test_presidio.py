"""Presidio behind our own patterns: where its extra is installed; where not, it says so."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from pydantic import ValidationError

from agents import presidio
from agents.helpdesk import HelpDesk
from agents.pii import Found, Vault
from agents.presidio import KINDS, detectors, require
from agents.pseudonyms import Pseudonyms
from agents.references import PERSONAL
from cluster.errors import ConfigError
from cluster.settings import PiiSection
from tests.fakes import FakeClock

PRESIDIO = PiiSection(engine="presidio")
here = pytest.mark.skipif(
    not all(find_spec(name) for name in ("presidio_analyzer", "spacy")),
    reason="the extra presidio is not installed: pip install 'mainspring[presidio]'",
)


def words(text: str) -> Iterator[Found]:
    """Takes every word `secret` for a national number."""
    at = text.find("secret")
    while at >= 0:
        yield "ID", at, at + len("secret")
        at = text.find("secret", at + 1)


def test_patterns_are_the_default_and_need_nothing() -> None:
    assert PiiSection().engine == "patterns"
    assert detectors(PiiSection()) == ()
    with pytest.raises(ValidationError):
        PiiSection.model_validate({"engine": "magic"})
    with pytest.raises(ValidationError):
        PiiSection(engine="presidio", languages=())


def test_an_engine_that_is_not_installed_is_named_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(presidio, "_PACKAGES", ("presidio_analyzer", "no_such_package"))
    with pytest.raises(ConfigError, match=r"agents.pii.engine.*mainspring\[presidio\]"):
        require(PRESIDIO)
    require(PiiSection())


def test_every_kind_is_one_of_ours() -> None:
    assert set(KINDS.values()) <= set(PERSONAL)


def test_what_another_finds_is_numbered_behind_ours_and_comes_back() -> None:
    vault = Vault(more=[words])
    text = "secret bo@example.org secret AB"
    assert vault.redact(text) == "[ID_1] [EMAIL_1] [ID_1] AB"
    assert vault.redact("[ID_1] is secret") == "[ID_1] is [ID_1]"
    assert vault.render("[ID_1] [EMAIL_1]") == "secret bo@example.org"


def test_a_desk_and_an_export_use_what_they_are_given(tmp_path: Path) -> None:
    desk = HelpDesk(tmp_path / "desk.db", FakeClock(), [words])
    with desk.transaction() as db:
        db.execute(
            "insert into customers values ('C-1','Bo Li','b@example.org','','','2026-01-02')"
        )
    desk.open_ticket("T-1", "C-1", "", "my secret", "2026-01-03")
    assert desk.read_ticket("T-1")["text"] == "my [ID_1]"
    assert desk.redact("T-1", "a secret") == "a [ID_1]"
    desk.close()
    kept = Pseudonyms("sqlite:///p.db", tmp_path, FakeClock(), [words])
    hidden = kept.hide("t", "my secret")
    assert hidden.startswith("my [ID:")
    assert kept.reveal("t", hidden) == ("my secret", 0)
    kept.close()


@pytest.fixture(scope="module")
def engine() -> presidio.Presidio:
    (made,) = detectors(PRESIDIO)
    assert isinstance(made, presidio.Presidio)
    return made


@here
def test_presidio_finds_with_blank_models_and_reaches_nothing(engine: presidio.Presidio) -> None:
    # Sockets are off in these tests: whatever it would fetch is an error.
    text = (
        "I'm Bob, bob@example.com, card 4539 5787 6362 1486, DE04 5001 0517 0000 0123 45, 10.0.0.1"
    )
    found = [(kind, text[a:b]) for kind, a, b in engine(text)]
    assert ("EMAIL", "bob@example.com") in found
    assert ("CARD", "4539 5787 6362 1486") in found
    assert ("IBAN", "DE04 5001 0517 0000 0123 45") in found
    assert ("IP", "10.0.0.1") in found
    assert "NAME" not in {kind for kind, _ in found}  # a blank model knows no names
    assert list(engine("nothing of the kind, at 12:30")) == []


@here
def test_presidio_adds_what_ours_do_not_know(engine: presidio.Presidio) -> None:
    text = "the prescription of AB1234563"  # a registration number, by its checksum
    assert Vault().redact(text) == text
    assert Vault(more=[engine]).redact(text) == "the prescription of [ID_1]"
    assert Vault(more=[engine]).redact("the part AB1234564") == "the part AB1234564"


@here
def test_a_language_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match=r"agents.pii.languages"):
        detectors(PiiSection(engine="presidio", languages=("xx-none",)))
