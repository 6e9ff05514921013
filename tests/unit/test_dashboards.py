"""The boards come into Grafana whole or not at all, as often as they are brought."""

import copy
import http.server
import socket
import threading
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from cluster.boards import BOARDS
from cluster.dashboards import FOLDER, Boards
from cluster.errors import ConfigError, Conflict, Unavailable
from cluster.panels import SOURCE, drawn
from cluster.settings import GrafanaSection
from serve.cli import app
from tests.grafana import TOKEN, Grafana, serving

pytestmark = pytest.mark.enable_socket


@pytest.fixture
def grafana() -> Iterator[Grafana]:
    with serving(Grafana()) as served:
        yield served


def _boards(grafana: Grafana, token: str = TOKEN, **fields: str) -> Boards:
    fields = {"pages_to": "https://pager.example/hook", "tickets_to": "ops@example.org"} | fields
    return Boards(GrafanaSection(url=grafana.url, token=token, **fields))


def _apply(boards: Boards) -> list[str]:
    changes = boards.changes()
    boards.apply(changes)
    return [change.verb for change in changes]


def test_everything_is_made_once_and_then_left_alone(grafana: Grafana) -> None:
    assert set(_apply(_boards(grafana))) == {"create"}
    made = copy.deepcopy(grafana.held)
    assert {len(made[k]) for k in ("datasources", "folders")} == {1}
    assert set(made["dashboards"]) == {board.uid for board in BOARDS}
    assert {board["folder"] for board in made["dashboards"].values()} == {FOLDER}
    assert made["v1"]["mainspring-page"]["type"] == "webhook"
    assert made["v1"]["mainspring-ticket"]["settings"] == {"addresses": "ops@example.org"}
    before = len(grafana.writes)
    assert set(_apply(_boards(grafana))) == {"same"}
    assert (len(grafana.writes), grafana.held) == (before, made)


def test_what_somebody_changed_is_named_and_put_right(grafana: Grafana) -> None:
    _apply(_boards(grafana))
    board = grafana.held["dashboards"]["mainspring-cost"]["dashboard"]
    board["panels"][1]["title"] = "Mine"
    del board["panels"][-1]
    found = [change for change in _boards(grafana).changes() if change.verb != "same"]
    assert [(change.verb, change.uid) for change in found] == [("update", "mainspring-cost")]
    assert len(found[0].lines) == 1 and "panels: 11 of them -> 12 of them" in found[0].lines[0]
    _boards(grafana).apply(found)
    assert {change.verb for change in _boards(grafana).changes()} == {"same"}


def test_a_change_inside_a_panel_is_named_by_its_path(grafana: Grafana) -> None:
    _apply(_boards(grafana))
    grafana.held["dashboards"]["mainspring-cost"]["dashboard"]["panels"][1]["title"] = "Mine"
    lines = [line for change in _boards(grafana).changes() for line in change.lines]
    assert lines == ["panels[1].title: 'Mine' -> 'Cost an hour'"]


def test_another_address_of_prometheus_updates_the_source_only(grafana: Grafana) -> None:
    _apply(_boards(grafana))
    moved = _boards(grafana, prometheus="http://prometheus:9090")
    assert _apply(moved).count("update") == 1
    assert grafana.held["datasources"][SOURCE]["url"] == "http://prometheus:9090"


@pytest.mark.parametrize("fails", range(1, 11))
def test_a_write_that_fails_leaves_nothing_half_applied(grafana: Grafana, fails: int) -> None:
    grafana.fails = fails
    with pytest.raises(Unavailable, match="database is locked"):
        _apply(_boards(grafana))
    assert not any(grafana.held.values())


def test_a_failed_update_puts_back_what_was_there(grafana: Grafana) -> None:
    _apply(_boards(grafana))
    before = copy.deepcopy(grafana.held)
    before["folders"][FOLDER]["title"] = "Mainspring"
    grafana.held["dashboards"]["mainspring-cost"]["dashboard"]["title"] = "Theirs"
    grafana.fails = len(grafana.writes) + 3
    moved = _boards(grafana, prometheus="http://elsewhere:9090", folder="Other")
    with pytest.raises(Unavailable):
        _apply(moved)
    assert grafana.held["datasources"] == before["datasources"]
    assert grafana.held["folders"][FOLDER]["title"] == "Mainspring"
    assert grafana.held["dashboards"]["mainspring-cost"]["dashboard"]["title"] == "Theirs"


