"""Each settings mistake stops the start and names the field, the value and what is right."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from cluster.errors import ConfigError
from cluster.settings import Settings, infra_path, load, unknown_variables

MODELS: list[dict[str, Any]] = [
    {"id": i, "tier": i, "source": "x", "usd_per_mtok_in": 1, "usd_per_mtok_out": 2}
    for i in ("planner", "routine")
]
DIGEST = "ab" * 32


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import os

    for name in [n for n in os.environ if n.startswith("MAINSPRING_")]:
        monkeypatch.delenv(name)
    yield


def _profile(folder: Path, **values: Any) -> str:
    path = folder / "profile.yaml"
    path.write_text(yaml.safe_dump({"models": MODELS, **values}), encoding="utf-8")
    return str(path)


def _problem(name: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(name)
    return caught.value


def test_the_shipped_profile_loads_and_listens_on_loopback_only() -> None:
    settings = load()
    assert settings.profile == "local"
    assert settings.gateway.is_loopback
    assert {m.tier for m in settings.models} == {"planner", "routine"}


@pytest.mark.parametrize(
    ("values", "field", "shown", "expected"),
    [
        ({"gateway": {"port": 0}}, "gateway.port", "0", "greater than or equal to 1"),
        ({"gateway": {"port": "abc"}}, "gateway.port", "'abc'", "valid integer"),
        ({"gateway": {"prot": 1}}, "gateway.prot", "1", "'port'"),
        ({"gatway": {}}, "gatway", "...", "'gateway'"),
        ({"tenant": "No Spaces"}, "tenant", "'No Spaces'", "pattern"),
        ({"support": {"min_confidence": 70}}, "support.min_confidence", "70", "less than"),
        ({"models": []}, "models", "[]", "at least 1"),
        ({"models": MODELS[:1]}, "settings", "...", "no model has tier ['routine']"),
        ({"models": [*MODELS, MODELS[0]]}, "settings", "...", "distinct"),
        ({"models": [MODELS[1], {**MODELS[0], "id": "auto"}]}, "settings", "...", "auto"),
        ({"models": [{**MODELS[0], "tier": "big"}]}, "models.0.tier", "'big'", "'planner'"),
        ({"models": [{**MODELS[0], "tire": "x"}]}, "models.0.tire", "'x'", "'tier'"),
        ({"agents": {"max_open_runs": 0}}, "agents.max_open_runs", "0", "greater"),
    ],
)
def test_a_mistake_names_field_value_and_what_is_right(
    tmp_path: Path, values: dict[str, Any], field: str, shown: str, expected: str
) -> None:
    problem = _problem(_profile(tmp_path, **values))
    assert problem.field == field
    assert shown in str(problem)
    assert expected in problem.expected


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com"])
def test_a_host_that_others_can_reach_needs_keys(tmp_path: Path, host: str) -> None:
    problem = _problem(_profile(tmp_path, gateway={"host": host}))
    assert problem.field == "gateway"
    assert host in str(problem)
    assert "api_key_sha256" in str(problem)
    settings = load(_profile(tmp_path, gateway={"host": host, "api_key_sha256": [DIGEST]}))
    assert settings.gateway.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "localhost", "::1"])
def test_loopback_needs_no_keys(tmp_path: Path, host: str) -> None:
    assert load(_profile(tmp_path, gateway={"host": host})).gateway.is_loopback


@pytest.mark.parametrize("digest", ["secret", DIGEST.upper(), DIGEST[:-1]])
def test_a_key_that_is_no_digest_is_refused(tmp_path: Path, digest: str) -> None:
    problem = _problem(_profile(tmp_path, gateway={"api_key_sha256": [digest]}))
    assert "64 lower-case hex" in problem.expected


def test_the_environment_overrides_single_values_of_the_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAINSPRING_GATEWAY__PORT", "9001")
    monkeypatch.setenv("MAINSPRING_TENANT", "acme")
    settings = load(_profile(tmp_path, gateway={"port": 9000, "replicas": 3}))
    assert (settings.gateway.port, settings.gateway.replicas) == (9001, 3)
    assert settings.tenant == "acme"


def test_the_environment_is_held_to_the_same_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAINSPRING_GATEWAY__HOST", "0.0.0.0")
    assert "0.0.0.0" in str(_problem("local"))


@pytest.mark.parametrize("name", ["MODELS", "GATEWAY"])
def test_a_variable_that_is_no_json_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"MAINSPRING_{name}", "not json")
    problem = _problem("local")
    assert problem.field == name.lower()
    assert problem.value == "not json"
    assert f"MAINSPRING_{name}" in problem.expected


def test_the_environment_names_the_profile_unless_the_caller_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = _profile(tmp_path, tenant="acme")
    monkeypatch.setenv("MAINSPRING_PROFILE", name)
    assert load().tenant == "acme"
    other = load("local")
    assert (other.profile, other.tenant) == ("local", "default")


@pytest.mark.parametrize(
    ("content", "expected"),
    [("- a\n- b\n", "mapping"), ("a: [", "readable YAML"), (b"\xff\xfe\xfa", "readable YAML")],
)
def test_a_profile_that_is_no_mapping_is_refused(
    tmp_path: Path, content: str | bytes, expected: str
) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert expected in _problem(str(path)).expected


def test_an_unknown_profile_is_told_the_known_ones() -> None:
    problem = _problem("nowhere")
    assert (problem.field, problem.value) == ("profile", "nowhere")
    assert "'local'" in problem.expected


def test_variables_that_set_nothing_are_listed() -> None:
    environ = {
        "MAINSPRING_GATEWAY__PORT": "1",
        "MAINSPRING_GATWAY__PORT": "1",
        "MAINSPRING_TENNANT": "x",
        "MAINSPRING_EXTRA": "gpu",
        "OTHER": "x",
    }
    assert unknown_variables(environ) == ["MAINSPRING_GATWAY__PORT", "MAINSPRING_TENNANT"]


def test_settings_do_not_change_after_the_start() -> None:
    settings = load()
    with pytest.raises(ValidationError):
        settings.gateway.port = 1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.tenant = "x"  # type: ignore[misc]


def test_paths_lie_below_the_data_folder_and_shipped_files_are_found(tmp_path: Path) -> None:
    settings = load(data_dir=tmp_path)
    assert isinstance(settings, Settings)
    assert settings.path("journal.db") == (tmp_path / "journal.db").resolve()
    assert infra_path("policy", "support.cedar").is_file()
    assert infra_path("policy", str(tmp_path)) == tmp_path


def test_a_token_is_not_shown() -> None:
    settings = load(memory={"token": "sesame"})
    assert settings.memory.token == "sesame"
    assert "sesame" not in repr(settings)
