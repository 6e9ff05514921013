"""What a browser makes of the console: its first screen, and pages that stay open."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from agents.turn import Turn
from benchmarks.report import Figure
from tests.world import World

SCREEN_MS: Final = 1000.0
SCREEN_KB: Final = 200.0
GROWTH_SHARE: Final = 0.1
_FASTER: Final = 60
_LOADS: Final = 10
_FULL: Final = 600
_LIMIT_S: Final = 1_200.0
_LOOKS: Final = 10
_LOOK_S: Final = 0.13
_HELD: Final = {"heap": "JSHeapUsedSize", "elements": "Nodes", "listeners": "JSEventListeners"}
# When the first cards are there, by the page's own clock; and time that goes faster.
_MARK: Final = """
new MutationObserver((_, self) => {
  if (document.querySelector(".card")) { window.shownAt = performance.now(); self.disconnect(); }
}).observe(document, { childList: true, subtree: true });
"""
_HURRY: Final = f"""
const later = window.setTimeout;
window.setTimeout = (what, ms, ...more) => later(what, ms / {_FASTER}, ...more);
const ask = window.fetch;
window.asked = 0;
window.fetch = (...given) => {{ window.asked += 1; return ask(...given); }};
"""


async def listening(turn: Turn) -> None:
    """A run that waits for ever, and is told things meanwhile."""
    await turn.signal("ear", "word")


@contextmanager
def chromium(script: str) -> Iterator[Chrome]:
    """A headless browser whose pages begin with `script`."""
    options = ChromeOptions()
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        raise SystemExit("chromium and chromedriver have to be installed")
    options.binary_location = binary
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(word)
    browser = Chrome(options, Service(driver))
    try:
        browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
        browser.execute_cdp_cmd("Performance.enable", {})
        yield browser
    finally:
        browser.quit()


def measured(url: str, world: World, updates: int, of_overview: int) -> list[Figure]:
    """The first screen, and what two open pages hold after so many updates."""
    return [*first_screen(url), *overview(url, of_overview), *followed(url, world, updates)]


def first_screen(url: str) -> list[Figure]:
    """Bytes over the line and the time until the cards show, with an empty cache."""
    sizes, times = [], []
    sum_of = (
        "return [...performance.getEntriesByType('navigation'),"
        " ...performance.getEntriesByType('resource')].reduce((n, e) => n + e.transferSize, 0)"
    )
    with chromium(_MARK) as chrome:
        for _ in range(_LOADS):
            chrome.get("about:blank")
            chrome.execute_cdp_cmd("Network.clearBrowserCache", {})
            chrome.get(f"{url}/console/")
            _until(lambda: chrome.execute_script("return window.shownAt"), 0.02)
            times.append(float(chrome.execute_script("return window.shownAt")))  # type: ignore[no-untyped-call]
            sizes.append(float(chrome.execute_script(sum_of)) / 1000)  # type: ignore[no-untyped-call]
    times.sort()
    return [
        Figure("first screen, empty cache: KB", max(sizes), SCREEN_KB),
        Figure("first screen, empty cache: p50 ms", times[len(times) // 2], SCREEN_MS),
        Figure("first screen, empty cache: slowest ms", times[-1], SCREEN_MS),
    ]


def overview(url: str, updates: int) -> list[Figure]:
    """The heap of the page that asks again every three seconds, with a quicker clock."""

    def updated(chrome: Chrome, times: int) -> None:
        # Five requests an update, beside the badge's.
        _until(lambda: chrome.execute_script("return window.asked") >= 5 * times)

    with chromium(_HURRY) as chrome:
        chrome.get(f"{url}/console/#/overview")
        return _grown(chrome, "overview", updates, updated)


def followed(url: str, world: World, updates: int) -> list[Figure]:
    """The heap of the page of a run that is told so many things meanwhile."""
    begun = httpx.post(f"{url}/v1/runs", json={"workflow": "support", "input": {}})
    run = begun.raise_for_status().json()["id"]
    told = 0

    def updated(chrome: Chrome, times: int) -> None:
        nonlocal told
        with httpx.Client() as client:
            while told < times:
                said = {"name": f"word-{told}", "by": "bench"}
                client.post(f"{url}/v1/runs/{run}/signal", json=said).raise_for_status()
                told += 1
        word = f"return document.querySelector('main').textContent.includes('word-{told - 1}')"
        _until(lambda: chrome.execute_script(word))

    with chromium(_HURRY) as chrome:
        chrome.get(f"{url}/console/#/runs/{run}")
        return _grown(chrome, "a followed run", updates, updated)


def _grown(
    chrome: Chrome, page: str, updates: int, updated: Callable[[Chrome, int], None]
) -> list[Figure]:
    """The heap once all is filled that a page ever keeps, and by how much of it it has grown at
    the end of all `updates`."""
    updated(chrome, min(_FULL, updates // 2))
    begin = _held(chrome)
    updated(chrome, updates)
    end = _held(chrome)
    grown = [
        Figure(f"{page}: growth of {what}, share", end[of] / begin[of] - 1, GROWTH_SHARE)
        for what, of in _HELD.items()
    ]
    held = Figure(f"{page}, {updates} updates: heap MB", end["JSHeapUsedSize"] / 1e6)
    return [held, *grown]


def _held(chrome: Chrome) -> dict[str, float]:
    """The least of several looks: what an update works with while it is drawn is not held."""
    looks = []
    for _ in range(_LOOKS):
        for _ in range(3):
            chrome.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
        told: Any = chrome.execute_cdp_cmd("Performance.getMetrics", {})
        looks.append({one["name"]: float(one["value"]) for one in told["metrics"]})
        time.sleep(_LOOK_S)
    return {of: min(look[of] for look in looks) for of in _HELD.values()}


def _until(holds: Callable[[], Any], pause_s: float = 1.0) -> None:
    # Seldom, where a heap is measured: what a driver asks of a page stays in it.
    end = time.monotonic() + _LIMIT_S
    while not holds():
        if time.monotonic() > end:
            raise SystemExit("the page did not get there in time")
        time.sleep(pause_s)
