"""The tools that a plan may name: their call form, their arguments, what they do to the world.

Covered: the support desk's tools, and those that workflow packs register (`agents/packs.py`), which
are called `PACK.TOOL`. A support tool's arguments are references or words of a closed list, so that
text from outside can pick among offered values and never bring one of its own. Those of an MCP
server's tool are a model's words within the tool's schema, and policy hears them as untrusted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from agents.taint import OWN, UNKNOWN, Label

Effect = Literal["read", "write"]

ESCALATION_REASONS: Final = ("needs_person", "out_of_scope", "missing_information", "not_allowed")


@dataclass(frozen=True)
class Tool:
    """`parameters` in call order; `terminal` tools end a plan. Without `lookup` the connector can't
    tell by an effect's key whether it was done: one that was broken off waits for a person. `undo`
    is the tool that takes an effect back, by its key as `of`; `amount` the argument that is money,
    in cents. `control` are the parameters by which it decides for whom, what and how much, each
    with the fields that a value of trusted origin stands under (none: any); None are all of them.
    `returns` is the label of its receipts: of those that repeat their arguments, UNKNOWN. `facts`
    are what policy is told of a pack's tool beside the common facts, each with its Cedar type."""

    name: str
    parameters: tuple[str, ...]
    effect: Effect
    terminal: bool = False
    lookup: bool = True
    undo: str = ""
    amount: str = ""
    control: Mapping[str, tuple[str, ...]] | None = field(default=None, hash=False)
    returns: Label = UNKNOWN
    facts: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def form(self) -> str:
        """How the planner's prompt shows it: `refund(order,amount)`."""
        return f"{self.name}({','.join(self.parameters)})"


@dataclass(frozen=True)
class Offer:
    """A tool with the values that each argument may take in this very plan. A server's tool has a
    JSON `schema` for its arguments instead, and is `about` what its server says it does."""

    tool: Tool
    values: Mapping[str, Sequence[str]]
    schema: Mapping[str, Any] | None = None
    about: str = ""


# The desk itself looks at the ticket's customer alone, whatever order is named.
READ_TICKET: Final = Tool("read_ticket", (), "read")
LOOKUP_ACCOUNT: Final = Tool("lookup_account", (), "read", returns=OWN)
LOOKUP_ORDER: Final = Tool("lookup_order", ("order",), "read", control={}, returns=OWN)
REFUND: Final = Tool(
    "refund", ("order", "amount"), "write", amount="amount_cents",
    control={"order": ("id", "orders"), "amount_cents": ("total_cents", "amount_cents")},
)  # fmt: skip
# A reply goes to the ticket's customer, a hand-over to our own people.
REPLY: Final = Tool("reply", (), "write", terminal=True, control={})
ESCALATE: Final = Tool("escalate", ("reason",), "write", terminal=True, undo="withdraw", control={})
ASSIGN: Final = Tool("assign", ("queue",), "write", terminal=True, undo="withdraw")
WITHDRAW: Final = Tool("withdraw", ("of",), "write")
DESK: Final = "desk"
"""The workflow of what people do at the help-desk; no plan is offered its tools."""
TAKE: Final = Tool("take", ("by",), "write")
ANSWER: Final = Tool("answer", ("by", "draft"), "write")
GIVE_BACK: Final = Tool("give_back", ("by", "draft"), "write")
CLOSE_TICKET: Final = Tool("close_ticket", ("by",), "write")
RATE: Final = Tool("rate", ("score", "draft"), "write")

SERVER_ACTION: Final = "use_tool"
"""The policy's action for all tools of MCP servers; which one it is, its facts say."""

WHOLE_TOTAL: Final = "total"

TOOLS: Final[dict[str, Tool]] = {
    t.name: t
    for t in (
        READ_TICKET, LOOKUP_ACCOUNT, LOOKUP_ORDER, REFUND, REPLY, ESCALATE, ASSIGN, WITHDRAW,
        TAKE, ANSWER, GIVE_BACK, CLOSE_TICKET, RATE,
    )
}  # fmt: skip


def support_offers(orders: Sequence[str], amounts: Sequence[str]) -> list[Offer]:
    """What the planner may use for a ticket that names these references. A customer who names an
    amount asks for that one; the order's whole total is on offer only when none is named."""
    offers = [Offer(LOOKUP_ACCOUNT, {})]
    if orders:
        offers.append(Offer(LOOKUP_ORDER, {"order": orders}))
        offers.append(Offer(REFUND, {"order": orders, "amount": [*amounts] or [WHOLE_TOTAL]}))
    offers.append(Offer(REPLY, {}))
    offers.append(Offer(ESCALATE, {"reason": ESCALATION_REASONS}))
    return offers


def register(tools: Iterable[Tool]) -> None:
    """Make these known in this process. Again is the same as once."""
    TOOLS.update((tool.name, tool) for tool in tools)


def pack_of(tool: str) -> str:
    """The pack whose tool that is; empty for one of the support desk or of a server."""
    pack, dot, _ = tool.partition(".")
    return pack if dot and "/" not in tool else ""


def action_of(tool: str) -> str:
    """What policy calls a tool's use."""
    return SERVER_ACTION if "/" in tool else tool
