"""Who works on the lines of which kind of batch."""

from collections.abc import Mapping

from serve.bulk.asking import Told, Worker
from serve.bulk.lines import Line
from serve.bulk.table import Batch


class Workers:
    """`Worker` for every kind: one for each endpoint."""

    def __init__(self, by_endpoint: Mapping[str, Worker]) -> None:
        self._by_endpoint = by_endpoint

    async def post(self, batch: Batch, line: Line) -> Told:
        return await self._by_endpoint[batch.endpoint].post(batch, line)

    async def withdraw(self, batch: Batch) -> None:
        await self._by_endpoint[batch.endpoint].withdraw(batch)
