"""A workflow of one's own: what the guide says is done, word by word."""

from pathlib import Path

import pytest

from cluster.errors import Conflict, InvalidInput
from serve.new_cli import make
from tests.guide import GUIDE, blocks, changed, ran

PAGES, LINES_A_PAGE = 2, 66


@pytest.mark.timeout(180)
def test_the_guide_leads_to_a_workflow_with_a_rule_of_ones_own(tmp_path: Path) -> None:
    printed = ""
    for language, how, text in blocks():
        if language != "sh":
            changed(language, how, text, tmp_path / "reminders")
        elif not how:
            for line in text.splitlines():
                printed += ran(line, tmp_path, MAINSPRING_DATA_DIR=str(tmp_path / "data"))
    assert "6 cases of reminders on support.cedar, 0 wrong" in printed
    assert "7 cases of reminders on support.cedar, 0 wrong" in printed
    assert printed.count("3 passed") == 2


def test_the_guide_fits_on_two_pages() -> None:
    lines = GUIDE.read_text("utf-8").splitlines()
    assert sum(1 + len(line) // 100 for line in lines) <= PAGES * LINES_A_PAGE


def test_a_new_workflow_takes_no_name_that_is_none_and_no_place_that_is_taken(
    tmp_path: Path,
) -> None:
    for name in ("", "My Flow", "../x", "a" * 41, "1st"):
        with pytest.raises(InvalidInput, match="name"):
            make(name, tmp_path)
    made = make("mine", tmp_path)
    assert "NAME" not in "".join(path.read_text("utf-8") for path in made.iterdir())
    with pytest.raises(Conflict, match="mine"):
        make("mine", tmp_path)
