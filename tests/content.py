"""Runs of the workflow `content` for tests: a brief, a model that says what it should, a season."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agents.chat import Completion
from agents.packs import Pack
from agents.workflows.content.brief import CHANNELS, OPENINGS
from agents.workflows.prompts import OUTLINE_SYSTEM, Message
from tests.fakes import FakeClock, ListRecaller
from tests.packs import PackOffice, parts, shipped

FACTS: Final = (
    "The oak lamp is made of solid oak and brass.",
    "The oak lamp costs 49.90 EUR until 3 May.",
    "The oak lamp is 40 cm high.",
)
OTHERS: Final = ("The pine lamp costs 20 EUR.", "Our shop is open from 9 to 17.")
BRIEF: Final[dict[str, Any]] = {
    "topic": "the new oak lamp",
    "audience": "students",
    "tone": "friendly",
    "text": "\n".join(f"- {line}" for line in (*FACTS, *OTHERS)),
    "keywords": ["oak lamp"],
    "sources": ["https://example.com/oak"],
}
_POINT: Final = re.compile(r"^- (E\d+): ", re.MULTILINE)
_EVIDENCE: Final = re.compile(r"^(E\d+) (.+)$", re.MULTILINE)


@dataclass
class GoodWriter:
    """Answers as the routine reference model is taught to: an outline of the facts that name the
    topic's last two words, posts of the facts that an outline lists first. `asked` keeps the
    prompts."""

    asked: list[list[Message]] = field(default_factory=list)

    async def complete(
        self, model: str, messages: Sequence[Message], *, schema: dict[str, Any] | None = None,
        max_tokens: int, timeout_s: float, request_id: str, seed: int = 0,
        temperature: float = 0.0,
        language: str = "",
    ) -> Completion:  # fmt: skip
        self.asked.append(list(messages))
        return Completion(self.answer(messages), model, "named", 100, 10, 0.001, 0.25)

    def answer(self, messages: Sequence[Message]) -> str:
        told = messages[-1]["content"]
        topic = told.partition("topic: ")[2].partition("\n")[0]
        block = told.partition("<evidence>\n")[2].partition("\n</evidence>")[0]
        facts = dict(_EVIDENCE.findall(block))
        if messages[0]["content"] == OUTLINE_SYSTEM:
            thing = " ".join(topic.split()[-2:])
            points = [f"- {id}: Details" for id, text in facts.items() if thing in text]
            return "\n".join((f"# {topic}", *points, "- Call to action for you"))
        tone = told.partition("tone: ")[2].partition("\n")[0]
        ids = _POINT.findall(told)
        channels = told.partition("<channels>")[2].partition("</channels>")[0].split(", ")
        return "\n".join(
            " ".join(
                (f"{c}: {OPENINGS[tone]}",
                 *(f"({id}) {facts[id]}" for id in ids[: CHANNELS[c].facts]))
            )
            for c in channels
        )  # fmt: skip


class Newsroom:
    """Runs of `content` one after another on the same desk in `folder`."""

    def __init__(self, folder: Path, chat: Any = None) -> None:
        self.folder, self.clock = folder, FakeClock()
        self.chat = chat or GoodWriter()
        self.memory = ListRecaller()
        self.pack: Pack = shipped("content")
        self._runs = 0

    def office(self, given: dict[str, Any], **options: Any) -> PackOffice:
        """A new run."""
        self._runs += 1
        return PackOffice(
            self.pack, self.folder, given, run_id=f"run_{self._runs}", clock=self.clock, **options
        )

    @property
    def parts(self) -> Any:
        return parts(self.chat, self.memory, self.clock)

    async def run(self, given: dict[str, Any], **options: Any) -> PackOffice:
        """A run that is worked until it ends or waits."""
        office = self.office(given, **options)
        await office.work(self.parts)
        return office

    async def engage(self, slug: str, channel: str, views: int, clicks: int) -> PackOffice:
        given = {"task": "engagement", "subject": slug, "channel": channel}
        return await self.run({**given, "views": views, "clicks": clicks})

    def published(self, name: str) -> str:
        return (self.files / "published" / name).read_text("utf-8")

    @property
    def files(self) -> Path:
        return self.folder / "packs" / "content" / "files"
