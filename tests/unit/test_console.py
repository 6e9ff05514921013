"""The console's files, and who may ask the API without a key."""

import re
from collections.abc import Iterator

import httpx
import pytest

from serve.console import FOLDER
from tests.unit.test_agent_api import listening
from tests.whole import served

pytestmark = pytest.mark.enable_socket


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("console"), listening) as (at, _):
        yield at


def test_the_files_come_with_headers_that_let_nothing_else_in(url: str) -> None:
    page = httpx.get(f"{url}/console", follow_redirects=True)
    assert page.status_code == 200 and page.url.path == "/console/"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"


def test_all_of_it_is_small_and_nothing_comes_from_elsewhere() -> None:
    files = list(FOLDER.iterdir())
    assert sum(file.stat().st_size for file in files) < 200_000
    for file in files:
        text = file.read_text("utf-8")
        for address in re.findall(r"https?://[^\s\"')]+", text):
            assert address == "http://www.w3.org/2000/svg", file.name
        if file.suffix == ".html":
            assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|style=", text)
        if file.suffix == ".js":
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text
            )


@pytest.mark.parametrize(
    "path", ["/console/../serve/keys.py", "/console/%2e%2e/keys.py", "/console/no"]
)
def test_there_is_no_way_out_of_the_folder(url: str, path: str) -> None:
    assert httpx.get(f"{url}{path}").status_code in (401, 404)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"origin": "HERE"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "https://shop.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://pointed.example", "host": "pointed.example"}, 403),
    ],
)
def test_another_sites_page_can_not_act_without_a_key(
    url: str, headers: dict[str, str], status: int
) -> None:
    sent = {name: url if value == "HERE" else value for name, value in headers.items()}
    answer = httpx.get(f"{url}/v1/models", headers=sent)
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["error"]["code"] == "cross_site_request"


def test_a_run_has_its_timeline_and_its_receipts(url: str) -> None:
    run = httpx.post(f"{url}/v1/runs", json={"workflow": "conversation"}).json()["id"]
    told = httpx.get(f"{url}/v1/runs/{run}/timeline").json()
    assert told["data"][0]["name"] == "accepted" and told["usd"] == 0
    assert told["end"] == told["total"] == len(told["data"]) > 1
    window = httpx.get(f"{url}/v1/runs/{run}/timeline?upto=2&limit=1").json()
    assert window["data"] == told["data"][1:2] and window["end"] == 2
    assert window["total"] == told["total"]
    for wrong in ("upto=0", "limit=0", "limit=-5", "upto=x"):
        assert httpx.get(f"{url}/v1/runs/{run}/timeline?{wrong}").status_code == 400
    receipts = httpx.get(f"{url}/v1/runs/{run}/receipts").json()
    assert receipts["data"] == [] and receipts["verified_events"] >= 1
    for what in ("timeline", "receipts"):
        assert httpx.get(f"{url}/v1/runs/run_nobody/{what}").status_code == 404