@pytest.mark.parametrize("right", [
    "datasources:read", "datasources:create", "alert.provisioning:read",
    "alert.provisioning:write", "folders:read", "folders:create", "dashboards:read",
    "dashboards:create",
])  # fmt: skip
def test_a_missing_right_is_named_and_nothing_stays(grafana: Grafana, right: str) -> None:
    # Grafana asks for the same right to make a board and to change one by its way of saving.
    grafana.lacking = right
    with pytest.raises(ConfigError, match=right):
        _apply(_boards(grafana))
    assert not any(grafana.held.values())


def test_a_token_that_grafana_does_not_know_is_not_shown(grafana: Grafana) -> None:
    with pytest.raises(ConfigError, match=r"grafana\.token") as refused:
        _apply(_boards(grafana, token="secret"))
    assert "secret" not in str(refused.value) and grafana.url in str(refused.value)


def test_a_source_of_the_same_name_is_not_taken_over(grafana: Grafana) -> None:
    grafana.held["datasources"]["theirs"] = {"uid": "theirs", "name": "Mainspring"}
    with pytest.raises(Conflict, match="same name"):
        _apply(_boards(grafana))
    assert not grafana.held["dashboards"]


@pytest.mark.parametrize("version", ["9.5.21", "10.0.3", "8.5.0-beta1"])
def test_an_old_grafana_is_refused_before_anything_is_asked(version: str) -> None:
    with serving(Grafana(version)) as old, pytest.raises(ConfigError, match=version):
        _apply(_boards(old))
    assert not old.writes


@pytest.mark.parametrize("version", ["10.1.0", "11.6.2", "12.0.0-pre", ""])
def test_newer_ones_and_those_that_hide_their_version_are_taken(version: str) -> None:
    with serving(Grafana(version)) as new:
        assert set(_apply(_boards(new))) == {"create"}


def test_a_grafana_that_is_down_is_named_by_its_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    section = GrafanaSection(url=f"http://127.0.0.1:{port}/grafana", token=TOKEN)
    with pytest.raises(Unavailable, match=f"127.0.0.1:{port}/grafana: nobody answers"):
        Boards(section).changes()


class _Page(http.server.BaseHTTPRequestHandler):
    """Some other program's web server."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", self.server.kind)  # type: ignore[attr-defined]
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize("kind", ["text/html", "application/json"])
def test_something_else_at_the_address_is_told_apart(kind: str) -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), _Page)
    server.kind = kind  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        section = GrafanaSection(url=f"http://127.0.0.1:{server.server_port}", token=TOKEN)
        with pytest.raises(ConfigError, match="the address of a Grafana"):
            Boards(section).changes()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_check_shows_the_difference_and_writes_nothing(
    grafana: Grafana, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAINSPRING_GRAFANA__URL", grafana.url)
    monkeypatch.setenv("MAINSPRING_GRAFANA__TOKEN", TOKEN)
    first = CliRunner().invoke(app, ["dashboards", "apply", "--check"])
    assert first.exit_code == 1 and not grafana.writes
    assert "create board         Mainspring: Cost" in first.output
    assert CliRunner().invoke(app, ["dashboards", "apply"]).exit_code == 0
    second = CliRunner().invoke(app, ["dashboards", "apply", "--check"])
    assert second.exit_code == 0 and "all 8 are as they should be" in second.output


@pytest.mark.parametrize("field", [
    {"url": "grafana:3000"}, {"url": "http://me:pass@host"}, {"pages_to": "nobody"},
    {"tickets_to": "a@b;"}, {"prometheus": "prometheus"}, {"folder": ""},
])  # fmt: skip
def test_settings_that_grafana_could_not_use_are_refused(field: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        GrafanaSection.model_validate(field)


def test_a_board_is_drawn_the_same_each_time_with_distinct_panels() -> None:
    for board in BOARDS:
        model = drawn(board)
        ids = [panel["id"] for panel in model["panels"]]
        assert model == drawn(board) and len(ids) == len(set(ids))
        shown = [t["expr"] for p in model["panels"] for t in p.get("targets", ())]
        assert shown == board.expressions
