"""What an agent host works with, built inside its actor: models, encoder and memory by handle."""

import asyncio
import functools
import os
from collections.abc import Sequence
from typing import Any

from ray import serve as ray_serve

from agents.chat import Chat, HttpChat
from agents.host import Workflow
from agents.offering import Offering
from agents.packs import PackParts, load
from agents.toolbox import PINS
from agents.turn import Turn
from agents.workflows import answering, compression, conversation, desk, support, tool, triage
from agents.workflows.languages import Tongues
from cluster.errors import DeadlineExceeded, Unavailable
from cluster.ids import SystemClock
from cluster.settings import Settings
from memory.log import Note
from memory.records import Hit, Query, Record
from memory.tiers import Ephemeral
from serve.encoders import ServeEmbedder, apart
from serve.office import Named
from serve.routes.runs import Office

WORKFLOWS = ("support", "desk", "triage", "conversation", conversation.COMPRESSION, "tool")
"""Those that are no packs."""
_TIMEOUT_S = 20.0


class ServeClassifier:
    """`answering.Classifier` over the encoder deployment and one of its heads."""

    def __init__(self, encoder: str, head: str) -> None:
        self._encoder = encoder
        self._head = head
        self._handle: Any = None
        self._embedder = ServeEmbedder(encoder, encoder)

    async def classify(self, text: str) -> dict[str, Any]:
        if self._handle is None:
            self._handle = ray_serve.get_deployment_handle(self._encoder, self._encoder)
        try:
            call = self._handle.classify.remote([text], self._head)
            (scored,) = await asyncio.wait_for(call, _TIMEOUT_S)
        except TimeoutError:
            raise DeadlineExceeded("the encoder", _TIMEOUT_S) from None
        return dict(scored)

    async def drift(self, opened: str, text: str) -> float:
        try:
            first, last = await asyncio.wait_for(self._embedder.embed([opened, text]), _TIMEOUT_S)
        except TimeoutError:
            raise DeadlineExceeded("the encoder", _TIMEOUT_S) from None
        return apart(first, last)


class RemoteMemory:
    """`agents.memories.Memories` over the memory actor."""

    def __init__(self, office: Office) -> None:
        self._office = office

    async def recall(self, query: Query) -> list[Hit]:
        hits: list[Hit] = await self._ask("recall", query)
        return hits

    async def remember(self, records: Sequence[Record], note: Note | None = None) -> int:
        return int(await self._ask("remember", list(records), note))

    async def get(self, tenant: str, id: str) -> Record:
        record: Record = await self._ask("get", tenant, id)
        return record

    async def promote(
        self, tenant: str, id: str, by: str, why: str, person: bool = False
    ) -> Record:
        record: Record = await self._ask("promote", tenant, id, by, why, person)
        return record

    async def listed(
        self, tenant: str, after: str = "", limit: int = 100, subject: str = "", session: str = "",
        kind: str = "", tier: str = "",
    ) -> list[Record]:  # fmt: skip
        asked = (tenant, after, limit, subject, session, kind, tier)
        page: list[Record] = await self._ask("listed", *asked)
        return page

    async def _ask(self, method: str, *args: Any) -> Any:
        return await self._office.ask(method, *args, timeout_s=_TIMEOUT_S)


def make_workflows(settings: Settings, key: str, memory: str, encoder: str) -> dict[str, Workflow]:
    """The workflows of a host by name. `key` is the gateway's, where it asks for keys."""
    forget_credentials(settings)
    tiers = {model.tier: model.id for model in reversed(settings.models)}
    if {"planner", "routine"} - set(tiers):
        raise Unavailable("models", "a planner and a routine model are needed")
    chat = HttpChat(f"http://127.0.0.1:{settings.gateway.port}/v1", api_key=key)
    remote = RemoteMemory(Named((memory,), "memory"))
    limit = settings.agents.model_timeout_s
    own = Ephemeral(ServeEmbedder(encoder, encoder), SystemClock())
    policy = compression.policy_of(settings.memory.conversation_tokens)
    parts = answering.Parts(
        chat=chat,
        classifier=ServeClassifier(encoder, "support"),
        memory=remote,
        section=settings.support,
        planner=tiers["planner"],
        routine=tiers["routine"],
        model_timeout_s=limit,
        servers=Offering(
            settings.agents.servers, settings.path(PINS), settings.support.server_tools
        ),
        tongues=_tongues(settings, chat),
    )
    context = {model.id: model.max_model_len for model in settings.models}
    packs = load(settings.agents.packs)
    theirs = PackParts(chat, remote, tiers["planner"], tiers["routine"], limit, SystemClock())
    talk = conversation.Parts(chat, remote, own, SystemClock(), limit, policy, context)
    return {
        "support": functools.partial(support.work, parts=parts),
        "triage": _triage(settings, remote, encoder),
        desk.DESK: functools.partial(desk.work, desk=desk.Desk(settings.support.intents)),
        "tool": tool.work,
        **{name: functools.partial(pack.worked, parts=theirs) for name, pack in packs.items()},
        "conversation": functools.partial(conversation.work, parts=talk),
        conversation.COMPRESSION: functools.partial(
            compression.work, chat=chat, memory=remote, model=tiers["routine"], policy=policy
        ),
    }


def _tongues(settings: Settings, chat: Chat) -> Tongues | None:
    """None where no language would change anything."""
    spoken = tuple(model.languages for model in settings.models)
    matters = len(set(spoken)) > 1 or settings.support.unspoken == "person"
    return Tongues(chat, spoken, settings.agents.model_timeout_s) if matters else None


def forget_credentials(settings: Settings) -> None:
    """Where models' words are worked on, the environment has no tool server's credentials."""
    for server in settings.agents.servers:
        for variable in server.credentials.values():
            os.environ.pop(variable, None)


def _triage(settings: Settings, memory: RemoteMemory, encoder: str) -> Workflow:
    async def work(turn: Turn) -> None:
        classifier = ServeClassifier(encoder, str(turn.run.input["head"]))
        await triage.work(turn, classifier, memory, settings.support.evidence)

    return work
