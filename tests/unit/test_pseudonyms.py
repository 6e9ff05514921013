"""What leaves under pseudonyms comes back for its tenant, until it is erased: then nothing does."""

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from agents.audit_export import verify
from agents.audit_key import AuditKey
from agents.events import ApprovalAnswered, ApprovalAsked, StepDecided
from agents.guarding import AUDIT
from agents.journal_sql import SqlJournal
from agents.pii import belongs
from agents.pseudonyms import KEYS, PSEUDONYM, Erased, Pseudonyms, forgotten
from cluster.errors import DataError, InvalidInput
from cluster.ids import SystemClock, SystemIds
from cluster.settings import load, profile_path
from serve import backup as backups
from serve.cli import app
from tests.databases import server, url  # noqa: F401
from tests.fakes import FakeClock

ANNA = {
    "name": "Anna Weber", "email": "anna.weber@example.com", "phone": "+49 151 23456789",
    "address": "Lindenstraße 12, 10969 Berlin",
}  # fmt: skip
LETTER = (
    "Anna Weber (anna.weber@example.com, 0151 23456789) of Lindenstraße 12 asks with "
    "bo@example.org; card 4539 5787 6362 1486."
)
SECRETS = ("Weber", "anna.weber", "23456789", "Lindenstra", "bo@example", "4539 5787")
FILE_URL = "sqlite:///pseudonyms.db"


def opened(folder: Path, at: str = FILE_URL) -> Pseudonyms:
    return Pseudonyms(at, folder, FakeClock())


@pytest.fixture
def kept(url: str, tmp_path: Path) -> Iterator[Pseudonyms]:  # noqa: F811
    pseudonyms = opened(tmp_path, url)
    yield pseudonyms
    pseudonyms.close()


def bytes_of(folder: Path) -> bytes:
    return b"".join(f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file())


def test_what_is_hidden_says_nothing_and_comes_back(kept: Pseudonyms) -> None:
    hidden = kept.hide("t", LETTER, ANNA)
    assert not [s for s in SECRETS if s in hidden]
    kinds = [m.group(1) for m in PSEUDONYM.finditer(hidden)]
    assert kinds == ["NAME", "EMAIL", "PHONE", "ADDRESS", "EMAIL", "CARD"]
    assert kept.reveal("t", hidden) == (LETTER, 0)
    assert kept.reveal("t", "nobody knows [NAME:bcdfghjkmn]") == (
        "nobody knows [NAME:bcdfghjkmn]", 1,
    )  # fmt: skip


def test_a_value_has_one_pseudonym_by_tenant_for_ever(kept: Pseudonyms) -> None:
    first = kept.hide("t", "write to anna.weber@example.com")
    assert kept.hide("t", "write to Anna.Weber@example.com") == first
    assert kept.hide("t", first) == first  # hidden already
    other = kept.hide("u", "write to anna.weber@example.com")
    assert other != first
    assert kept.reveal("u", first) == (first, 1)


def test_references_of_a_run_are_left_alone(kept: Pseudonyms) -> None:
    text = "Dear [NAME_1], [EMAIL_1] is not bo@example.org"
    hidden = kept.hide("t", text, ANNA)
    assert hidden.startswith("Dear [NAME_1], [EMAIL_1] is not [EMAIL:")
    assert kept.reveal("t", hidden) == (text, 0)


def test_an_erasure_takes_a_subjects_values_and_leaves_the_others(kept: Pseudonyms) -> None:
    mine = kept.hide("t", "card 4539 5787 6362 1486", subject="ann")
    shared = kept.hide("t", "write to bo@example.org", subject="bo")
    again = kept.hide("t", shared, subject="cy")  # known by its pseudonym
    elsewhere = kept.hide("u", "card 4539 5787 6362 1486", subject="ann")
    assert kept.erase("t", "ann").values == 1
    assert kept.reveal("t", mine) == (mine, 1)
    assert kept.reveal("u", elsewhere)[1] == 0
    assert kept.reveal("t", again)[1] == 0
    assert kept.erase("t", "cy").values == 1
    assert kept.reveal("t", shared) == (shared, 1)
    assert kept.erase("t", "cy").values == 0
    with pytest.raises(InvalidInput):
        kept.erase("t")


def test_an_account_takes_along_what_was_hidden_for_nobody(kept: Pseudonyms) -> None:
    hidden = kept.hide("t", LETTER, ANNA)
    assert kept.erase("t", account=ANNA).values == 4
    left, unknown = kept.reveal("t", hidden)
    assert unknown == 4
    assert "bo@example.org" in left and "Weber" not in left and "23456789" not in left
    # The same value later is a new one: the old text stays as it is.
    assert kept.hide("t", ANNA["email"]) not in hidden


