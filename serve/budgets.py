"""What may be spent, counted in whole nano-dollars. PURE: no database, no clock.

A price is rounded up once, for a whole request, to a nano-dollar: the billionth that
`x-mainspring-cost-usd` shows. A budget holds when spent + reserved <= limit, always.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, Literal, get_args

from cluster.errors import InvalidInput, MainspringError
from cluster.settings import ModelSection

Kind = Literal["key", "tenant", "agent", "run"]
Period = Literal["hour", "day", "month", "total"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
PERIODS: Final[tuple[Period, ...]] = get_args(Period)
EVERY: Final = "*"
"""The subject of a budget that each key, agent or run of a tenant has for itself."""

NANO: Final = 1_000_000_000
MINUTE_S: Final = 60
_HOUR_S: Final = 3_600
_DAY_S: Final = 86_400
_BUSY_S: Final = 1.0
_ASK_AGAIN_S: Final = 3_600.0
_TEMPLATE_TOKENS: Final = 512  # what a chat template adds of its own to tools and messages


class _Limited(MainspringError):
    status = 429

    def __init__(self, what: str, retry_after: float) -> None:
        super().__init__(what, retry_after)
        self.what, self.retry_after = what, retry_after

    @property
    def retry_after_s(self) -> float | None:
        return self.retry_after

    def __str__(self) -> str:
        return self.what


class BudgetExceeded(_Limited):
    """The worst case of a request is more than a budget has left."""

    code = "budget_exceeded"


class RateLimited(_Limited):
    """A key's requests, tokens or streams are used up for now."""

    code = "rate_limited"


class Unpaid(_Limited):
    """An answer came so late, or so long, that no budget has room for it: it is withheld."""

    code = "answer_withheld"

    def __init__(
        self,
        what: str = "no budget has room for this answer any more",
        retry_after: float = _BUSY_S,
    ) -> None:
        super().__init__(what, retry_after)


@dataclass(frozen=True)
class Caller:
    """Who pays. `key` is a key's id; the agent's three are empty when a client asks directly."""

    tenant: str
    key: str
    agent: str = ""
    run: str = ""
    workflow: str = ""

    def subjects(self) -> dict[Kind, str]:
        """What this caller is, by kind of budget."""
        found: dict[Kind, str] = {
            "key": self.key, "tenant": self.tenant, "agent": self.agent, "run": self.run,
        }  # fmt: skip
        return {kind: subject for kind, subject in found.items() if subject}


