"""What lasts is backed up while it is written to, and comes back whole on an empty machine."""

import json
import sqlite3
import tarfile
import threading
from io import BytesIO
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agents.events import PhaseDone
from agents.journal_sql import SqlJournal
from agents.workflows.shop.desk import ShopDesk
from cluster.errors import Conflict, DataError, MainspringError, NotFound, Unavailable
from cluster.ids import SystemClock, SystemIds
from cluster.settings import AccountsSection, BatchesSection, JournalSection, Settings, load
from serve import backup as backups
from serve.bulk.archive import Archive
from serve.cli import app
from tests.databases import server, url  # noqa: F401

NOW = 1_800_000_000.0


def settings_at(folder: Path, **sections: object) -> Settings:
    return load().model_copy(update={"data_dir": folder, **sections})


def journal_of(settings: Settings) -> SqlJournal:
    return SqlJournal(settings.journal.url, settings.data_dir.resolve(), SystemClock(), SystemIds())


def fill(settings: Settings) -> tuple[str, str]:
    """A run with two events, and a file; their ids."""
    journal = journal_of(settings)
    run, _ = journal.create("t", "k", "support", "ann", {"a": 1})
    journal.append(run, 0, [PhaseDone(phase="look", result={"found": 3}, seconds=0.1)])
    journal.close()
    archive = Archive(settings.batches, settings.data_dir.resolve())
    file = archive.files.add("t", "in.jsonl", "batch", BytesIO(b"some bytes"))
    archive.close()
    return run, file.id


def test_what_was_there_is_there_again(tmp_path: Path) -> None:
    old, new = settings_at(tmp_path / "old"), settings_at(tmp_path / "new")
    run, file = fill(old)
    (old.data_dir / "checkpoints" / "routine").mkdir(parents=True)
    (old.data_dir / "checkpoints" / "routine" / "history.json").write_text("[]")
    (old.data_dir / "intents").mkdir()
    (old.data_dir / "intents" / "key").write_bytes(b"secret")
    (old.data_dir / "refused.jsonl").write_text("{}\n")
    out = tmp_path / "b.tar.gz"
    made = backups.backup(old, out, NOW)
    assert out.stat().st_mode & 0o077 == 0
    assert backups.restore(new, out) == made
    assert (new.data_dir / "intents" / "key").read_bytes() == b"secret"
    assert (new.data_dir / "refused.jsonl").read_text() == "{}\n"
    journal = journal_of(new)
    assert journal.verify(run) == 2
    journal.close()
    archive = Archive(new.batches, new.data_dir.resolve())
    assert b"".join(archive.files.chunks("t", file)) == b"some bytes"
    archive.close()
    assert (new.data_dir / "checkpoints" / "routine" / "history.json").read_text() == "[]"
    assert not list(new.data_dir.glob(".restore-*"))


def test_what_workflows_keep_is_there_again(tmp_path: Path) -> None:
    old, new = settings_at(tmp_path / "old"), settings_at(tmp_path / "new")
    shop = old.data_dir / "packs" / "shop"
    desk = ShopDesk(shop, SystemClock())
    desk.perform("describe", "k", "RUG-01", {"text": "a rug"})
    (shop / "shop.yaml").write_text("{}")
    published = old.data_dir / "packs" / "content" / "files" / "published"
    published.mkdir(parents=True)
    (published / "a.md").write_text("# A")
    (old.data_dir / "refused-shop.jsonl").write_text("{}\n")
    backups.backup(old, tmp_path / "b.tar.gz", NOW)
    desk.close()
    backups.restore(new, tmp_path / "b.tar.gz")
    there = new.data_dir / "packs"
    assert (there / "shop" / "shop.yaml").read_text() == "{}"
    assert (there / "content" / "files" / "published" / "a.md").read_text() == "# A"
    assert (new.data_dir / "refused-shop.jsonl").is_file()
    back = ShopDesk(there / "shop", SystemClock())
    assert back.find("k") is not None
    assert back.one("select copy from products where sku = 'RUG-01'") == {"copy": "a rug"}
    back.close()


def test_a_backup_beside_writers_holds_whole_chains(tmp_path: Path) -> None:
    settings = settings_at(tmp_path / "old")
    run, _ = fill(settings)
    stop = threading.Event()

    def write() -> None:
        journal = journal_of(settings)
        while not stop.is_set():
            journal.append(run, 0, [PhaseDone(phase="more", result={}, seconds=0.0)])
        journal.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        counts = []
        for number in range(5):
            out = tmp_path / f"{number}.tar.gz"
            backups.backup(settings, out, NOW)
            new = settings_at(tmp_path / f"new-{number}")
            backups.restore(new, out)
            journal = journal_of(new)
            counts.append(journal.verify(run))
            journal.close()
    finally:
        stop.set()
        writer.join()
    assert counts == sorted(counts) and counts[-1] > counts[0]


