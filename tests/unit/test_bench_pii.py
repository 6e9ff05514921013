"""The benchmark of personal data: its sentences, its counting; its set for mending holds."""

import pytest

from benchmarks import pii
from benchmarks.pii import Counts, f2, found, same
from benchmarks.pii_sentences import DATA, FROM_ACCOUNT, STRUCTURED, Sentence, sentences


def test_the_two_sets_share_no_template() -> None:
    sets = [
        {line.partition(" | ")[2] for line in (DATA / f"{name}.txt").read_text().splitlines()}
        for name in ("tuning", "held_out")
    ]
    assert not (sets[0] & sets[1]) - {""}


def test_a_seed_draws_the_same_sentences_and_labels_what_stands_there() -> None:
    drawn = list(sentences("held_out", 2, 1))
    assert drawn == list(sentences("held_out", 2, 1))
    assert {s.language for s in drawn} == {"en", "de", "fr", "es", "it", "nl", "pl"}
    assert {kind for s in drawn for kind, _, _ in s.labels} == {*STRUCTURED, *FROM_ACCOUNT}
    assert all(s.text[a:b].strip() == s.text[a:b] != "" for s in drawn for _, a, b in s.labels)


def test_hits_misses_and_false_finds_are_counted() -> None:
    text = "mail a@example.com or IBAN DE89 3704 0044 0532 0130 00"
    given = Sentence(text, (("EMAIL", 5, 18), ("PHONE", 0, 4)), None, "en")
    assert [text[a:b] for _, a, b in found(given)] == [
        "a@example.com", "DE89 3704 0044 0532 0130 00",
    ]  # fmt: skip
    counts = Counts([given], show=False)
    assert counts.rates(["EMAIL"]) == (1.0, 1.0, 1)
    assert counts.rates(["PHONE"]) == (0.0, 0.0, 1)
    assert counts.rates(["EMAIL", "IBAN"])[0] == 0.5
    assert same(("NAME", 0, 4), ("NAME", 0, 5)) and not same(("NAME", 0, 4), ("NAME", 0, 8))
    assert f2(0.5, 1.0) == pytest.approx(0.8333, abs=1e-4)


def test_the_set_for_mending_holds_what_the_figures_promise() -> None:
    counts = Counts(sentences("tuning", 3, 7), show=False)
    precision, recall, _ = counts.rates(STRUCTURED)
    assert recall >= pii.RECALL and precision >= pii.PRECISION
    assert f2(*counts.rates(FROM_ACCOUNT)[:2]) >= pii.F2


def test_the_help_says_what_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["pii", "--help"])
    with pytest.raises(SystemExit) as ended:
        pii.main()
    assert ended.value.code == 0
    assert "--draws" in capsys.readouterr().out
