"""PURE: what routing looks at in a request."""

import re
from dataclasses import dataclass
from typing import Any, Final

from serve.catalog import AUTO
from serve.schemas import ChatRequest

CHARS_PER_TOKEN: Final = 4.0
USUAL_ANSWER_TOKENS: Final = 256
_SEARCHED_CHARS: Final = 4_000

_PLANNING = re.compile(
    r"\b(plan|plans|planning|step by step|steps|strategy|schedule|workflow|break (?:it|this) down"
    r"|design|prove|derive|analy[sz]e|compare|refactor|debug)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Features:
    """What routing looks at. `prompt_chars` counts all text of all messages;
    `asked_tokens` is the most that one answer may hold, 0 when the client set no limit.
    `quality_target`, `max_cost_usd`, `task` and `language` are as in `Options`."""

    model: str
    prompt_chars: int
    answer_tokens: int
    asked_tokens: int = 0
    structured: bool = False
    tools: bool = False
    planning_words: bool = False
    fallback: bool = False
    quality_target: float | None = None
    max_cost_usd: float | None = None
    task: str = ""
    language: str = ""

    @property
    def open(self) -> bool:
        """Whether nothing that was said decides the tier, so that a prediction may."""
        return self.model == AUTO and not self.hard

    @property
    def hard(self) -> bool:
        """Whether the form of the answer asks for a planner."""
        return self.structured or self.tools

    @property
    def kind(self) -> str:
        """What must stay the same for a session to keep its model."""
        return f"{self.model}/{self.task}/{self.quality_target}"

    @property
    def prompt_tokens(self) -> int:
        """An estimate: the gateway holds no tokenizer."""
        return int(self.prompt_chars / CHARS_PER_TOKEN) + 1


def features_of(request: ChatRequest) -> Features:
    """The features of a request, from its own fields only."""
    texts = [text for m in request.messages for text in _texts(m.content)]
    kind = (request.response_format or {}).get("type")
    asked = asked_by(request)[:_SEARCHED_CHARS]
    options = request.mainspring
    return Features(
        model=request.model,
        prompt_chars=sum(map(len, texts)),
        answer_tokens=(request.limit or USUAL_ANSWER_TOKENS) * (request.n or 1),
        asked_tokens=request.limit or 0,
        structured=kind in {"json_schema", "json_object"},
        tools=_calls_tools(request),
        planning_words=bool(_PLANNING.search(asked)),
        fallback=options.fallback,
        quality_target=options.quality_target,
        max_cost_usd=options.max_cost_usd,
        task=options.task or "",
        language=options.language or "",
    )


def asked_by(request: ChatRequest) -> str:
    """The text of the last message of the user."""
    last = next((m for m in reversed(request.messages) if m.role == "user"), None)
    return " ".join(_texts(last.content)) if last else ""


def _calls_tools(request: ChatRequest) -> bool:
    """Whether the answer may be tool calls, or goes on from their results: in the middle of a tool
    loop the tier stays, also when the last round is asked for without tools."""
    if request.messages[-1].role == "tool":
        return True
    return bool(request.tools) and request.tool_choice != "none"


def _texts(content: str | list[dict[str, Any]] | None) -> list[str]:
    if isinstance(content, str):
        return [content]
    parts = [part.get("text") for part in content or ()]
    return [text for text in parts if isinstance(text, str)]