@pytest.mark.parametrize(
    ("value", "hers"),
    [
        ("anna.weber@example.com", True), ("ANNA WEBER", True), ("Weber, Anna", True),
        ("0151 2345 6789", True), ("Lindenstraße 12", True), ("Weber", True),
        ("Peter Weber", False), ("peter.weber@example.com", False), ("Lindenstraße 14", False),
        ("", False), (" ", False),
    ],
)  # fmt: skip
def test_a_value_belongs_to_an_account_when_all_of_it_does(value: str, hers: bool) -> None:
    assert belongs(value, ANNA) is hers


def test_the_files_hold_nothing_in_the_clear_and_no_byte_after_an_erasure(tmp_path: Path) -> None:
    kept = opened(tmp_path)
    for n in range(300):
        kept.hide("t", f"write to person{n}@example.org", subject=f"s{n}")
    hidden = kept.hide("t", LETTER, ANNA, "ann")
    held = bytes_of(tmp_path)
    assert not [s for s in SECRETS if s.encode() in held]
    with kept._database.reading() as connection:
        rows = connection.exec_driver_sql("SELECT pseudonym, digest, sealed FROM pseudonyms").all()
    gone = [tuple(row) for row in rows if row[0] in hidden]
    assert len(gone) == 6
    assert all(part.encode() in held for row in gone for part in row)
    assert kept.erase("t", "ann") == Erased(6, True)
    held = bytes_of(tmp_path)
    assert not [part for row in gone for part in row if part.encode() in held]
    assert kept.count("t") == 300
    kept.close()


def test_a_key_that_is_missing_cut_or_another_brings_nothing_back(tmp_path: Path) -> None:
    kept = opened(tmp_path)
    hidden = kept.hide("t", "write to bo@example.org")
    key = tmp_path / KEYS / "key"
    assert key.stat().st_mode & 0o077 == 0
    good = key.read_bytes()
    for bad in (b"x" * 32, b"short"):
        key.write_bytes(bad)
        with pytest.raises(DataError):
            kept.reveal("t", hidden)
    key.unlink()
    with pytest.raises(DataError):
        kept.reveal("t", hidden)
    key.write_bytes(good)
    assert kept.reveal("t", hidden)[1] == 0
    kept.close()


def test_sealed_values_that_were_swapped_are_not_believed(tmp_path: Path) -> None:
    kept = opened(tmp_path)
    hidden = kept.hide("t", "bo@example.org or cy@example.org")
    one, two = (m.group() for m in PSEUDONYM.finditer(hidden))
    with kept._database.transaction() as connection:
        sealed = dict(
            tuple(r) for r in connection.exec_driver_sql("SELECT pseudonym, sealed FROM pseudonyms")
        )
        for pseudonym, other in ((one, two), (two, one)):
            connection.exec_driver_sql(
                "UPDATE pseudonyms SET sealed = ? WHERE pseudonym = ?", (sealed[other], pseudonym)
            )
    with pytest.raises(DataError):
        kept.reveal("t", hidden)
    kept.close()


def test_several_at_once_agree_on_the_key_and_on_the_pseudonym(tmp_path: Path) -> None:
    def hide(_: int) -> str:
        mine = opened(tmp_path)
        try:
            return mine.hide("t", "write to bo@example.org")
        finally:
            mine.close()

    opened(tmp_path).close()
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(hide, range(12)))) == 1
    assert [f.name for f in (tmp_path / KEYS).iterdir()] == ["key"]


