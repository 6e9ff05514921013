"""Every page of the console on the live stack, in a real browser: whole, without an error, in both
themes, wide and on a phone. With CONSOLE_PICTURES=DIR the pages are kept as pictures."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.browser import test_console as pages
from tests.browser.test_console import PHONE, WIDE, chrome, dark, errors, opened, shows, until
from tests.stack.conftest import Demo

__all__ = ["chrome"]
pytestmark = [pytest.mark.stack, pytest.mark.timeout(300), pages.pytestmark[-1]]
SHOWN = {
    "overview": "Today by model", "tickets": "T-001", "tickets/T-001": "Customer, orders",
    "runs": "replied", "approvals": "to choose", "memory": "records",
    "models": "By model and reason", "audit": "Receipts", "settings": "models.planner.source",
}  # fmt: skip


@pytest.fixture
def kept() -> Iterator[Path | None]:
    folder = os.environ.get("CONSOLE_PICTURES")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    yield Path(folder) if folder else None


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_every_page_shows_what_the_stack_did(
    demo: Demo, chrome: Chrome, kept: Path | None, scheme: str, size: tuple[int, int]
) -> None:
    dark(chrome, scheme)
    errors(chrome)
    run = httpx.get(f"{demo.url}/v1/runs?decision=replied&limit=1").json()["data"][0]["id"]
    for page, text in {**SHOWN, f"runs/{run}": "Timeline"}.items():
        opened(chrome, demo.url, page, size)
        until(chrome, partial(shows, chrome, text))
        wider = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert (page, chrome.execute_script(wider)) == (page, False)
        if kept is not None:
            name = page.partition("/")[0] + ("-one" if "/" in page else "")
            chrome.save_screenshot(str(kept / f"{name}-{scheme}-{size[0]}.png"))
    assert errors(chrome) == []


def test_a_question_is_answered_with_its_route_and_judged(demo: Demo, chrome: Chrome) -> None:
    errors(chrome)
    opened(chrome, demo.url, "chat")
    until(chrome, partial(shows, chrome, "Message"))
    chrome.find_element(By.TAG_NAME, "textarea").send_keys("What can you do?", Keys.ENTER)
    until(chrome, lambda: chrome.find_elements(By.CSS_SELECTOR, "article.model button"))
    assert "tokens read" in chrome.find_element(By.CSS_SELECTOR, "article.model p").text
    chrome.find_element(By.CSS_SELECTOR, "article.model button").click()
    until(chrome, lambda: "Noted." in chrome.find_element(By.ID, "notice").text)
    assert errors(chrome) == []
