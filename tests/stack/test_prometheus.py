"""A real Prometheus scrapes the running stack by the shipped configuration; rules and boards get
their data from it."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cluster.boards import BOARDS, OVERVIEW
from cluster.settings import INFRA
from tests.stack.conftest import Demo, free_ports

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]
_STARTS_S = 60.0


class Prometheus:
    """A server's API. `ask` gives the series of an expression."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=f"{url}/api/v1", timeout=10.0)

    def get(self, path: str, **params: str) -> Any:
        answer = self._client.get(path, params=params).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def ask(self, expression: str) -> list[Any]:
        asked = expression.replace("$__rate_interval", "1m").replace("$model", ".*")
        found: list[Any] = self.get("query", query=asked)["result"]
        return found

    def close(self) -> None:
        self._client.close()


@pytest.fixture(scope="module")
def prometheus(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (Debian's package prometheus has it)")
    folder = tmp_path_factory.mktemp("prometheus")
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [
            "prometheus", f"--config.file={_configured(folder, demo)}",
            f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL, stderr=(folder / "log").open("w"),
    )  # fmt: skip
    served = Prometheus(f"http://127.0.0.1:{port}")
    try:
        _until(lambda: bool(served.ask('up{job="mainspring"} == 1')), folder / "log")
        yield served
    finally:
        served.close()
        process.terminate()
        process.wait(30)


def _configured(folder: Path, demo: Demo) -> Path:
    """The shipped configuration, only faster, and at the address of the tests' stack."""
    shutil.copy(INFRA / "prometheus" / "rules.yaml", folder)
    config = yaml.safe_load((INFRA / "prometheus" / "prometheus.yaml").read_text("utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    ours = next(job for job in config["scrape_configs"] if job["job_name"] == "mainspring")
    ours["static_configs"] = [{"targets": [demo.url.removeprefix("http://")]}]
    path = folder / "prometheus.yaml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    return path


def _until(holds: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + _STARTS_S
    while True:
        try:
            if holds():
                return
        except httpx.TransportError:
            pass  # not listening yet
        assert time.monotonic() < deadline, log.read_text("utf-8")[-2000:]
        time.sleep(0.2)


def test_every_rule_is_evaluated_without_an_error(prometheus: Prometheus) -> None:
    def rules() -> list[Any]:
        return [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]

    _until(lambda: all(rule["health"] != "unknown" for rule in rules()), Path("/dev/null"))
    assert {rule["name"]: rule.get("lastError") for rule in rules() if rule["health"] != "ok"} == {}
    assert not prometheus.ask('ALERTS{alertname="GatewayGone",alertstate="firing"}')


def test_every_panel_can_be_drawn_and_the_demos_work_is_seen(prometheus: Prometheus) -> None:
    for board in BOARDS:
        for expression in board.expressions:
            prometheus.ask(expression)
    ours = [e for e in OVERVIEW.expressions if "ray_" not in e and "ALERTS" not in e]
    without = {"max(mainspring_budget_used_share)"}  # the demo has no budgets

    def missing() -> set[str]:
        return {e for e in ours if not prometheus.ask(e)} - without

    # A rate wants two scrapes.
    _until(lambda: not [e for e in missing() if "share" not in e], Path("/dev/null"))
    (answered,) = prometheus.ask('sum(mainspring_requests_total{status="200"})')
    assert float(answered["value"][1]) > 30
    assert {s["metric"]["status"] for s in prometheus.ask("mainspring_runs")} >= {
        "ended",
        "waiting",
    }