@given(text=st.text(max_size=80), cut=st.integers(0, 80))
def test_whatever_a_text_holds_it_comes_back(
    text: str, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("p")
    kept = opened(folder)
    try:
        said = f"{text[:cut]} bo@example.org [NAME_1] {text[cut:]}"
        assert kept.reveal("t", kept.hide("t", said))[0] == said
    finally:
        kept.close()
        shutil.rmtree(folder)


# --- where it is used


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Runs a command on a data folder of its own."""
    profile = tmp_path / "p.yaml"
    settings = yaml.safe_load(profile_path("local").read_text())
    profile.write_text(yaml.safe_dump({**settings, "data_dir": str(tmp_path / "data")}))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, [*words, "--profile", str(profile)])
        assert result.exit_code == code, result.output
        return result.stdout

    yield run


def test_a_text_goes_out_and_comes_back_until_its_customer_is_erased(
    line: Any, tmp_path: Path
) -> None:
    file, back = tmp_path / "letter.txt", tmp_path / "back.txt"
    file.write_text("Anna Weber, Lindenstrasse 12: anna.weber@example.com", "utf-8")
    desk_of(tmp_path / "data")
    back.write_text(line("pseudonyms", "hide", str(file), "--customer", "C-1"), "utf-8")
    assert "Weber" not in back.read_text() and back.read_text().startswith("[NAME:")
    assert line("pseudonyms", "reveal", str(back), "--by", "olga", "--why", "a") == file.read_text()
    assert "pseudonyms taken away" in line("erase", "C-1", "--by", "olga", "--why", "she asked")
    told = line("pseudonyms", "reveal", str(back), "--by", "olga", "--why", "b")
    assert told == back.read_text()
    journal = SqlJournal("sqlite:///journal.db", tmp_path / "data", SystemClock(), SystemIds())
    assert len(list(journal.runs("default", None, "reveal/back.txt"))) == 2
    journal.close()
    held = bytes_of(tmp_path / "data")
    assert b"anna.weber" not in held and b"Lindenstrasse" not in held


def desk_of(folder: Path) -> None:
    from agents.helpdesk import HelpDesk

    desk = HelpDesk(folder / "desk.db", FakeClock())
    with desk.transaction() as db:
        row = ("C-1", "Anna Weber", ANNA["email"], "", "Lindenstrasse 12, Berlin", "2026-01-02")
        db.execute("insert into customers values (?,?,?,?,?,?)", row)
    desk.close()


def test_forgetting_a_subject_takes_its_values_along(line: Any, tmp_path: Path) -> None:
    file = tmp_path / "note.txt"
    file.write_text("write to bo@example.org", "utf-8")
    line("pseudonyms", "hide", str(file), "--subject", "bo")
    assert forgotten("default", "nobody", FILE_URL, tmp_path / "data") == 0
    assert forgotten("default", "bo", FILE_URL, tmp_path / "data") == 1


def test_people_in_an_audits_export_can_be_told_apart_and_brought_back(
    line: Any, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    journal = SqlJournal("sqlite:///journal.db", data, SystemClock(), SystemIds())
    people = ("ann@example.com", "bo@example.org", "ann@example.com")
    for number, by in enumerate(people):
        run, _ = journal.create("default", f"k{number}", "support", "a", {"tenant": "default"})
        journal.append(run, 0, [_decided(), _asked(), _answered(by)])
    journal.close()
    line("audit", "export", str(tmp_path))
    content = (tmp_path / "receipts.jsonl").read_bytes()
    assert verify(content, AuditKey(data / AUDIT)) == 3
    assert b"example" not in content
    approvers = [json.loads(r)["approval"]["by"] for r in content.decode().splitlines()[:3]]
    assert sorted(approvers) != sorted(set(approvers)) and len(set(approvers)) == 2
    out = tmp_path / "receipts.jsonl"
    told = line("pseudonyms", "reveal", str(out), "--by", "olga", "--why", "an audit")
    names = [json.loads(r)["approval"]["by"] for r in told.splitlines()[:3]]
    assert sorted(names) == sorted(people)


def _decided() -> StepDecided:
    return StepDecided(
        step="pay", tool="refund", args={}, answer="ask", rule="refund-cap", reason="much",
        facts={},
    )  # fmt: skip


def _asked() -> ApprovalAsked:
    return ApprovalAsked(
        step="pay", approval="a", tool="refund", digest="d", rules=("refund-cap",), reason="much",
        expires_at=1.0, to="ops",
    )  # fmt: skip


def _answered(by: str) -> ApprovalAnswered:
    return ApprovalAnswered(step="pay", approval="a", approved=True, by=by)


def test_a_backup_brings_them_back_on_another_machine(tmp_path: Path) -> None:
    old = load().model_copy(update={"data_dir": tmp_path / "old"})
    new = load().model_copy(update={"data_dir": tmp_path / "new"})
    kept = opened(tmp_path / "old", old.agents.pseudonyms)
    hidden = kept.hide("t", LETTER, ANNA)
    kept.close()
    backups.backup(old, tmp_path / "b.tar.gz", 1.0)
    backups.restore(new, tmp_path / "b.tar.gz")
    restored = opened(tmp_path / "new", new.agents.pseudonyms)
    assert restored.reveal("t", hidden) == (LETTER, 0)
    restored.close()
