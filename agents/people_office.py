"""What people do to runs and answer them; the orchestrator is this and more."""

from collections.abc import Callable
from typing import Any

from agents import control
from agents.approvals import Answer, ApprovalRow, Approvals
from agents.runs import Runs
from agents.state import RunState


class PeopleOffice:
    """The part of an orchestrator that listens to people."""

    _runs: Runs
    _approvals: Approvals

    async def look_again(self, run_id: str) -> None:
        """See `agents.orchestrator.Orchestrator.look_again`."""
        raise NotImplementedError

    async def _control(self, what: Callable[..., Any], run_id: str, *args: Any) -> Any:
        raise NotImplementedError

    async def signal(self, run_id: str, name: str, value: dict[str, Any], by: str) -> None:
        """See `agents.control.signal`."""
        await self._control(control.signal, run_id, name, value, by)

    async def pause(self, run_id: str, by: str, reason: str = "") -> None:
        """See `agents.control.pause`."""
        await self._control(control.pause, run_id, by, reason)

    async def resume(self, run_id: str, by: str) -> None:
        """See `agents.control.resume`."""
        await self._control(control.resume, run_id, by)

    async def cancel(self, run_id: str, by: str, reason: str = "", undo: bool = False) -> None:
        """See `agents.control.cancel`."""
        await self._control(control.cancel, run_id, by, reason, undo)

    async def retry(self, run_id: str, by: str) -> str:
        """See `agents.control.retry`."""
        return str(await self._control(control.retry, run_id, by))

    async def fork(self, run_id: str, after: int, key: str, agent: str | None = None) -> str:
        """See `agents.control.fork`."""
        return str(await self._control(control.fork, run_id, after, key, agent))

    async def approvals(
        self, tenant: str, everything: bool = False, limit: int = 100
    ) -> list[ApprovalRow]:
        """See `agents.approvals.Approvals.listed`."""
        return await self._runs.commits.do(self._approvals.listed, tenant, everything, limit)

    async def approval(self, tenant: str, id: str) -> tuple[ApprovalRow, RunState]:
        """A question and its run; NotFound when there is none."""
        return await self._runs.commits.do(self._approvals.found, id, tenant)

    async def answer_approval(self, tenant: str, id: str, said: Answer) -> ApprovalRow:
        """See `agents.approvals.Approvals.answer`."""
        row = await self._runs.commits.do(self._approvals.answer, id, said, tenant)
        await self.look_again(row.run_id)
        return row