@dataclass(frozen=True)
class Limits:
    """What a key may do; None is without limit. Rates hold in every 60 seconds."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_streams: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 0 < value < 2**62:
                raise InvalidInput(name, value, "a whole number above 0, or nothing")

    @property
    def any(self) -> bool:
        return any(value is not None for value in vars(self).values())


UNLIMITED: Final = Limits()


@dataclass(frozen=True)
class Worst:
    """The most that a request can come to: nano-dollars, and tokens in and out."""

    nano: int
    tokens: int
    streaming: bool = False


@dataclass(frozen=True)
class Balance:
    """A budget as it stands in the present period, nano-dollars."""

    kind: Kind
    subject: str
    period: Period
    limit: int
    spent: int
    reserved: int

    @property
    def free(self) -> int:
        return self.limit - self.spent - self.reserved


def nano_of(usd: Decimal | str | float, field: str = "usd") -> int:
    """Dollars as nano-dollars, rounded down. InvalidInput unless 0 to a billion."""
    try:
        value = int(Decimal(str(usd)) * NANO)
    except ArithmeticError:
        raise InvalidInput(field, usd, "an amount of dollars, as 2.50") from None
    except ValueError:
        raise InvalidInput(field, usd, "a finite amount of dollars") from None
    if not 0 <= value <= 10**9 * NANO:
        raise InvalidInput(field, usd, "0 to 1,000,000,000 dollars")
    return value


def usd_of(nano: int) -> float:
    """Nano-dollars as dollars, for people and JSON."""
    return nano / NANO


def price(model: ModelSection, tokens_in: int, tokens_out: int) -> int:
    """What these tokens cost at the model's list price, nano-dollars, rounded up."""
    total = _pico(model.usd_per_mtok_in) * tokens_in + _pico(model.usd_per_mtok_out) * tokens_out
    return -(-total // 1_000)


def worst_case(
    models: Sequence[ModelSection], body_bytes: int, limit: int | None, choices: int, stream: bool
) -> Worst:
    """The most that a chat request can come to on any of `models`. A prompt has at most one token
    a byte of its JSON, and what the template adds; nothing is longer than a model's context."""
    nano = tokens = 0
    for model in models:
        room = model.max_model_len
        prompt = min(room, body_bytes + _TEMPLATE_TOKENS)
        out = min(limit or room, room) * choices
        nano, tokens = max(nano, price(model, prompt, out)), max(tokens, prompt + out)
    return Worst(nano, tokens, stream)


def window_start(period: Period, now: float) -> int:
    """When the present period began, seconds since the epoch, UTC."""
    if period == "total":
        return 0
    if period == "month":
        at = datetime.fromtimestamp(now, UTC)
        return int(datetime(at.year, at.month, 1, tzinfo=UTC).timestamp())
    length = _HOUR_S if period == "hour" else _DAY_S
    return int(now) // length * length


def window_end(period: Period, now: float) -> float:
    """When the next period begins; for `total` some time at which to ask again."""
    if period == "total":
        return now + _ASK_AGAIN_S
    if period == "month":
        at = datetime.fromtimestamp(now, UTC)
        year, month = (at.year + 1, 1) if at.month == 12 else (at.year, at.month + 1)
        return datetime(year, month, 1, tzinfo=UTC).timestamp()
    return window_start(period, now) + (_HOUR_S if period == "hour" else _DAY_S)


def refusal(balances: Iterable[Balance], amount: int, now: float) -> BudgetExceeded | None:
    """Why `amount` may not be reserved, from the budget that asks for the longest wait."""
    found = [_refused(b, amount, now) for b in balances if amount > b.free]
    return max(found, key=lambda e: e.retry_after, default=None)


def _refused(balance: Balance, amount: int, now: float) -> BudgetExceeded:
    name = f"{balance.kind} {balance.subject}" if balance.kind != "key" else "this key"
    until = {"total": "in total"}.get(balance.period, f"a {balance.period}")
    text = (
        f"the budget of {name} is ${balance.limit / NANO:.9g} {until}; ${balance.spent / NANO:.9g} "
        f"is spent, ${balance.reserved / NANO:.9g} is reserved, and this request may cost "
        f"${amount / NANO:.9g} (a smaller max_tokens makes it less)"
    )
    # Work under way gives back what it does not use; what is spent returns with the next period.
    fits_later = balance.spent + amount <= balance.limit
    return BudgetExceeded(text, _BUSY_S if fits_later else window_end(balance.period, now) - now)


def chargeable(cost: int, held: int, balances: Iterable[Balance]) -> int:
    """What of `cost` can be charged so that no budget is exceeded. `held` is this request's own
    reservation, which `balances` count as reserved; 0 when its lease has run out."""
    return min((cost, *(max(0, held + b.free) for b in balances)))


@dataclass(frozen=True)
class Slot:
    """What a key asked for within one second `at`."""

    at: int
    requests: int
    tokens: int


def too_fast(limits: Limits, slots: Sequence[Slot], tokens: int, now: float) -> RateLimited | None:
    """Why a key may not ask now for `tokens` more. `slots` are the seconds of the last minute: the
    second in which it began counts whole, so that the limit holds in every 60 seconds."""
    asked = [
        (limits.requests_per_minute, [s.requests for s in slots], 1, "requests"),
        (limits.tokens_per_minute, [s.tokens for s in slots], tokens, "tokens"),
    ]
    for limit, used, more, what in asked:
        if limit is not None and sum(used) + more > limit:
            wait = _wait(limit, list(zip(slots, used, strict=True)), more, now)
            text = f"this key may use {limit} {what} a minute; {sum(used)} are used or reserved"
            return RateLimited(f"{text}, and this request may need {more}", wait)
    return None


def _wait(limit: int, used: list[tuple[Slot, int]], more: int, now: float) -> float:
    over = sum(count for _, count in used) + more - limit
    for slot, count in sorted(used, key=lambda u: u[0].at):
        over -= count
        if over <= 0:
            return slot.at + MINUTE_S + 1 - now
    return float(MINUTE_S)


def _pico(usd_per_million: float) -> int:
    """Pico-dollars a token, exactly what the setting's decimals say."""
    return int(Decimal(str(usd_per_million)) * 1_000_000)
