"""Pages in a real browser: how tests open them, and how they use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def show(driver: Any, page: Path, *, width: int = 1366, dark: bool = False) -> None:
    """Open the page, wait until its charts are drawn, and drop what the log held before."""
    driver.get_log("browser")
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    driver.get(page.as_uri())
    settle(driver)


def settle(driver: Any) -> None:
    """Wait for the redraw that a control asked for."""
    driver.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done)))"
    )


def find(driver: Any, css: str) -> Any:
    return driver.find_element("css selector", css)


def click(driver: Any, css: str) -> None:
    driver.execute_script("arguments[0].click()", find(driver, css))
    settle(driver)


def no_complaints(driver: Any) -> None:
    assert [entry["message"] for entry in driver.get_log("browser")] == []
