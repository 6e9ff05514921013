"""How agents reach a model: the Chat protocol, and its client over the gateway's own address.

Agents go through the same door as every other client, so that routing, limits and the bill are
in one place.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from agents.workflows.prompts import Message
from cluster import tracing
from cluster.errors import DeadlineExceeded, InvalidInput, Unavailable

if TYPE_CHECKING:
    import openai

on_behalf: ContextVar[Mapping[str, str]] = ContextVar("on_behalf", default=MappingProxyType({}))
"""For whom this task works: `tenant`, `agent`, `run`, `workflow`. The gateway bills by them."""


@dataclass(frozen=True)
class Completion:
    """A model's answer. `model` is the one that gave it, `cost_usd` what it cost; `truncated` when
    it ran into `max_tokens`."""

    text: str
    model: str
    route: str
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    seconds: float
    truncated: bool = False

    def usage(self) -> dict[str, Any]:
        """What it took, as a phase's result holds it."""
        return {
            "model": self.model, "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens, "cost_usd": self.cost_usd,
            "seconds": round(self.seconds, 4), "route": self.route,
        }  # fmt: skip


class Chat(Protocol):
    async def complete(
        self,
        model: str,
        messages: Sequence[Message],
        *,
        schema: dict[str, Any] | None = None,
        max_tokens: int,
        timeout_s: float,
        request_id: str,
        seed: int = 0,
        temperature: float = 0.0,
        language: str = "",
    ) -> Completion:
        """One answer of at most `max_tokens`, as JSON that fits `schema` when one is given; by a
        model that speaks `language`, where the router chooses.

        Raises DeadlineExceeded after `timeout_s` seconds, Unavailable when no model answers, and
        InvalidInput when the request itself is refused.
        """


class HttpChat:
    """Chat over an OpenAI-compatible address. `options` go along with every request, as the field
    `mainspring` of its body."""

    def __init__(
        self, base_url: str, api_key: str = "none", retries: int = 2,
        options: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        # Only who asks models loads the client: connectors know its errors' names at most.
        import openai

        self._options = dict(options or {})
        self._client = openai.AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=retries)

    async def complete(
        self,
        model: str,
        messages: Sequence[Message],
        *,
        schema: dict[str, Any] | None = None,
        max_tokens: int,
        timeout_s: float,
        request_id: str,
        seed: int = 0,
        temperature: float = 0.0,
        language: str = "",
    ) -> Completion:
        import openai

        body: dict[str, Any] = {}
        if options := self._options | ({"language": language} if language else {}):
            body["extra_body"] = {"mainspring": options}
        if schema is not None:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": schema, "strict": True},
            }
        started = time.perf_counter()
        try:
            # The client's own limit is for one try; this one is for all of them.
            async with asyncio.timeout(timeout_s):
                raw = await self._client.chat.completions.with_raw_response.create(
                    model=model,
                    messages=list(messages),  # type: ignore[arg-type]
                    max_tokens=max_tokens,
                    temperature=temperature,
                    seed=seed,
                    timeout=timeout_s,
                    extra_headers={"x-request-id": request_id, **_billed()},
                    **body,
                )
        except (TimeoutError, openai.APITimeoutError):
            raise DeadlineExceeded(f"model {model}", timeout_s) from None
        except openai.APIConnectionError as error:
            raise Unavailable(f"model {model}", f"no connection ({error.__cause__})") from None
        except openai.APIStatusError as error:
            raise _ours(model, timeout_s, error) from None
        answer = raw.parse()
        usage = answer.usage
        return Completion(
            text=answer.choices[0].message.content or "",
            model=raw.headers.get("x-mainspring-model", answer.model),
            route=raw.headers.get("x-mainspring-route", ""),
            prompt_tokens=usage.prompt_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
            cost_usd=float(raw.headers.get("x-mainspring-cost-usd", 0.0)),
            seconds=time.perf_counter() - started,
            truncated=answer.choices[0].finish_reason == "length",
        )

    async def close(self) -> None:
        await self._client.close()


def _billed() -> dict[str, str]:
    found = {f"x-mainspring-{what}": name for what, name in on_behalf.get().items()}
    within = tracing.traceparent()
    return found | ({tracing.HEADER: within} if within else {})


def _ours(model: str, timeout_s: float, error: "openai.APIStatusError") -> Exception:
    if error.status_code in {408, 504}:
        return DeadlineExceeded(f"model {model}", timeout_s)
    if error.status_code >= 500 or error.status_code == 429:
        return Unavailable(f"model {model}", f"HTTP {error.status_code}: {error.message}")
    return InvalidInput("messages", model, f"a request that the gateway takes ({error.message})")
