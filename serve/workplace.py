"""What an agent host works with, built inside its actor: models, encoder and memory by handle."""

import asyncio
import functools
from typing import Any

from ray import serve as ray_serve

from agents.chat import HttpChat
from agents.host import Workflow
from agents.turn import Turn
from agents.workflows import conversation, support, triage
from cluster.errors import DeadlineExceeded, Unavailable
from cluster.session import actor
from cluster.settings import Settings
from memory.records import Hit, Query

WORKFLOWS = ("support", "triage", "conversation")
_TIMEOUT_S = 20.0


class ServeClassifier:
    """`support.Classifier` over the encoder deployment and one of its heads."""

    def __init__(self, encoder: str, head: str) -> None:
        self._encoder = encoder
        self._head = head
        self._handle: Any = None

    async def classify(self, text: str) -> dict[str, Any]:
        if self._handle is None:
            self._handle = ray_serve.get_deployment_handle(self._encoder, self._encoder)
        try:
            call = self._handle.classify.remote([text], self._head)
            (scored,) = await asyncio.wait_for(call, _TIMEOUT_S)
        except TimeoutError:
            raise DeadlineExceeded("the encoder", _TIMEOUT_S) from None
        return dict(scored)


class RemoteMemory:
    """`support.Recaller` over the memory actor."""

    def __init__(self, name: str, kinds: tuple[str, ...]) -> None:
        self._name = name
        self._kinds = kinds
        self._handle: Any = None

    async def recall(self, tenant: str, text: str, k: int) -> list[Hit]:
        if self._handle is None:
            self._handle = actor(self._name)
        # a ticket is long and in many a language: weak evidence is better for a plan than none
        query = Query(tenant=tenant, text=text, k=k, kinds=self._kinds, min_relevance=0.0)
        try:
            hits: list[Hit] = await asyncio.wait_for(self._handle.recall.remote(query), _TIMEOUT_S)
        except TimeoutError:
            raise DeadlineExceeded("memory", _TIMEOUT_S) from None
        return hits


def make_workflows(settings: Settings, key: str, memory: str, encoder: str) -> dict[str, Workflow]:
    """The workflows of a host by name. `key` is the gateway's, where it asks for keys."""
    tiers = {model.tier: model.id for model in reversed(settings.models)}
    if {"planner", "routine"} - set(tiers):
        raise Unavailable("models", "a planner and a routine model are needed")
    chat = HttpChat(f"http://127.0.0.1:{settings.gateway.port}/v1", api_key=key)
    parts = support.Parts(
        chat=chat,
        classifier=ServeClassifier(encoder, "support"),
        memory=RemoteMemory(memory, ("policy", "ticket")),
        section=settings.support,
        planner=tiers["planner"],
        routine=tiers["routine"],
        model_timeout_s=settings.agents.model_timeout_s,
    )
    return {
        "support": functools.partial(support.work, parts=parts),
        "triage": _triage(settings, memory, encoder),
        "conversation": functools.partial(
            conversation.work, chat=chat, timeout_s=settings.agents.model_timeout_s
        ),
    }


def _triage(settings: Settings, memory: str, encoder: str) -> Workflow:
    recaller = RemoteMemory(memory, ("ticket",))

    async def work(turn: Turn) -> None:
        classifier = ServeClassifier(encoder, str(turn.run.input["head"]))
        await triage.work(turn, classifier, recaller, settings.support.evidence)

    return work
