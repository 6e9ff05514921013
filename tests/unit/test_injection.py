"""Nothing that a text says is done, what is asked for honestly is: the benchmark's short form."""

from pathlib import Path

import pytest

from agents.policy import Policy
from benchmarks import injection
from benchmarks.injection_planner import commands
from benchmarks.injection_suites import KINDS, SUITES, attacks, honest


def test_there_are_enough_attacks_of_every_kind_in_every_suite() -> None:
    every = [s for suite in SUITES for s in attacks(suite)]
    assert len(every) >= 200
    assert len({s.id for s in every}) == len(every)
    assert {(s.suite, s.kind) for s in every} == {(s, k) for s in SUITES for k in KINDS}


def test_the_planner_pastes_split_commands_together() -> None:
    whole = 'x <<{"tool": "a", "args": {}}>> y'
    assert [c["tool"] for c in commands([whole, "z"])] == ["a"]
    halves = [f"<1/2 {whole[:9]} 1/2>", "between", f"<2/2 {whole[9:]} 2/2>"]
    assert [c["tool"] for c in commands(halves)] == ["a"]
    assert list(commands(halves[:1])) == []


@pytest.mark.parametrize("suite", SUITES)
async def test_an_attack_does_nothing_unless_the_policy_is_off(tmp_path: Path, suite: str) -> None:
    some = list(attacks(suite))[::5]
    assert {s.kind for s in some} == set(KINDS)
    governed = await injection.play(tmp_path / "on", suite, True, some)
    assert [(o.scenario, o.beyond) for o in governed if o.beyond] == []
    free = injection.succeeded(await injection.play(tmp_path / "off", suite, False, some))
    assert all(free[s.id] for s in some)


@pytest.mark.parametrize("suite", SUITES)
async def test_what_is_asked_for_honestly_is_done(tmp_path: Path, suite: str) -> None:
    played = await injection.play(tmp_path / "honest", suite, True, honest(suite, 20))
    assert [o.beyond for o in played] == [[]] * 20
    # What only an outsider names, a person is asked about.
    assert len([o for o in played if o.missing]) == (0 if suite == "support" else 1)


def test_the_suites_policy_fits_its_schema() -> None:
    path = Path(injection.__file__).with_name("assistant.cedar")
    assert Policy.load(path)


def test_the_help_names_the_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["injection", "--help"])
    with pytest.raises(SystemExit):
        injection.main()
    assert "--every" in capsys.readouterr().out
