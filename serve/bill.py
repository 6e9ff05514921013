"""One request's way through the limits: let in, then settled or released, once."""

import asyncio
from typing import Final

from cluster.errors import Unavailable
from serve.admission import Admission, Hold
from serve.budgets import Unpaid, price
from serve.calls import Answer
from serve.ledger import Used

BYTES_A_TOKEN: Final = 4
PATIENCE_S: Final = 5.0


class Bill:
    """`route` is the model that the client named, `reason` why the request goes where it goes."""

    def __init__(self, admission: Admission, hold: Hold, route: str, reason: str) -> None:
        self._admission, self._hold = admission, hold
        self._route, self._reason = route, reason
        self._done = False

    def release(self) -> None:
        """No engine answered: nothing is charged."""
        if not self._done:
            self._done = True
            self._admission.leave(self._hold, None)

    def settle(self, answer: Answer) -> None:
        """Charge for a released answer; goes on in the background."""
        self._begun(self._used(answer))

    async def settled(self, answer: Answer) -> int:
        """Charge for a released answer and wait until that is on disk; what it cost, nano-dollars.

        Raises Unpaid when no budget has room for it any more, Unavailable when what was reserved
        is not charged after PATIENCE_S: an answer is given away by neither. Charging goes on
        without its client."""
        used = self._used(answer)
        task = self._begun(used)
        if task is None:
            return used.cost_nano
        await asyncio.wait({task}, timeout=PATIENCE_S)
        charged = task.result() if task.done() else None
        if charged is None and self._hold.reserved:
            raise Unavailable("the ledger", "the answer is not paid for yet and is withheld", 2.0)
        if charged is not None and charged < used.cost_nano:
            raise Unpaid
        for tell in answer.on_paid:
            tell(answer)
        return used.cost_nano

    def _begun(self, used: Used) -> asyncio.Task[int | None] | None:
        if self._done:
            return None
        self._done = True
        return self._admission.leave(self._hold, used)

    def _used(self, answer: Answer) -> Used:
        usage, call = answer.usage, answer.call
        prompt = usage.prompt_tokens
        if usage.estimated and not prompt:
            # The engine counts the prompt in its last event only, which a broken stream lacks.
            prompt = -(-call.body_bytes // BYTES_A_TOKEN)
        again = answer.cache == "hit"
        cost = 0 if again else price(answer.model, prompt, usage.completion_tokens)
        return Used(
            call.request_id, answer.model.id, answer.status, prompt, usage.completion_tokens,
            cost, prompt if again else usage.cached_tokens,
            usage.estimated, answer.sent - call.arrived, answer.first_byte - call.arrived,
            answer.engine_s, self._route, self._reason, answer.inter_token_s,
        )  # fmt: skip
