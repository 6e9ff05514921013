"""Where each setting comes from is told; what is secret is not, wherever it was written."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cluster.ids import SystemClock, SystemIds
from cluster.provenance import SET, Setting, told
from cluster.settings import AccountsSection, GatewaySection, load
from serve.books import Books
from serve.keys import digest_of
from serve.routes.settings import settings_routes
from tests.gateways import serving
from tests.unit.test_limits import Bank
from tests.unit.test_settings import DIGEST, MODELS, _bare_environment, _profile

__all__ = ["_bare_environment"]
S = "hunter2-very-secret"
HIDING: dict[str, Any] = {
    "gateway": {"api_key_sha256": [DIGEST]},
    "journal": {"url": f"postgresql+psycopg://ann:{S}@db/journal?password={S}"},
    "accounts": {"url": f"postgresql+psycopg://db/x?password={S}"},
    "batches": {"url": f"postgresql+psycopg://ann:{S}@db/batches"},
    "memory": {
        "token": S, "log": f"postgresql+psycopg://ann:{S}@db/log", "uri": f"http://root:{S}@m:19530",
        "embedders": [
            {"name": "e", "kind": "endpoint", "model": "m", "url": f"http://u:{S}@h/v1",
             "api_key": S},
        ],
    },
    "grafana": {"token": S, "pages_to": f"https://hooks.example/services/{S}"},
    "outside": [
        {"id": "far", "url": "https://far.example", "model": "m", "api_key_env": "FAR_KEY",
         "usd_per_day": 1, "usd_per_mtok_in": 1, "usd_per_mtok_out": 1},
    ],
    "agents": {
        "servers": [
            {"name": "one", "command": ["serve", f"--token={S}"], "tools": {"x": "read"}},
            {"name": "two", "url": f"https://mcp.example/{S}?key={S}", "tools": {"x": "read"},
             "credentials": {"Authorization": f"X_{S}"}},
        ],
    },
}  # fmt: skip


def _found(profile: str | None = None, **overrides: Any) -> dict[str, Setting]:
    return {one.name: one for one in told(load(profile, **overrides))}


def test_each_value_says_where_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAINSPRING_GATEWAY__PORT", "9000")
    monkeypatch.setenv("mainspring_ray", json.dumps({"num_cpus": 3}))
    name = _profile(tmp_path, gateway={"replicas": 2, "port": 8001}, ray={"dashboard": True})
    found = _found(name, tenant="house")
    said = {n: (found[n].value, found[n].source, found[n].where) for n in found}
    assert said["gateway.port"] == (9000, "environment", "MAINSPRING_GATEWAY__PORT")
    assert said["ray.num_cpus"] == (3.0, "environment", "mainspring_ray")
    assert said["gateway.replicas"] == (2, "file", name)
    assert said["ray.dashboard"] == (True, "file", name)
    assert said["gateway.host"] == ("127.0.0.1", "default", "")
    assert said["tenant"] == ("house", "command", "")
    assert said["profile"] == (name, "command", "")
    assert said["models.planner.usd_per_mtok_in"] == (1.0, "file", name)
    assert said["models.planner.max_num_seqs"] == (32, "default", "")
    assert "deadline of one request" in found["gateway.request_timeout_s"].about


def test_a_shipped_profile_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _found()
    assert (found["models.planner.source"].source, found["models.planner.source"].where) == (
        "profile", "local",
    )  # fmt: skip
    assert found["profile"].source == "default"
    monkeypatch.setenv("MAINSPRING_PROFILE", "gpu")
    assert _found()["profile"].source == "environment"
    assert _found("local")["profile"].source == "command"


def test_a_short_form_sets_all_that_it_stands_for(tmp_path: Path) -> None:
    models = [{**MODELS[0], "replicas": 2}, MODELS[1]]
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump({"models": models}), "utf-8")
    found = _found(str(path))
    assert found["models.planner.replicas.max"].source == "file"
    assert found["models.routine.replicas.max"].source == "default"


def test_no_secret_is_told_wherever_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [
        {**MODELS[0], "engine": {"hf_token": S, "more": {"api_key": S, "max_tokens": 5}}},
        MODELS[1],
    ]
    name = _profile(tmp_path, **{**HIDING, "models": models})
    for where in ("file", "environment"):
        if where == "environment":
            for section, value in {**HIDING, "models": models}.items():
                monkeypatch.setenv(f"MAINSPRING_{section.upper()}", json.dumps(value))
            name = "local"
        found = _found(name)
        assert S not in repr(found) and DIGEST not in repr(found), where
        assert (found["grafana.token"].value, found["grafana.token"].hidden) == (SET, True)
        assert found["gateway.api_key_sha256"].value == SET
        assert found["memory.embedders.e.api_key"].value == SET
        assert found["journal.url"].value == "postgresql+psycopg://db/journal"
        assert found["memory.log"].value == "postgresql+psycopg://db/log"
        assert found["grafana.pages_to"].value == "https://hooks.example/..."
        assert found["agents.servers.two.url"].value == "https://mcp.example/..."
        assert found["outside.far.api_key_env"].value == "FAR_KEY"
        assert found["models.planner.engine"].value["more"]["max_tokens"] == 5
        assert found["memory.conversation_tokens"].value == 1000
        assert found["grafana.token"].source == where
    monkeypatch.undo()
    assert _found()["grafana.token"].value == ""


@pytest.mark.enable_socket
async def test_they_are_for_who_operates_the_stack(tmp_path: Path) -> None:
    books = Books(AccountsSection(), tmp_path, SystemClock(), SystemIds())
    lines = (Setting("gateway.port", 8000, "default", ""),)

    async with serving(
        GatewaySection(api_key_sha256=(digest_of(S),)), books=books, tenant="house",
        extra_routes=[lambda: settings_routes(lines, "house")],
    ) as stack:  # fmt: skip
        bank = Bank(stack, books)
        status, body = await bank.get("/v1/settings", S)
        assert (status, body["data"][0]["name"]) == (200, "gateway.port")
        asked = {
            "operator": {"scopes": ("admin",), "tenant": "house"},
            "agent": {"scopes": ("models", "agents", "memory"), "tenant": "house"},
            "other": {"scopes": ("admin",), "tenant": "acme"},
        }
        keys = {who: bank.key(**given)[1] for who, given in asked.items()}
        got = {who: (await bank.get("/v1/settings", key))[0] for who, key in keys.items()}
        assert got == {"operator": 200, "agent": 403, "other": 403}
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{stack.url}/v1/settings")).status_code == 401
            key = {"authorization": f"Bearer {keys['operator']}"}
            answer = await client.post(f"{stack.url}/v1/settings", json={}, headers=key)
            assert answer.status_code == 405
    await books.close()
