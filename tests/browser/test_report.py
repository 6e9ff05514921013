"""The report in a real browser."""

from pathlib import Path

import pytest
from axe_core_python.selenium import Axe  # type: ignore[import-untyped]
from selenium.webdriver import Chrome

from tests.browser.test_console import PHONE, WIDE, chrome, dark, errors
from tests.browser.test_console import pytestmark as pytestmark
from tests.unit.test_report import EVIL, told, week

__all__ = ["chrome", "week"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_is_whole_and_accessible(week: Path, chrome: Chrome, scheme: str) -> None:
    file = week / "report.html"
    told("--html", str(file))
    dark(chrome, scheme)
    errors(chrome)
    for size in (WIDE, PHONE):
        chrome.set_window_size(*size)
        chrome.get(file.as_uri())
        assert chrome.title == "Mainspring: report"
        broken = "return [...document.images].filter((one) => !one.naturalWidth).length"
        assert chrome.execute_script(broken) == 0  # type: ignore[no-untyped-call]
        found = Axe().run(chrome)["violations"]
        assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []
        wider = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert chrome.execute_script(wider) is False  # type: ignore[no-untyped-call]
        text = "return document.body.textContent"
        assert EVIL in chrome.execute_script(text)  # type: ignore[no-untyped-call]
    assert errors(chrome) == []
