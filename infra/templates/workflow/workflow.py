"""NAME: a reminder is written by the routine model, looked at by the policy, and sent once.

    write -> send -> end

Copy it, rename it, and make it yours: `Asked` is what a run is given, TOOLS what it may ask for,
`Desk` what does that, `work` the order of things, policy.cedar when it may.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from agents.desks import EFFECTS, Receipt, SqliteDesk
from agents.packs import DESK_FILE, Pack, PackParts
from agents.state import RunState
from agents.tools import Tool
from agents.turn import Turn
from cluster.errors import InvalidInput
from cluster.ids import Clock


class Asked(BaseModel):
    """What a run is given. What does not fit is refused before it begins, by the field's name."""

    model_config = ConfigDict(extra="forbid")

    subject: str = Field(pattern=r"^[a-z0-9-]{1,40}$", description="whom it is for")
    about: str = Field(min_length=1, max_length=400)


# A tool is called NAME.SOMETHING. `facts` are what the policy is told of it, by its Cedar type.
SEND = Tool("NAME.send", ("text",), "write", control={}, facts={"chars": "Long", "named": "Bool"})
TOOLS = (SEND,)


class Desk(SqliteDesk):
    """Where the effects are done: here a table. Each is done once for its key, with its receipt, in
    one transaction; what calls a service from within passes the key on as its idempotency key."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        super().__init__(folder / DESK_FILE, clock, f"{EFFECTS} {_SCHEMA}")

    def perform(self, tool: str, key: str, subject: str, args: dict[str, Any]) -> Receipt:
        """Do a tool, without the pack's name."""
        if tool != "send":
            raise InvalidInput("tool", tool, "send")

        def send() -> Receipt:
            self._db.execute("insert into sent values (?,?,?)", (key, subject, args["text"]))
            return {"chars": len(args["text"])}

        return self.once(key, tool, subject, args, send)


_SCHEMA = """
create table if not exists sent(key text primary key, subject text not null, text text not null);
"""


async def work(turn: Turn, asked: Asked, parts: PackParts) -> None:
    """Do a run. It may be broken off anywhere: what is done is not done again when it goes on."""

    async def write() -> dict[str, Any]:
        said = await parts.chat.complete(
            parts.routine,
            [
                {"role": "system", "content": "You write one friendly sentence."},
                {"role": "user", "content": f"Remind {asked.subject}: {asked.about}"},
            ],
            max_tokens=60, timeout_s=parts.model_timeout_s, request_id=turn.run.run_id,
        )  # fmt: skip
        return {"text": said.text.strip(), "usage": [said.usage()]}

    written = await turn.phase("write", write)
    text = f"{written['text']}\n({asked.about})"
    acted = await turn.act("send", "NAME.send", {"text": text})
    if acted.receipt is None:
        return await turn.end("denied", acted.decision.reason, {"usage": written["usage"]})
    return await turn.end("sent", acted.decision.reason, {"text": text, "usage": written["usage"]})


def facts(tool: str, args: Mapping[str, Any], run: RunState) -> dict[str, Any]:
    """What the policy is told of a step, from the journal and never from a model's words."""
    if tool == "send":
        about = str(run.input.get("about", ""))
        return {"chars": len(args["text"]), "named": about in args["text"]}
    return {}


PACK = Pack(
    name="NAME", title="Reminders", input=Asked, tools=TOOLS, work=work, desk=Desk, facts=facts
)
