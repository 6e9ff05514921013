"""The console in a real browser: headless Chromium over the whole app, in both themes and at a
phone's width."""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from axe_core_python.selenium import Axe  # type: ignore[import-untyped]
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from cluster.settings import AgentsSection, ApprovalsSection
from serve.keys import digest_of
from serve.quality_training import train, write
from tests.fakes import ticket
from tests.proxies import proxied
from tests.unit.test_approvals import ASKED, TICKET, pay
from tests.unit.test_predicted_routes import _learnt as learnt
from tests.whole import ROUTER, served
from tests.world import World

_CHROMIUM, _DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.enable_socket,
    pytest.mark.timeout(120),
    pytest.mark.skipif(
        not (_CHROMIUM and _DRIVER), reason="no chromium and chromedriver are installed"
    ),
]
PAGES: Final = (
    "overview", "chat", "tickets", "runs", "approvals", "memory", "models", "audit", "settings",
    f"tickets/{TICKET}",
)  # fmt: skip
WIDE, PHONE = (1200, 900), (390, 800)
EVIL: Final = "<script>document.title='owned'</script>\u202egnp.exe"
_WAIT_S: Final = 15.0


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, World]]:
    section = AgentsSection(autonomy={"*": 2}, approvals=ApprovalsSection())
    with served(tmp_path_factory.mktemp("console"), pay, section) as (url, world):
        world.connector.open_tickets([ticket(TICKET)])
        yield url, world


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    options = ChromeOptions()
    assert _CHROMIUM is not None
    options.binary_location = _CHROMIUM
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options, Service(_DRIVER))
    yield driver
    driver.quit()


def asks(url: str, key: str) -> str:
    """The id of a question that a new run waits for."""
    given = {"workflow": "support", "input": {"ticket": TICKET, "head": "support"}, "agent": key}
    made = httpx.post(f"{url}/v1/runs", json=given, headers={"idempotency-key": key})
    run = made.raise_for_status().json()["id"]
    until = time.monotonic() + _WAIT_S
    while time.monotonic() < until:
        for row in httpx.get(f"{url}/v1/approvals").json()["data"]:
            if row["run"] == run:
                return str(row["id"])
        time.sleep(0.05)
    raise AssertionError("nobody was asked")


def opened(chrome: Chrome, url: str, page: str, size: tuple[int, int] = WIDE) -> None:
    chrome.set_window_size(*size)
    chrome.get("about:blank")
    chrome.get(f"{url}/console/#/{page}")
    until(chrome, lambda: chrome.find_elements(By.CSS_SELECTOR, "main h1"))


def until(chrome: Chrome, holds: Callable[[], Any]) -> None:
    WebDriverWait(chrome, _WAIT_S).until(lambda _: holds())


def shows(chrome: Chrome, text: str) -> bool:
    return text in text_of(chrome)


def text_of(chrome: Chrome) -> str:
    return chrome.find_element(By.TAG_NAME, "main").text


