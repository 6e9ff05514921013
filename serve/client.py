"""Mainspring from Python: memory and agents, over the HTTP API of a running stack.

    async with Client("http://127.0.0.1:8000", key) as mainspring:
        await mainspring.remember("Ann wants her parcels left with the neighbour",
                                  subject="ann", by="bo", why="she asked for it")
        hits = await mainspring.recall("where do Ann's parcels go?", subject="ann")

Models have the OpenAI clients. Answers are what the API sends, as plain dicts. What the stack
refuses is raised as `Refused`, with its sentence, code, status and the field at fault.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

from cluster.errors import DataError, DeadlineExceeded, InvalidInput, Unavailable
from serve.problems import Refused

Answer = dict[str, Any]
TIMEOUT_S: Final = 180.0
_PAUSES_S: Final[tuple[float, ...]] = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)
"""Before a connection that broke is made again; as often as that in a row."""


class Client:
    """One tenant's view, that of `key`; a stack on loopback asks for none while none was made.
    Every call raises Refused, Unavailable when nobody answers, DeadlineExceeded after `timeout_s`.
    """

    def __init__(
        self,
        url: str,
        key: str = "",
        *,
        timeout_s: float = TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        bearer = {"authorization": f"Bearer {key}"} if key else {}
        self._timeout_s = timeout_s
        self._http = httpx.AsyncClient(
            base_url=f"{url.rstrip('/')}/v1", headers={**bearer, **(headers or {})},
            timeout=timeout_s, transport=transport,
        )  # fmt: skip

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    # --- memory

    async def remember(
        self, text: str, *, session: str = "", by: str = "", why: str = "", **more: Any
    ) -> Answer:
        """Keep a text in a `session`, or for good: then `by` and `why` say who promotes it. `more`:
        kind, source, subject, agent, ttl_s, importance, labels, parents, pinned, meta, event_at.
        Its `id`, and whether it was `added` or known."""
        promotion = {"promotion": {"by": by, "why": why}} if by or why else {}
        body = {"text": text, "session": session} | promotion | more
        return await self._ask("POST", "memory", body)

    async def recall(self, text: str, **more: Any) -> list[Answer]:
        """What bears on a text, best first, each with `record`, `score` and `reason`. `more`: k,
        kinds, subject, agent, session, tiers, trust, since, until, as_of, budget_tokens."""
        answer = await self._ask("POST", "memory/search", {"text": text} | more)
        found: list[Answer] = answer["data"]
        return found

    async def get(self, id: str) -> Answer:
        """One record, an older version too."""
        return await self._ask("GET", f"memory/{_part(id)}")

    async def update(self, id: str, text: str, *, by: str, why: str) -> Answer:
        """The new version of a record, with this text."""
        return await self._ask("PATCH", f"memory/{_part(id)}", {"text": text, "by": by, "why": why})

    async def promote(self, id: str, *, by: str, why: str) -> Answer:
        """A session's record as a long-term one."""
        return await self._ask("POST", f"memory/{_part(id)}/promote", {"by": by, "why": why})

    async def forget(
        self, ids: list[str] | None = None, *, subject: str = "", by: str, why: str
    ) -> Answer:
        """Erase records by id, or all about a subject. The receipt."""
        body = {"ids": ids or [], "subject": subject, "by": by, "why": why}
        return await self._ask("POST", "memory/forget", body)

    async def listed(self, after: str = "", limit: int = 20, **where: str) -> Answer:
        """Records by id behind `after`: `data`, and whether it `has_more`. `where`: subject,
        session, kind, tier."""
        return await self._ask(
            "GET", "memory", query={"after": after, "limit": str(limit), **where}
        )

    async def export(self, name: str) -> Answer:
        """Write all records to the file `name` of the stack's data folder; its `path`."""
        return await self._ask("POST", "memory/export", {"name": name})

    async def import_(self, records: Sequence[str | Answer], *, by: str) -> Answer:
        """Remember lines of an export, as text or as objects: as untrusted records."""
        return await self._ask("POST", "memory/import", {"records": list(records), "by": by})

    # --- agents

    async def agents(self, after: str = "", limit: int = 20) -> Answer:
        """Agents by id behind `after`: `data`, and whether it `has_more`."""
        return await self._ask("GET", "agents", query={"after": after, "limit": str(limit)})

    async def send(self, agent: str, content: str, *, key: str = "", **given: Any) -> Answer:
        """Say something to an agent: the answer as `content`, and its `run`. `given` is what its
        workflow takes besides, as a subject; the same `key` is the same message."""
        body = {"content": content, "input": given}
        return await self._ask("POST", f"agents/{_path(agent)}/messages", body, key=key)

    async def begin(self, workflow: str, given: Answer, *, key: str = "", **more: Any) -> Answer:
        """Begin a run of a workflow, on what it is `given`; the same `key` is the same run. `more`:
        agent, priority, deadline_s, attempts, untrusted."""
        body = {"workflow": workflow, "input": given} | more
        return await self._ask("POST", "runs", body, key=key)

    async def run(self, id: str) -> Answer:
        """A run: how it stands, or how it ended."""
        return await self._ask("GET", f"runs/{_part(id)}")

    async def follow(
        self, id: str, timeout_s: float = TIMEOUT_S, after: int = 0
    ) -> AsyncIterator[Answer]:
        """A run's events behind number `after`, as they come, until it has ended or `timeout_s`
        have passed. A connection that breaks is made again from the last event on."""
        until = time.monotonic() + timeout_s
        pauses = _PAUSES_S
        while (left := until - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    async with self._http.stream(
                        "GET", f"runs/{_part(id)}/events", params={"after": str(after)}
                    ) as answer:
                        if not answer.is_success:
                            await answer.aread()
                            _read(answer)
                        async for line in answer.aiter_lines():
                            if line.startswith("data: "):
                                event: Answer = json.loads(line.removeprefix("data: "))
                                after, pauses = event["seq"], _PAUSES_S
                                yield event
                                if event["payload"]["kind"] == "run_ended":
                                    return
            except TimeoutError:
                return
            except httpx.HTTPError as error:
                if not pauses:
                    why = f"no answer from {self._http.base_url} ({type(error).__name__})"
                    raise Unavailable("the gateway", why) from None
            # A stream that has an end has one after minutes, too.
            await asyncio.sleep(pauses[0] if pauses else _PAUSES_S[-1])
            pauses = pauses[1:]

    # --- the help-desk

    async def tickets(self, status: str = "", after: str = "", limit: int = 20) -> Answer:
        """Tickets, the newest first, behind `after`: `data`, and whether it `has_more`."""
        query = {"status": status, "after": after, "limit": str(limit)}
        return await self._ask("GET", "tickets", query=query)

    async def open_ticket(self, body: str, **more: Any) -> Answer:
        """Put a ticket on the desk and have it worked: its `id`, and the `run`. `more`: customer,
        or email and name; subject, id, work."""
        return await self._ask("POST", "tickets", {"body": body} | more)

    async def ticket(self, id: str) -> Answer:
        """A ticket with its thread, its customer's orders and the macros."""
        return await self._ask("GET", f"tickets/{_part(id)}")

    async def act(self, id: str, act: str, *, key: str = "", **body: Any) -> Answer:
        """Do something to a ticket; the ticket as it is then. `act` and its `body`: messages
        (text, id), take (by), answer (by, and text or macro), return (by, note), close (by), rating
        (score, comment)."""
        return await self._ask("POST", f"tickets/{_part(id)}/{act}", body, key=key)

    async def _ask(
        self,
        method: str,
        path: str,
        body: Answer | None = None,
        *,
        query: Mapping[str, str] | None = None,
        key: str = "",
    ) -> Answer:
        headers = {"idempotency-key": key} if key else {}
        try:
            answer = await self._http.request(
                method, path, json=body, params=query, headers=headers
            )
        except httpx.TimeoutException:
            raise DeadlineExceeded("the gateway", self._timeout_s) from None
        except httpx.HTTPError as error:
            why = f"no answer from {self._http.base_url} ({type(error).__name__})"
            raise Unavailable("the gateway", why) from None
        return _read(answer)


def _read(answer: httpx.Response) -> Answer:
    """The body, or the error that it tells."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise DataError("the gateway's answer", f"HTTP {answer.status_code} without a JSON object")
    if answer.is_success:
        return body
    told = body.get("error")
    problem = told if isinstance(told, dict) else {}
    raise Refused(
        answer.status_code, str(problem.get("message", f"HTTP {answer.status_code}")),
        str(problem.get("code", "refused")), problem.get("param"),
    )  # fmt: skip


def _part(id: str) -> str:
    """An id as one part of a path, whatever it holds."""
    if id in ("", ".", ".."):
        raise InvalidInput("id", id, "an id")
    return quote(id, safe="")


def _path(agent: str) -> str:
    return "/".join(_part(part) for part in agent.split("/"))
