"""What somebody asks for: an agent, a schedule. Checked where it comes in."""

import re
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from agents.events import Priority

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class AgentSpec(_Spec):
    """An agent: `workflow` is what it does with a message. `instructions` and `model` are read by
    the workflow `conversation`, and so is `memory`: what is said is kept as a session's records;
    or in the agent's process alone and for an hour at most; or not at all, and nothing is recalled.
    `isolated` gives it an actor, and so a process, of its own."""

    id: str
    workflow: str
    instructions: str = Field("", max_length=20_000)
    model: str = Field("auto", min_length=1, max_length=256)
    memory: Literal["session", "ephemeral", "off"] = "session"
    isolated: bool = False
    priority: Priority = "interactive"
    metadata: dict[str, str] = Field(default_factory=dict, max_length=16)

    @field_validator("id")
    @classmethod
    def _named(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError("must be 1 to 128 letters, digits and any of . _ : / -")
        return value


class ScheduleSpec(_Spec):
    """A run begun whenever `cron` (five fields, in the time zone `zone`) says so."""

    name: str
    cron: str = Field(max_length=200)
    workflow: str
    agent: str
    input: dict[str, Any] = Field(default_factory=dict)
    zone: str = "UTC"
    priority: Priority = "background"

    @field_validator("name", "agent")
    @classmethod
    def _named(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError("must be 1 to 128 letters, digits and any of . _ : / -")
        return value