def dark(chrome: Chrome, value: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": value}]
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def errors(chrome: Chrome) -> list[str]:
    return [
        line["message"] for line in chrome.get_log("browser")  # type: ignore[no-untyped-call]
        if line["level"] == "SEVERE" and "readyz" not in line["message"]
    ]  # fmt: skip


FILLED: Final = {
    "overview": "spent today", "chat": "Message", "runs": "Runs, the newest first",
    "tickets": TICKET, f"tickets/{TICKET}": "Customer, orders, other tickets",
    "approvals": "refund", "memory": "records", "models": "By model and reason",
    "audit": "Receipts", "settings": "models.planner.source",
}  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_each_page_is_whole_and_accessible(
    console: tuple[str, World], chrome: Chrome, scheme: str, size: tuple[int, int]
) -> None:
    url, _ = console
    asks(url, f"{scheme}-{size[0]}")
    dark(chrome, scheme)
    errors(chrome)
    for page in PAGES:
        opened(chrome, url, page, size)
        until(chrome, partial(shows, chrome, FILLED[page]))
        found = Axe().run(chrome)["violations"]
        serious = [v["id"] for v in found if v["impact"] in ("serious", "critical")]
        assert (page, serious) == (page, [])
        wider = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert (page, chrome.execute_script(wider)) == (page, False)
    assert errors(chrome) == []


def test_an_approval_is_narrowed_from_the_keyboard(
    console: tuple[str, World], chrome: Chrome
) -> None:
    url, _ = console
    (id,) = awaited(chrome, url, "by-key")
    assert f"{ASKED / 100:.2f} EUR" in text_of(chrome)
    body = chrome.switch_to.active_element
    body.send_keys("n")
    chrome.switch_to.active_element.send_keys("30", Keys.ENTER)
    until(chrome, lambda: "Nothing waits" in text_of(chrome))
    row = httpx.get(f"{url}/v1/approvals/{id}").json()
    assert (row["state"], row["at_most_cents"]) == ("narrowed", 3000)
    assert row["answered_by"].endswith("/ann")


def denied(url: str) -> None:
    """Nothing waits."""
    for row in httpx.get(f"{url}/v1/approvals?limit=100").json()["data"]:
        httpx.post(f"{url}/v1/approvals/{row['id']}/deny", json={"by": "tidy"}).raise_for_status()


def awaited(chrome: Chrome, url: str, *keys: str) -> list[str]:
    """The page of what waits: a question of each of these keys and nothing else, by Ann; ids in
    the order of the page."""
    denied(url)
    for key in keys:
        asks(url, key)
    opened(chrome, url, "approvals")
    until(chrome, lambda: len(listed(chrome)) == len(keys))
    name = chrome.find_element(By.CSS_SELECTOR, "input[autocomplete=name]")
    name.clear()
    name.send_keys("ann")
    chrome.find_element(By.TAG_NAME, "h1").click()
    return listed(chrome)


def listed(chrome: Chrome) -> list[str]:
    script = "return [...document.querySelectorAll('li[data-id]')].map((one) => one.dataset.id)"
    return list(chrome.execute_script(script))  # type: ignore[no-untyped-call]


def chosen(chrome: Chrome) -> list[str]:
    script = (
        "return [...document.querySelectorAll('li[data-id][aria-current=true]')]"
        ".map((one) => one.dataset.id)"
    )
    return list(chrome.execute_script(script))  # type: ignore[no-untyped-call]


def pressed(chrome: Chrome, key: str, held: bool = False) -> None:
    given = {
        "type": "keyDown", "key": key, "text": key, "code": f"Key{key.upper()}",
        "windowsVirtualKeyCode": ord(key.upper()), "autoRepeat": held,
    }  # fmt: skip
    chrome.execute_cdp_cmd("Input.dispatchKeyEvent", given)


def test_a_held_key_is_one_answer(console: tuple[str, World], chrome: Chrome) -> None:
    url, _ = console
    first, second, third = awaited(chrome, url, "held-1", "held-2", "held-3")
    pressed(chrome, "a")
    while len(listed(chrome)) == 3:
        pressed(chrome, "a", held=True)
    until(chrome, lambda: chosen(chrome) == [second])
    for _ in range(5):
        pressed(chrome, "a", held=True)
    pressed(chrome, "d")  # a press of its own
    until(chrome, lambda: listed(chrome) == [third])
    states = {id: httpx.get(f"{url}/v1/approvals/{id}").json()["state"] for id in (first, second)}
    assert states == {first: "approved", second: "denied"}


def test_a_new_approval_moves_neither_the_selection_nor_what_is_typed(
    console: tuple[str, World], chrome: Chrome
) -> None:
    url, _ = console
    _, second = awaited(chrome, url, "stays-1", "stays-2")
    pressed(chrome, "j")
    assert chosen(chrome) == [second]
    marked = (
        "return [...document.querySelectorAll('li[data-id]')]"
        ".map((one) => getComputedStyle(one).boxShadow)"
    )
    shadows = chrome.execute_script(marked)  # type: ignore[no-untyped-call]
    assert [shadow != "none" for shadow in shadows] == [False, True]
    pressed(chrome, "n")
    chrome.switch_to.active_element.send_keys("12")
    asks(url, "stays-3")
    until(chrome, lambda: len(listed(chrome)) == 3)
    assert chosen(chrome) == [second]
    chrome.switch_to.active_element.send_keys(".5", Keys.ENTER)
    until(chrome, lambda: len(listed(chrome)) == 2)
    row = httpx.get(f"{url}/v1/approvals/{second}").json()
    assert (row["state"], row["at_most_cents"]) == ("narrowed", 1250)


def test_when_somebody_else_answers_the_chosen_one_no_other_is_chosen_instead(
    console: tuple[str, World], chrome: Chrome
) -> None:
    url, _ = console
    first, second, third = awaited(chrome, url, "else-1", "else-2", "else-3")
    pressed(chrome, "j")
    httpx.post(f"{url}/v1/approvals/{second}/deny", json={"by": "bob"}).raise_for_status()
    until(chrome, lambda: len(listed(chrome)) == 2)
    assert chosen(chrome) == []
    pressed(chrome, "a")
    pressed(chrome, "j")
    assert chosen(chrome) == [third]
    pressed(chrome, "d")
    until(chrome, lambda: listed(chrome) == [first])
    assert httpx.get(f"{url}/v1/approvals/{third}").json()["state"] == "denied"


def test_the_second_of_two_who_decide_reads_who_was_first(
    console: tuple[str, World], chrome: Chrome
) -> None:
    url, _ = console
    id = asks(url, "two")
    opened(chrome, url, "approvals")
    until(chrome, lambda: "refund" in text_of(chrome))
    httpx.post(f"{url}/v1/approvals/{id}/deny", json={"by": "bob"}).raise_for_status()
    chrome.find_element(By.XPATH, "//li//button[text()='Approve']").click()
    notice = partial(chrome.find_element, By.ID, "notice")
    until(chrome, lambda: "bob has denied it first" in notice().text)


def test_a_run_is_followed_to_its_end(console: tuple[str, World], chrome: Chrome) -> None:
    url, _ = console
    id = asks(url, "followed")
    run = httpx.get(f"{url}/v1/approvals/{id}").json()["run"]
    opened(chrome, url, f"runs/{run}")
    until(chrome, lambda: "asked about pay" in text_of(chrome))
    httpx.post(f"{url}/v1/approvals/{id}/approve", json={"by": "ann"}).raise_for_status()
    until(chrome, lambda: "Result" in text_of(chrome) and "paid" in text_of(chrome))


def test_a_run_is_followed_over_a_broken_stream(console: tuple[str, World], chrome: Chrome) -> None:
    url, _ = console
    id = asks(url, "broken")
    run = httpx.get(f"{url}/v1/approvals/{id}").json()["run"]
    with proxied(url) as proxy:
        opened(chrome, proxy.url, f"runs/{run}")
        until(chrome, lambda: "asked about pay" in text_of(chrome))
        until(chrome, lambda: any(f"/v1/runs/{run}/events" in head for head in proxy.heads))
        proxy.cut()
        until(chrome, lambda: "Reconnecting in" in text_of(chrome))
        until(chrome, lambda: "answered 503" in text_of(chrome))
        httpx.post(f"{url}/v1/approvals/{id}/approve", json={"by": "ann"}).raise_for_status()
        proxy.heads.clear()
        proxy.mend()
        until(chrome, lambda: "Result" in text_of(chrome) and "paid" in text_of(chrome))
        assert "Reconnecting" not in text_of(chrome)
        again = [head for head in proxy.heads if f"/v1/runs/{run}/events" in head]
        assert re.search(r"last-event-id: [1-9]", again[-1], re.IGNORECASE)


def test_a_conversation_streams_with_its_route_and_price(
    console: tuple[str, World], chrome: Chrome
) -> None:
    url, _ = console
    opened(chrome, url, "chat")
    until(chrome, lambda: chrome.find_elements(By.TAG_NAME, "textarea"))
    chrome.find_element(By.TAG_NAME, "textarea").send_keys(EVIL, Keys.ENTER)
    until(chrome, lambda: "tokens read" in text_of(chrome))
    said = text_of(chrome)
    assert "t0t1t2" in said and "small" in said and "$" in said
    assert "<script>" in said and chrome.title != "owned"


def test_memory_is_searched_and_forgotten_with_a_receipt(
    console: tuple[str, World], chrome: Chrome
) -> None:
    url, _ = console
    body = {
        "kind": "note", "source": "note:1", "text": f"the lamp is blue {EVIL}",
        "promotion": {"by": "ann", "why": "a test"},
    }  # fmt: skip
    httpx.post(f"{url}/v1/memory", json=body).raise_for_status()
    opened(chrome, url, "memory")
    until(chrome, lambda: chrome.find_elements(By.CSS_SELECTOR, "input[type=search]"))
    chrome.find_element(By.CSS_SELECTOR, "input[type=search]").send_keys(
        "the lamp is blue", Keys.ENTER
    )
    until(chrome, lambda: "note:1" in text_of(chrome))
    assert "<script>" in text_of(chrome) and chrome.title != "owned"
    chrome.find_element(By.XPATH, "//button[text()='Forget']").click()
    asked = chrome.switch_to.alert
    asked.send_keys("it was wrong")
    asked.accept()
    until(chrome, lambda: "Forgotten." in text_of(chrome))
    assert httpx.get(f"{url}/v1/memory").json()["data"] == []


def filled(chrome: Chrome, label: str, text: str) -> None:
    """Type into what has this label, and leave it."""
    path = f"//label[starts-with(., '{label}')]//*[self::input or self::select]"
    chrome.find_element(By.XPATH, path).send_keys(text, Keys.TAB)


def rows(chrome: Chrome, caption: str) -> list[str]:
    """The first cell of each row."""
    script = (
        "return [...document.querySelectorAll('table')]"
        ".filter((table) => table.caption.textContent.startsWith(arguments[0]))"
        ".flatMap((table) => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent))"
    )
    return list(chrome.execute_script(script, caption))  # type: ignore[no-untyped-call]


def test_runs_are_filtered_and_gone_through_page_by_page(
    console: tuple[str, World], chrome: Chrome
) -> None:
    url, world = console
    made = [
        world.journal.create("default", f"many-{n}", "conversation", f"crowd{n % 2}", {})[0]
        for n in range(104)
    ]
    opened(chrome, url, "runs")
    until(chrome, lambda: made[-1] in rows(chrome, "Runs"))
    filled(chrome, "Agent", "crowd1")
    until(chrome, lambda: rows(chrome, "Runs") == made[103:3:-2])
    chrome.find_element(By.XPATH, "//button[text()='Older']").click()
    until(chrome, lambda: rows(chrome, "Runs") == [made[3], made[1]])
    assert not chrome.find_element(By.XPATH, "//button[text()='Older']").is_enabled()
    world.journal.create("default", "later", "conversation", "crowd1", {})
    chrome.find_element(By.XPATH, "//button[text()='Newer']").click()
    until(chrome, lambda: rows(chrome, "Runs")[1:] == made[103:5:-2])
    filled(chrome, "Status", "paused")
    until(chrome, lambda: rows(chrome, "Runs") == ["none"])


def test_receipts_are_filtered_and_their_run_verified(
    console: tuple[str, World], chrome: Chrome
) -> None:
    url, _ = console
    run = httpx.get(f"{url}/v1/approvals/{asks(url, 'audited')}").json()["run"]
    opened(chrome, url, "audit")
    until(chrome, lambda: run in text_of(chrome))
    filled(chrome, "Outcome", "refused")
    until(chrome, lambda: run not in text_of(chrome))
    filled(chrome, "Outcome", "waits")
    filled(chrome, "Tool", "refund")
    until(chrome, lambda: run in text_of(chrome))
    chrome.find_element(By.XPATH, f"//button[text()='{run}']").click()
    until(chrome, lambda: f"{run}: the chain of" in text_of(chrome))
    assert "is whole" in text_of(chrome)


def test_settings_say_where_they_come_from(console: tuple[str, World], chrome: Chrome) -> None:
    url, _ = console
    opened(chrome, url, "settings")
    until(chrome, partial(shows, chrome, "models.planner.source"))
    assert "checkpoint:planner" in text_of(chrome) and "profile local" in text_of(chrome)
    chrome.find_element(By.CSS_SELECTOR, "input[type=search]").send_keys("gateway.port")
    until(chrome, lambda: "models.planner.source" not in text_of(chrome))
    assert "8000" in text_of(chrome)


def test_where_keys_are_demanded_one_is_asked_for_and_used(chrome: Chrome, tmp_path: Path) -> None:
    key = "of the settings"
    with served(tmp_path, pay, keys=(digest_of(key),)) as (url, _):
        opened(chrome, url, "runs")
        dialog = partial(chrome.find_element, By.ID, "login")
        until(chrome, lambda: dialog().is_displayed())
        chrome.find_element(By.NAME, "key").send_keys("a wrong one", Keys.ENTER)
        until(chrome, lambda: dialog().is_displayed())
        chrome.find_element(By.NAME, "key").send_keys(key, Keys.ENTER)
        until(chrome, partial(shows, chrome, "Runs, the newest first"))
        assert key not in str(chrome.execute_script("return document.cookie"))


def test_a_person_takes_a_ticket_answers_it_and_gives_it_back(
    console: tuple[str, World], chrome: Chrome
) -> None:
    url, world = console
    world.connector.said(TICKET, "M-evil", f"Is it {EVIL}?")
    errors(chrome)
    opened(chrome, url, f"tickets/{TICKET}")
    until(chrome, lambda: shows(chrome, "<script>"))
    name = chrome.find_element(By.CSS_SELECTOR, "input[autocomplete=name]")
    name.clear()
    name.send_keys("ann")
    button(chrome, "Take it")
    until(chrome, lambda: shows(chrome, "held"))
    chrome.find_element(By.TAG_NAME, "textarea").send_keys("Dear customer, it is not.")
    button(chrome, "Send answer")
    until(chrome, lambda: shows(chrome, "ann (person)"))
    assert world.connector.sent(TICKET) == "Dear customer, it is not."
    assert chrome.find_element(By.TAG_NAME, "textarea").get_attribute("value") == ""
    chrome.find_element(By.CSS_SELECTOR, "option[value=solved]").click()
    button(chrome, "Send answer")
    until(chrome, lambda: shows(chrome, "closed"))
    world.connector.said(TICKET, "M-after", "One more thing")
    until(chrome, lambda: shows(chrome, "One more thing"))
    assert chrome.title.startswith("Tickets") and errors(chrome) == []


def test_quality_against_cost_is_drawn_and_a_version_taken_into_use(
    console: tuple[str, World], chrome: Chrome
) -> None:
    url, world = console
    examples, vectors = learnt(100)
    head, parts = train(examples, vectors)
    for version in ("1", "2"):
        write(world.folder / ROUTER / version, parts, head.metrics)
    (world.folder / ROUTER / "current").write_text("2\n")
    errors(chrome)
    opened(chrome, url, "models")
    until(chrome, lambda: chrome.find_elements(By.CSS_SELECTOR, "svg.curve .line"))
    assert "Share of right answers from" in str(
        chrome.find_element(By.CSS_SELECTOR, "svg.curve").get_attribute("aria-label")
    )
    button(chrome, "Use version 1")
    until(chrome, lambda: shows(chrome, "Use version 2"))
    assert (world.folder / ROUTER / "current").read_text() == "1\n"
    assert errors(chrome) == []


def test_a_run_is_played_back_and_forked(console: tuple[str, World], chrome: Chrome) -> None:
    url, _ = console
    denied(url)
    id = asks(url, "played")
    httpx.post(f"{url}/v1/approvals/{id}/deny", json={"by": "ann"}).raise_for_status()
    run = httpx.get(f"{url}/v1/approvals/{id}").json()["run"]
    opened(chrome, url, f"runs/{run}")
    until(chrome, lambda: shows(chrome, "Result"))
    rows = "return document.querySelectorAll('main tbody tr').length"
    whole = chrome.execute_script(rows)  # type: ignore[no-untyped-call]
    back = chrome.find_element(By.CSS_SELECTOR, "input[type=range]")
    back.send_keys(Keys.HOME)
    until(chrome, lambda: chrome.execute_script(rows) == 1)  # type: ignore[no-untyped-call]
    assert not shows(chrome, "Result")
    back.send_keys(Keys.END)
    until(chrome, lambda: chrome.execute_script(rows) == whole)  # type: ignore[no-untyped-call]
    button(chrome, "Fork")
    asked = WebDriverWait(chrome, _WAIT_S).until(lambda c: c.switch_to.alert)
    asked.send_keys("1")
    asked.accept()
    until(chrome, lambda: run not in chrome.current_url and "runs/" in chrome.current_url)


def test_the_overview_says_what_needs_a_look(console: tuple[str, World], chrome: Chrome) -> None:
    url, world = console
    world.connector._desk.escalate("k-alert", TICKET, "unsure", "...")
    opened(chrome, url, "overview")
    until(chrome, lambda: shows(chrome, "Tickets that wait for a person: 1."))


def button(chrome: Chrome, label: str) -> None:
    for one in chrome.find_elements(By.CSS_SELECTOR, "main button"):
        if one.text == label:
            return one.click()
    raise AssertionError(f"no button {label}")
