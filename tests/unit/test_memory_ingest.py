import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from cluster.errors import InvalidInput, NotFound, Unavailable
from cluster.ids import SystemClock
from cluster.objects import Folder
from memory.ingest import Ingested, IngestReport, Order, Progress, Replaced, ingest
from memory.reading import Shelf
from memory.records import Record


class Library:
    """ingest.Documents in dictionaries."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.notes: dict[tuple[str, str], Ingested] = {}
        self.replaced: list[str] = []
        self.down = False

    async def ingested(self, tenant: str, place: str, document: str = "") -> Mapping[str, Ingested]:
        return {d: n for (t, d), n in self.notes.items() if t == tenant and n.place == place}

    async def replace(self, tenant: str, found: Ingested, records: Sequence[Record]) -> Replaced:
        if self.down:
            raise Unavailable("memory", "it is down")
        self.replaced.append(found.document)
        new = {record.id: record for record in records}
        added = len(new.keys() - self.records.keys())
        documents = {found.document, *(record.document for record in records)}
        before = self.notes.pop((tenant, found.document), None)
        old = {i for i, r in self.records.items() if r.document in documents}
        old = (old | set(before.ids if before else ())) - new.keys()
        self.records = {i: r for i, r in self.records.items() if i not in old} | new
        if found.digest:
            self.notes[tenant, found.document] = found
        return Replaced(added, len(new) - added, len(old))

    @property
    def told(self) -> dict[str, str]:
        return {r.source: r.text for r in sorted(self.records.values(), key=lambda r: r.source)}


@pytest.fixture
def library() -> Library:
    return Library()


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


async def taken(
    library: Library, path: Path, kind: str = "policy", prune: bool = False
) -> IngestReport:
    order = Order(Shelf("shop", kind), prune)
    return await ingest(Folder(path), library, order, SystemClock())


async def test_a_folder_is_read_with_sources_places_and_the_files_times(
    library: Library, tmp_path: Path
) -> None:
    write(tmp_path, "returns.md", "# Returns\n\nReturns are free.\n")
    write(tmp_path, "more/notes.txt", "one\n\ntwo")
    write(tmp_path, "picture.png", "ignored")
    report = await taken(library, tmp_path)
    assert library.told == {
        "policy:more/notes.txt#1": "one",
        "policy:more/notes.txt#2": "two",
        "policy:returns.md#1": "Returns: Returns are free.",
    }
    assert {r.event_at for r in library.records.values()} == {1_700_000_000.0}
    (returns,) = [r for r in library.records.values() if r.document == "policy:returns.md"]
    assert dict(returns.meta) == {"heading": "Returns", "span": "line 3"}
    assert (returns.trust, returns.origin.source_kind) == ("tenant", "document")
    assert (report.files, report.added, report.skipped, report.problems) == (2, 3, 1, ())


async def test_what_has_not_changed_is_not_read_again(library: Library, tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "one\n\ntwo")
    write(tmp_path, "b.txt", "three")
    await taken(library, tmp_path)
    library.replaced.clear()
    write(tmp_path, "b.txt", "3hree")  # the same size and the same time
    report = await taken(library, tmp_path)
    assert library.replaced == ["policy:b.txt"]
    assert (report.files, report.unchanged) == (2, 1)
    assert (report.added, report.known, report.removed) == (1, 2, 1)
    assert set(library.told.values()) == {"one", "two", "3hree"}


async def test_what_is_gone_from_a_file_is_gone_from_memory(
    library: Library, tmp_path: Path
) -> None:
    write(tmp_path, "a.txt", "one\n\ntwo")
    await taken(library, tmp_path)
    write(tmp_path, "a.txt", "")
    assert (await taken(library, tmp_path)).removed == 2
    assert library.told == {}


async def test_a_file_that_is_gone_stays_in_memory_until_pruned(
    library: Library, tmp_path: Path
) -> None:
    write(tmp_path, "a.txt", "one")
    write(tmp_path, "b.txt", "two")
    await taken(library, tmp_path)
    await taken(library, tmp_path, kind="ticket")
    (tmp_path / "a.txt").unlink()
    assert (await taken(library, tmp_path)).removed == 0
    report = await taken(library, tmp_path, prune=True)
    assert (report.removed, report.unchanged) == (1, 1)
    # what another kind read from the same place is none of this order's business
    assert sorted(library.told) == ["policy:b.txt#1", "ticket:a.txt#1", "ticket:b.txt#1"]


async def test_lines_keep_their_own_id_time_and_fields(library: Library, tmp_path: Path) -> None:
    rows = [
        {"id": "PT-014", "text": "It broke.", "event_at": "2026-05-12T08:00:00Z", "intent": "x"},
        {"text": "No id.", "event_at": 12.5, "meta": {"answer": "Sorry."}, "list": [1]},
        {"source": "desk:7", "text": "Own source.", "closed": "2026-05-12"},
    ]
    write(tmp_path, "past.jsonl", "\n".join(json.dumps(row) for row in rows) + "\n\n")
    await taken(library, tmp_path, kind="ticket")
    found = {r.source: r for r in library.records.values()}
    assert found["ticket:PT-014"].event_at == 1_778_572_800.0
    assert dict(found["ticket:PT-014"].meta) == {"intent": "x"}
    assert found["ticket:past.jsonl#2"].event_at == 12.5
    assert dict(found["ticket:past.jsonl#2"].meta) == {"answer": "Sorry."}
    assert found["desk:7"].event_at == 1_778_544_000.0
    write(tmp_path, "past.jsonl", json.dumps(rows[1]))
    await taken(library, tmp_path, kind="ticket")
    assert "ticket:PT-014" not in library.told


async def test_what_can_not_be_read_is_reported_and_stops_nothing(
    library: Library, tmp_path: Path
) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)))
    (tmp_path / "nul.md").write_bytes(b"# A\n\nnul \x00 here")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7\nnot really")
    lines = ['{"text": "good"}', "not json", '["a list"]', '{"text": ""}', '{"text": "late",']
    lines += ['{"text": "when", "event_at": "yesterday"}', '{"text": 5}', '{"text": "last"}']
    lines += ['{"text": "far", "event_at": 1e15}', "[" * 100_000]
    write(tmp_path, "mixed.jsonl", "\n".join(lines))
    write(tmp_path, "ok.md", "# Ok\n\nStill read.")
    report = await taken(library, tmp_path)
    assert set(library.told.values()) == {"good", "last", "Ok: Still read."}
    problems = sorted(report.problems)
    assert [p.partition(": ")[0] for p in problems] == [
        "binary.txt", "broken.pdf", "latin.txt", "nul.md",
        *(f"policy:mixed.jsonl#{n}" for n in (10, 2, 3, 4, 5, 6, 7, 9)),
    ]  # fmt: skip
    assert "xe9' at byte 3" in problems[2] and "UTF-8" in problems[2]
    assert report.files == 2
    # a file of which a line is wrong is looked at again, and says so again
    assert len((await taken(library, tmp_path)).problems) == len(problems)


async def test_a_file_that_breaks_keeps_what_it_gave_before(
    library: Library, tmp_path: Path
) -> None:
    write(tmp_path, "a.txt", "one")
    await taken(library, tmp_path)
    (tmp_path / "a.txt").write_bytes(b"\xff\xff")
    report = await taken(library, tmp_path, prune=True)
    assert len(report.problems) == 1
    assert library.told == {"policy:a.txt#1": "one"}


async def test_texts_of_every_script_and_encoding_are_read(
    library: Library, tmp_path: Path
) -> None:
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfmark")
    (tmp_path / "wide.txt").write_bytes("Grüße".encode("utf-16"))
    write(tmp_path, "rtl.txt", "שלום עולם ‏123\n\nمرحبا بالعالم")
    write(tmp_path, "emoji.txt", "👩‍👩‍👧‍👦 family 🎉")
    (tmp_path / "page.html").write_bytes(b"<meta charset=iso-8859-1><p>caf\xe9</p>")
    write(tmp_path, "empty.txt", "")
    report = await taken(library, tmp_path)
    assert report.problems == ()
    assert set(library.told.values()) == {
        "mark", "Grüße", "שלום עולם ‏123", "مرحبا بالعالم", "👩‍👩‍👧‍👦 family 🎉", "café",
    }  # fmt: skip


async def test_ten_megabytes_of_text_are_cut_in_seconds(library: Library, tmp_path: Path) -> None:
    text = "# Guide\n\n" + "Every sentence of this book says nearly the same. " * 200_000
    write(tmp_path, "book.md", text)
    write(tmp_path, "over.txt", "x" * 32_000_001)
    report = await taken(library, tmp_path)
    assert report.added == len(library.records) == 40_000
    assert report.problems[0].startswith("over.txt: ") and "32000000" in report.problems[0]


async def test_hidden_files_and_links_out_of_the_folder_are_left_out(
    library: Library, tmp_path: Path
) -> None:
    secret = write(tmp_path, "elsewhere/secret.txt", "secret")
    inside = tmp_path / "inside"
    write(inside, ".hidden/a.txt", "hidden")
    write(inside, "b.txt", "seen")
    (inside / "link.txt").symlink_to(secret)
    await taken(library, inside)
    assert list(library.told.values()) == ["seen"]


async def test_a_single_file_of_a_wrong_kind_is_a_problem_and_a_missing_one_an_error(
    library: Library, tmp_path: Path
) -> None:
    report = await taken(library, write(tmp_path, "picture.png", "not text"))
    assert (report.files, len(report.problems)) == (0, 1)
    with pytest.raises(NotFound):
        await taken(library, tmp_path / "nowhere")


async def test_names_that_would_be_one_document_are_not_mixed(
    library: Library, tmp_path: Path
) -> None:
    write(tmp_path, "a#b.txt", "one\n\ntwo")
    write(tmp_path, "a_b.txt", "three")
    report = await taken(library, tmp_path)
    assert {r.document for r in library.records.values()} == {"policy:a_b.txt"}
    assert set(library.told.values()) == {"one", "two"}
    assert report.problems[0].startswith("a_b.txt: ")


async def test_progress_tells_files_bytes_and_passages(library: Library, tmp_path: Path) -> None:
    for number in range(5):
        write(tmp_path, f"{number}.txt", "one\n\ntwo")
    seen: list[tuple[int, int, int]] = []
    last: list[Progress] = []

    def tell(now: Progress) -> None:
        seen.append((now.files, now.bytes, now.passages))
        last.append(now)

    order = Order(Shelf("shop", "note"), workers=2)
    report = await ingest(Folder(tmp_path), library, order, SystemClock(), tell)
    assert seen == [(n, 8 * n, 2 * n) for n in range(1, 6)]
    assert (last[-1].of_files, last[-1].of_bytes, report.bytes) == (5, 40, 40)
    assert last[-1].passages_per_second > 0


async def test_memory_that_is_down_stops_the_ingest_and_doing_it_again_completes_it(
    library: Library, tmp_path: Path
) -> None:
    write(tmp_path, "a.txt", "one")
    library.down = True
    with pytest.raises(Unavailable):
        await taken(library, tmp_path)
    library.down = False
    assert (await taken(library, tmp_path)).added == 1


def test_an_order_for_no_workers_is_refused() -> None:
    with pytest.raises(InvalidInput, match="1 to 32"):
        Order(Shelf("shop", "note"), workers=0)
