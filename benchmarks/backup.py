"""How long a backup and its way back take: `make bench-backup`.

State of the size asked for: half of it rows of the journal, half files of batches; on the disk of
the folder that `--disk` names.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from agents.events import PhaseDone
from agents.journal_sql import SqlJournal
from benchmarks.report import Figure, write
from cluster.ids import SystemClock, SystemIds
from cluster.settings import Settings, load
from serve import backup as backups
from serve.bulk.archive import Archive

SECONDS: Final = 60.0
_EVENT: Final = 200_000
_FILE: Final = 20_000_000
_WORDS: Final = ("order", "refund", "shipped", "ticket", "customer", "total", "delivered", "late")


def main() -> int:
    """Run, print the table, write the JSON; status 1 when STRICT=1 and a target is missed."""
    given = _arguments()
    with tempfile.TemporaryDirectory(dir=given.disk) as folder:
        old, new = (_settings(Path(folder) / name) for name in ("old", "new"))
        runs = _filled(old, int(given.gigabytes * 1e9))
        out = Path(folder) / "backup.tar.gz"
        began = time.perf_counter()
        made = backups.backup(old, out, SystemClock().now())
        backed_up = time.perf_counter() - began
        packed = out.stat().st_size
        began = time.perf_counter()
        backups.restore(new, out)
        restored = time.perf_counter() - began
        journal = _journal(new)
        lost = sum(journal.verify(run) != events + 1 for run, events in runs.items())
        journal.close()
    return write(
        "backup",
        [
            Figure("backup, s", backed_up, SECONDS), Figure("restore, s", restored, SECONDS),
            Figure("runs that are not whole after it", float(lost), 0.0),
        ],
        details={"bytes": made.bytes, "packed": packed, "runs": len(runs)},
        load=f"{made.bytes / 1e9:.2f} GB of state",
    )  # fmt: skip


def _filled(settings: Settings, size: int) -> dict[str, int]:
    """So many bytes of state; how many events each run has after its start."""
    rng = random.Random(7)
    journal, runs = _journal(settings), {}
    for number in range(max(1, size // 2 // (_EVENT * 25))):
        run, _ = journal.create("t", f"k{number}", "support", f"a{number}", {})
        for _ in range(25):
            said = " ".join(rng.choices(_WORDS, k=_EVENT // 8))
            journal.append(run, 0, [PhaseDone(phase="p", result={"said": said}, seconds=0.0)])
        runs[run] = 25
    journal.close()
    archive = Archive(settings.batches, settings.data_dir.resolve())
    for number in range(max(1, size // 2 // _FILE)):
        with tempfile.TemporaryFile() as content:
            for line in range(_FILE // 1_000):
                row = {"id": line, "text": os.urandom(120).hex(), "said": rng.choices(_WORDS, k=90)}
                content.write(json.dumps(row).encode() + b"\n")
            content.seek(0)
            archive.files.add("t", f"{number}.jsonl", "batch", content)
    archive.close()
    return runs


def _settings(folder: Path) -> Settings:
    return load("local").model_copy(update={"data_dir": folder})


def _journal(settings: Settings) -> SqlJournal:
    url = settings.journal.url
    return SqlJournal(url, settings.data_dir.resolve(), SystemClock(), SystemIds())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.backup")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of state")
    parser.add_argument("--disk", type=Path, help="folder on the disk to measure; default: /tmp")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