def test_postgresql_goes_through_its_own_tools(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    postgres: str = request.getfixturevalue("server")
    shared = {
        "journal": JournalSection(url=postgres), "accounts": AccountsSection(url=postgres),
        "batches": BatchesSection(url=postgres),
    }  # fmt: skip
    old = settings_at(tmp_path / "old", **shared)
    run, _ = fill(old)
    out = tmp_path / "b.tar.gz"
    backups.backup(old, out, NOW)
    with pytest.raises(Unavailable, match="already exists"):
        backups.restore(settings_at(tmp_path / "new", **shared), out)
    assert not (tmp_path / "new" / "objects").exists()
    _emptied(postgres)
    backups.restore(settings_at(tmp_path / "new", **shared), out)
    journal = journal_of(old)
    assert journal.verify(run) == 2
    journal.close()


def _emptied(postgres: str) -> None:
    from sqlalchemy import create_engine, text

    engine = create_engine(postgres)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()


def test_nothing_is_restored_over_what_is_there(tmp_path: Path) -> None:
    settings = settings_at(tmp_path / "old")
    fill(settings)
    out = tmp_path / "b.tar.gz"
    backups.backup(settings, out, NOW)
    before = (settings.data_dir / "journal.db").read_bytes()
    with pytest.raises(Conflict, match=r"holds .*journal\.db already"):
        backups.restore(settings, out)
    assert (settings.data_dir / "journal.db").read_bytes() == before
    with pytest.raises(Conflict, match="one of this name"):
        backups.backup(settings, out, NOW)


def _changed(file: Path, to: Path, name: str, content: bytes) -> None:
    """A copy of a backup in which a file is another one."""
    with tarfile.open(file) as old, tarfile.open(to, "w:gz") as new:
        for member in old:
            data = old.extractfile(member)
            assert data is not None
            held = content if member.name == name else data.read()
            member.size = len(held)
            new.addfile(member, BytesIO(held))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("databases/journal.db", b"other bytes", "journal.db is not what was backed up"),
        (backups.MANIFEST, b"{", "no whole backup"),
        (backups.MANIFEST, json.dumps(
            {"format": 99, "profile": "local", "made_at": 0, "parts": []}).encode(), "format 99"),
    ],
)  # fmt: skip
def test_a_changed_backup_is_refused_and_nothing_is_put_in_place(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    old = settings_at(tmp_path / "old")
    fill(old)
    out, wrong = tmp_path / "b.tar.gz", tmp_path / "wrong.tar.gz"
    backups.backup(old, out, NOW)
    _changed(out, wrong, name, content)
    new = settings_at(tmp_path / "new")
    with pytest.raises(DataError, match=message):
        backups.restore(new, wrong)
    assert list(new.data_dir.iterdir()) == []


def test_a_cut_file_and_none_at_all_are_told_apart(tmp_path: Path) -> None:
    old = settings_at(tmp_path / "old")
    fill(old)
    out = tmp_path / "b.tar.gz"
    backups.backup(old, out, NOW)
    out.write_bytes(out.read_bytes()[:300])
    with pytest.raises(DataError, match="no whole backup"):
        backups.restore(settings_at(tmp_path / "new"), out)
    with pytest.raises(NotFound):
        backups.restore(settings_at(tmp_path / "new"), tmp_path / "none.tar.gz")


def test_a_damaged_database_stops_the_backup(tmp_path: Path) -> None:
    settings = settings_at(tmp_path / "old")
    settings.data_dir.mkdir()
    (settings.data_dir / "journal.db").write_bytes(b"not a database" * 100)
    with pytest.raises(Unavailable, match=r"journal\.db"):
        backups.backup(settings, tmp_path / "b.tar.gz", NOW)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_the_commands_write_and_restore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAINSPRING_DATA_DIR", str(tmp_path / "old"))
    fill(load())
    out, store = str(tmp_path / "b.tar.gz"), str(tmp_path / "store")
    run = CliRunner().invoke
    assert run(app, ["backup", "--out", out, "--to", store]).exit_code == 0
    assert (tmp_path / "store" / "b.tar.gz").exists()
    monkeypatch.setenv("MAINSPRING_DATA_DIR", str(tmp_path / "new"))
    done = run(app, ["restore", out])
    assert done.exit_code == 0, done.output
    with sqlite3.connect(tmp_path / "new" / "journal.db") as connection:
        assert connection.execute("SELECT COUNT(*) FROM runs").fetchone() == (1,)
    again = run(app, ["restore", out])
    assert isinstance(again.exception, MainspringError)
