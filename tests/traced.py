"""Runs as people judge them: a small office of worlds whose models are scripted, and the workflow
as an export replays it."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from agents.chat import Chat
from agents.state import RunState
from agents.turn import Turn
from agents.workflows import support
from agents.workflows.answering import Parts
from agents.workflows.prompts import Message
from cluster.settings import AgentsSection
from tests.fakes import (
    ListRecaller,
    ScriptedChat,
    ScriptedClassifier,
    plan_text,
    support_section,
    ticket,
)
from tests.world import GOVERNED, World

LOOK = {"tool": "lookup_order", "order": "[ORDER_1]"}
REFUND = {"tool": "refund", "order": "[ORDER_1]", "amount": "[AMOUNT_1]"}
REFUND_PLAN = plan_text(LOOK, REFUND, {"tool": "reply"})
REFUND_DRAFT = "We are sorry. (E2) The refund of [AMOUNT_1] for order [ORDER_1] is done."
TICKET = "T-006"  # Priya: a cracked carafe, order LO-48055, 18.50 EUR asked back


@dataclass
class Models:
    """What a world's models say: the scripts may be changed between runs."""

    chat: ScriptedChat = field(
        default_factory=lambda: ScriptedChat({"planner": [REFUND_PLAN], "routine": [REFUND_DRAFT]})
    )
    classifier: ScriptedClassifier = field(
        default_factory=lambda: ScriptedClassifier(intent="damaged_item")
    )
    memory: ListRecaller = field(
        default_factory=lambda: ListRecaller(
            [("policy:damage", "Damaged items are paid back or sent again.")]
        )
    )

    def parts(self) -> Parts:
        return Parts(
            self.chat, self.classifier, self.memory, support_section(), "planner", "routine", 5.0
        )

    def asked(self, model: str) -> list[list[Message]]:
        """The messages that a model received, in order."""
        return [messages for name, messages in self.chat.asked if name == model]


class Shop(World):
    """A world with the shipped tickets on the desk, worked by `models`."""

    def __init__(self, folder: Path, models: Models) -> None:
        work = partial(support.work, parts=models.parts())
        super().__init__(folder, work, AgentsSection(model_timeout_s=5, **GOVERNED))
        self.models = models
        self.connector.open_tickets([ticket(n) for n in (TICKET, "T-001", "T-002", "T-003")])

    async def run(
        self,
        key: str = "k",
        number: str = TICKET,
        agent: str = "support/C",
        tenant: str = "default",
    ) -> RunState:
        """One ticket, worked to its end."""
        given = {"ticket": number, "head": "support"}
        run_id = await self.orchestrator.submit(tenant, key, "support", agent, given)
        (state,) = await self.ended(run_id)
        return state


class Never:
    """A part that a replay must not ask."""

    async def remember(self, records: Any, note: Any = None) -> int:
        return 0  # it was remembered when the run was worked

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for in a replay")


async def replayed(turn: Turn, chat: Chat) -> None:
    """The support workflow as an export fills it in."""
    parts = Parts(chat, Never(), Never(), support_section(), "planner", "routine", 5.0)
    await support.work(turn, parts)
