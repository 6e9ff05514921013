"""The routing benchmark's options and splits."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.routing import Questions, _splits, main
from memory.embed import DIMENSION
from serve.quality_training import Examples


def test_the_help_names_the_options_and_an_empty_folder_is_said_to_be_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--protocol" in capsys.readouterr().out
    assert main(["--data", str(tmp_path)]) == 0
    assert "skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("protocol", "taught", "unseen"), [("tenth", 4, 36), ("subjects", 20, 20), ("cv", 32, 8)]
)
def test_no_question_is_both_learnt_from_and_judged(
    protocol: str, taught: int, unseen: int
) -> None:
    subjects = np.repeat(["a", "b", "c", "d"], 10)
    examples = Examples(("strong", "weak"), ["x"] * 40, np.zeros((40, 2), bool))
    asked = Questions("made", examples, subjects, np.zeros((40, DIMENSION), np.float32))
    for known, judged in _splits(asked, protocol, seed=0):
        assert (len(known), len(judged)) == (taught, unseen)
        assert not set(known) & set(judged)
