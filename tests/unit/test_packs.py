"""Workflow packs: what makes one whole, and that what is not whole never starts."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agents import packs, policy_cases
from agents.evaluation import cases
from agents.packs import COMMON, RATES, load
from agents.rehearsal import Script
from agents.state import AgentState, RunState
from agents.tools import pack_of
from agents.workflows.shop.evaluation import tried
from cluster.errors import ConfigError
from cluster.settings import AgentsSection
from tests.fakes import POLICY, THRESHOLDS, TRUSTED

SHIPPED = tuple(
    sorted(
        file.parent.name
        for file in (Path(packs.__file__).parent / "workflows").glob("*/workflow.py")
    )
)

WORKFLOW = """
from pydantic import BaseModel
from agents.desks import EFFECTS, SqliteDesk
from agents.packs import Pack
from agents.tools import Tool


class Asked(BaseModel):
    subject: str


class Desk(SqliteDesk):
    def __init__(self, folder, clock):
        super().__init__(folder / "desk.db", clock, EFFECTS)

    def perform(self, tool, key, subject, args):
        return self.once(key, tool, subject, args, lambda: {})


async def work(turn, asked, parts):
    await turn.act("wave", "NAME.wave", {})
    await turn.end("waved", "", {})


PACK = Pack("NAME", "Waves", Asked, (Tool("NAME.wave", (), "write"),), work, Desk)
"""
RULES = """
@id("wave") @reason("waving is free")
permit (principal == Agent::"NAME", action == Action::"NAME.wave", resource);
"""


def _folder(tmp_path: Path, workflow: str = WORKFLOW, rules: str = RULES) -> str:
    folder = tmp_path / "waver"
    folder.mkdir(exist_ok=True)
    (folder / "workflow.py").write_text(workflow.replace("NAME", "waver"))
    (folder / "policy.cedar").write_text(rules.replace("NAME", "waver"))
    return str(folder)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_packs_policies(name: str) -> None:
    loaded = load([name])
    cases = policy_cases.read(loaded[name].folder / "cases.yaml")
    tried = list(policy_cases.tried(loaded.policy(POLICY), cases))
    assert [t for t in tried if t.wrong] == []
    # Every rule is the answer to some case.
    decided = {t.decision.rule for t in tried}
    rules = {line.split('"')[1] for line in loaded[name].rules.splitlines() if "@id" in line}
    assert rules <= decided


@pytest.mark.parametrize("case", cases(load(["shop"])["shop"]), ids=lambda case: str(case["name"]))
async def test_the_shops_evaluation_set_without_a_model(
    case: dict[str, Any], tmp_path: Path
) -> None:
    told = await tried(case, tmp_path, Script([]))
    assert (told.wrong, told.invented) == ("", 0)


def test_all_shipped_packs_stand_beside_the_shipped_policy() -> None:
    assert load(SHIPPED).policy(POLICY)


def test_the_common_facts_are_those_that_every_step_has() -> None:
    from agents.facts import facts_for

    run = RunState("r", input={"tenant": "t"})
    told = facts_for("waver.wave", {}, run, AgentState("a"), THRESHOLDS, TRUSTED)
    assert set(told) == set(COMMON)
    assert all(hasattr(TRUSTED, name) for name in RATES)


def test_a_folder_is_a_pack_by_its_own_name(tmp_path: Path) -> None:
    loaded = load([_folder(tmp_path)])
    assert list(loaded) == ["waver"]
    assert loaded["waver"].actor == "connector-waver"
    assert pack_of("waver.wave") == "waver"
    assert pack_of("server/some.tool") == ""
    assert loaded.policy(POLICY)


def test_settings_name_packs_from_wherever_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    section = AgentsSection(packs=("shop", "./mine/waver"))
    assert section.packs_by_name == {"shop": "shop", "waver": str(tmp_path / "mine" / "waver")}


@pytest.mark.parametrize(
    ("workflow", "said"),
    [
        ("", "defines PACK"),
        ("PACK = 7", "defines PACK"),
        ("import nothing_like_that", "can be imported"),
        (WORKFLOW.replace("NAME.wave", "other.wave"), "called waver.SOMETHING"),
        (WORKFLOW.replace('Pack("NAME"', 'Pack("other"'), "a folder called other"),
        (WORKFLOW.replace('Pack("NAME"', 'Pack("No Name"'), "small letters"),
    ],
)
def test_a_workflow_that_is_not_whole_is_refused(tmp_path: Path, workflow: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load([_folder(tmp_path, workflow)])


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (RULES.replace("NAME.wave", "refund"), "actions among"),
        (RULES.replace('Agent::"NAME"', 'Agent::"support"'), "principal =="),
        (RULES.replace('principal == Agent::"NAME"', "principal"), "principal =="),
        (RULES.replace('action == Action::"NAME.wave"', "action"), "actions among"),
        (RULES.replace('@reason("waving is free")', ""), "@reason"),
        ("permit (", "valid Cedar"),
        (RULES.replace("resource)", "resource) when { context.money > 1 }"), "Cedar that fits"),
    ],
)
def test_rules_that_are_not_its_own_are_refused(tmp_path: Path, rules: str, said: str) -> None:
    loaded = load([_folder(tmp_path, rules=rules)])
    with pytest.raises(ConfigError, match=said):
        loaded.policy(POLICY)


def test_without_a_policy_or_a_folder_nothing_starts(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (Path(folder) / "policy.cedar").unlink()
    with pytest.raises(ConfigError, match="file that exists"):
        load([folder]).policy(POLICY)
    for name in ("nothing", str(tmp_path / "nowhere"), "../x", ""):
        with pytest.raises(ConfigError):
            load([name])
    with pytest.raises(ConfigError, match="different names"):
        load(["shop", "shop"])


def test_a_desks_effect_is_done_once_in_whatever_process(tmp_path: Path) -> None:
    from agents.desks import EFFECTS, SqliteDesk
    from cluster.errors import Conflict
    from tests.fakes import FakeClock

    desks = [SqliteDesk(tmp_path / "d.db", FakeClock(), EFFECTS) for _ in range(2)]
    first = desks[0].once("k", "wave", "x", {"n": 1}, lambda: {"told": 1})
    again = desks[1].once("k", "wave", "x", {"n": 1}, lambda: {"told": 2})
    assert (first["repeated"], again["repeated"], again["told"]) == (False, True, 1)
    with pytest.raises(Conflict):
        desks[1].once("k", "wave", "x", {"n": 2}, lambda: {})

    def fails() -> dict[str, int]:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        desks[0].once("k2", "wave", "x", {}, fails)
    assert desks[1].find("k2") is None
    assert len(desks[1].effects("x")) == 1
    for desk in desks:
        desk.close()
