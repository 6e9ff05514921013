"""A ticket in another language is worked in English and answered in its own, by who speaks it."""

from pathlib import Path
from typing import Any

import pytest

from agents.workflows.answering import Parts
from agents.workflows.languages import Tongues, detected
from agents.workflows.support import work
from cluster.errors import InvalidInput
from cluster.settings import ModelSection
from serve.catalog import Catalog
from serve.features import features_of
from serve.routing import Load, able, route
from serve.schemas import ChatRequest, Options, read
from tests.fakes import (
    ListRecaller,
    Office,
    ScriptedChat,
    ScriptedClassifier,
    connector,
    plan_text,
    support_section,
    ticket,
)
from tests.traced import LOOK

GERMAN = "T-003"  # "hallo, wo bleibt mein Hocker? bestellnr LO-48301, hab noch nix gehört. ..."
ENGLISH = "Hello, where is my stool? Order [ORDER_1], thanks, [NAME_1]"
DRAFT = "(E1) Your order [ORDER_1] is processing."
ANSWER = "Ihre Bestellung [ORDER_1] wird bearbeitet."


class Case:
    """The German ticket, and what models say to it in turn."""

    def __init__(
        self, folder: Path, auto: list[str | Exception], spoken: tuple[tuple[str, ...], ...],
        **section: Any,
    ) -> None:  # fmt: skip
        desk = connector(folder)
        desk.open_tickets([ticket(GERMAN)])
        self.office = Office(desk, GERMAN)
        scripts: dict[str, list[str | Exception]] = {
            "planner": [plan_text(LOOK, {"tool": "reply"})], "routine": [DRAFT], "auto": auto,
        }  # fmt: skip
        self.chat = ScriptedChat(scripts)
        self.classifier = ScriptedClassifier()
        self.parts = Parts(
            self.chat, self.classifier, ListRecaller([]), support_section(**section), "planner",
            "routine", 5.0, tongues=Tongues(self.chat, spoken, 5.0),
        )  # fmt: skip

    async def ends(self) -> str:
        await work(self.office.turn(), self.parts)
        assert self.office.state.ended is not None
        return self.office.state.ended.decision

    @property
    def sent(self) -> str:
        return str(self.office.connector.sent(GERMAN))


async def test_it_is_worked_in_english_and_answered_in_its_own(tmp_path: Path) -> None:
    case = Case(tmp_path, [ENGLISH, ANSWER], (("en",), ("en", "de")))
    assert await case.ends() == "replied"
    assert case.sent == "Ihre Bestellung LO-48301 wird bearbeitet."
    assert case.classifier.seen == [ENGLISH]
    assert case.office.state.ended is not None
    result = case.office.state.ended.result
    assert (result["language"], len(result["usage"])) == ("de", 4)


async def test_a_translation_that_loses_or_makes_up_a_value_is_not_used(tmp_path: Path) -> None:
    wrong = ["Ihre Bestellung wird bearbeitet.", "[ORDER_1] und [ORDER_2] werden bearbeitet."]
    case = Case(tmp_path, [ENGLISH, *wrong], (("en",), ()))
    assert await case.ends() == "replied"
    assert case.sent == "Your order LO-48301 is processing."
    assert case.chat.calls("auto") == 3


async def test_a_ticket_that_no_translation_holds_is_worked_as_it_is(tmp_path: Path) -> None:
    case = Case(tmp_path, ["Where is it?"], ((),))
    assert await case.ends() == "replied"
    assert "LO-48301" not in case.classifier.seen[0] and "Hocker" in case.classifier.seen[0]


@pytest.mark.parametrize(("who", "ends"), [("english", "replied"), ("person", "escalated")])
async def test_what_nobody_speaks_goes_where_the_settings_say(
    tmp_path: Path, who: str, ends: str
) -> None:
    case = Case(tmp_path, ["never"], (("en",), ("en", "fr")), unspoken=who)
    assert await case.ends() == ends
    assert case.chat.calls("auto") == 0


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Where is my order [ORDER_1]? It should be here by now.", "en"),
        ("Wo bleibt meine Bestellung [ORDER_1]? Ich warte seit Tagen.", "de"),
        ("Bonjour, ma commande [ORDER_1] n'est pas arrivée", "fr"),
        ("La lampada è rotta, vorrei un rimborso", "it"),
        ("Hola, no he recibido mi pedido todavía", "es"),
        ("Mijn pakket is niet aangekomen", "nl"),
        ("ok", "en"), ("", "en"), ("[ORDER_1] [NAME_1]", "en"), ("refund pls", "en"),
    ],
)  # fmt: skip
def test_which_language_it_is(text: str, language: str) -> None:
    assert detected(text) == language


# --- the router's part


def catalog(*spoken: tuple[str, tuple[str, ...]]) -> Catalog:
    return Catalog(
        tuple(
            ModelSection(
                id=f"m{i}", source="x", tier="planner" if tier == "planner" else "routine",
                usd_per_mtok_in=1.0 + i, usd_per_mtok_out=1.0 + i, languages=languages,
            )
            for i, (tier, languages) in enumerate(spoken)
        )
    )  # fmt: skip


def asked(**options: Any) -> ChatRequest:
    body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "mainspring": options}
    return read(ChatRequest, body)


@pytest.mark.parametrize(
    ("language", "models", "why"),
    [
        ("", ("m0", "m1", "m2"), "short and plain"),
        ("de", ("m1", "m2"), "in de"),
        ("fr", ("m2",), "in fr"),
        ("en", ("m0", "m1", "m2"), "short and plain"),
    ],
)
def test_the_router_leaves_out_who_does_not_speak_it(
    language: str, models: tuple[str, ...], why: str
) -> None:
    known = catalog(("routine", ("en",)), ("routine", ("en", "de")), ("planner", ()))
    load = {f"m{i}": Load(1, 0, 8) for i in range(3)}
    features = features_of(asked(language=language) if language else asked())
    chosen = route(features, known, load)
    assert (chosen.models, why in chosen.reason) == (models, True)
    assert set(able(features, known, load)) == set(models)


def test_where_nobody_speaks_it_the_router_says_so_and_asks_as_ever() -> None:
    known = catalog(("routine", ("en",)), ("planner", ("en",)))
    chosen = route(
        features_of(asked(language="de")), known, {f"m{i}": Load(1, 0, 8) for i in (0, 1)}
    )
    assert chosen.models == ("m0", "m1") and "no model speaks de" in chosen.reason


@pytest.mark.parametrize("language", ["", "german", "DE", "d1"])
def test_a_language_that_is_none_is_refused(language: str) -> None:
    with pytest.raises(InvalidInput, match="language"):
        asked(language=language)
    assert Options().language is None
