"""Files and batches in one database, the files' bytes beside it; what clients ask of them."""

import re
from pathlib import Path
from typing import Final

from cluster.errors import Conflict, InvalidInput
from cluster.ids import Clock, Ids, SystemClock, SystemIds
from cluster.objects import opened as opened_objects
from cluster.settings import BatchesSection
from serve.bulk.files import Files
from serve.bulk.kinds import KINDS
from serve.bulk.schema import opened
from serve.bulk.table import Batch, Batches

MAX_WINDOW_S: Final = 7 * 86_400
_WINDOW: Final = re.compile(r"([1-9][0-9]{0,4})([smhd])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class Archive:
    """What it is told is found by whoever works on batches, and the other way round."""

    def __init__(
        self, section: BatchesSection, data_dir: Path, clock: Clock | None = None,
        ids: Ids | None = None,
    ) -> None:  # fmt: skip
        """`data_dir` is absolute. See `cluster.database.Database` and `cluster.objects.opened` for
        what they raise."""
        self._clock, self._ids = clock or SystemClock(), ids or SystemIds()
        self._database = opened(section.url, data_dir)
        place = section.objects if "://" in section.objects else str(data_dir / section.objects)
        self.files = Files(self._database, opened_objects(place), self._clock, self._ids)
        self.batches = Batches(self._database)

    def close(self) -> None:
        self._database.close()

    def submit(
        self, tenant: str, account: str, endpoint: str, input_file: str, window: str = "24h",
        metadata: dict[str, str] | None = None,
    ) -> Batch:  # fmt: skip
        """Ask for a file's requests to be worked through within `window`, paid by `account`.

        Raises InvalidInput for an endpoint, a window or a file of another purpose that can't be,
        NotFound when the tenant has no such file."""
        if endpoint not in KINDS:
            raise InvalidInput("endpoint", endpoint, f"one of {list(KINDS)}")
        seconds, now = window_s(window), self._clock.now()
        file = self.files.one(tenant, input_file)
        if file.purpose != "batch":
            told = f"{file.id}, uploaded for {file.purpose!r}"
            raise InvalidInput("input_file_id", told, "a file uploaded for 'batch'")
        batch = Batch(
            id=self._ids.new("batch"), tenant=tenant, account=account, endpoint=endpoint, model="",
            input_file=file.id, window=window, metadata=metadata or {}, status="validating",
            errors=[], output_file="", error_file="", lines=0, right_lines=0, wrong_lines=0,
            times={}, created_at=now, expires_at=now + seconds,
        )  # fmt: skip
        self.batches.add(batch)
        return batch

    def cancel(self, tenant: str, id: str) -> Batch:
        """Ask for no more of a batch's lines. Conflict when it has ended, NotFound when there is
        none."""
        batch = self.batches.batch(tenant, id)
        if batch.status in {"validating", "in_progress"}:
            return self.batches.move(batch, "cancelling", self._clock.now())
        if batch.status not in {"cancelling", "cancelled"}:
            raise Conflict(f"batch {id}", f"it is {batch.status}: there is nothing to cancel")
        return batch


def window_s(text: str) -> int:
    """`24h` as seconds. InvalidInput for what is no such time, or too long."""
    found = _WINDOW.fullmatch(text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < seconds <= MAX_WINDOW_S:
        right = f"a time such as 90m or 24h, at most {MAX_WINDOW_S // 86_400}d"
        raise InvalidInput("completion_window", text, right)
    return seconds
