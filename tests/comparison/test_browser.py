"""The report in a real browser (see conftest.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from formers.comparison import write_report

from .browser import click, find, no_complaints, settle, show
from .contestfolder import write_contest
from .runfolders import CERTIFICATE, LEAKING, metrics_of, recipe_of, write_run

pytestmark = [pytest.mark.browser, pytest.mark.slow]

EVIL = "</script><script>window.attacked = true</script><img src=x onerror='window.attacked = true'>"


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run, four runs, fifty runs, and a run that never started beside a hostile one."""
    root = tmp_path_factory.mktemp("runs")
    one = write_run(root / "demo", metrics_of(300), certificate=CERTIFICATE)
    long = write_run(
        root / "a-run-with-quite-a-long-name", metrics_of(4000, every=200), recipe=recipe_of("mosaic.tiny", 4000)
    )
    leak = write_run(root / "leak", metrics_of(200, floor=1.7), certificate=LEAKING)
    other = write_run(root / "other", metrics_of(300, floor=1.9, seed=2), recipe=recipe_of("llama.tiny", d_model=96))
    hostile = write_run(root / EVIL.replace("/", ""), [{"kind": "sample", "step": 1, "prompt": EVIL, "text": EVIL}])
    fifty = [write_run(root / f"run-{i}", metrics_of(200, seed=i)) for i in range(50)]
    tournament = write_contest(root / "tournament", tuple(f"architecture-{i}" for i in range(7)))
    sets = {
        "contest": [tournament],
        "one": [one],
        "four": [one, long, leak, other],
        "fifty": fifty,
        "odd": [hostile, write_run(root / "empty")],
    }
    return {name: write_report(runs, root / f"{name}.html") for name, runs in sets.items()}


def picture(driver: Any, chart: str) -> str:
    """What stands on the canvas of a chart."""
    return driver.execute_script(
        "return document.querySelector(`[data-chart=${arguments[0]}] canvas`).toDataURL()", chart
    )


def names(driver: Any) -> list[str]:
    """The runs of the results table from top to bottom, as a reader sees them."""
    rows = driver.find_elements("css selector", "#results tbody tr")
    return [row.find_element("css selector", "th").text for row in rows if row.is_displayed()]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1366, 390])
@pytest.mark.parametrize("name", ["one", "four", "fifty", "odd", "contest"])
def test_a_page_fits_its_window_and_the_console_is_quiet(
    driver: Any, reports: dict[str, Path], name: str, width: int, dark: bool
) -> None:
    show(driver, reports[name], width=width, dark=dark)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    assert driver.execute_script("return window.attacked") is None
    no_complaints(driver)


def test_every_chart_is_drawn(driver: Any, reports: dict[str, Path]) -> None:
    show(driver, reports["one"])
    sizes = driver.execute_script("return [...document.querySelectorAll('.plot canvas')].map(c => [c.width, c.height])")
    assert len(sizes) == 6
    assert all(width > 200 and height > 150 for width, height in sizes)
    inked = driver.execute_script(
        "return [...document.querySelectorAll('.plot canvas')].map(c => new Set(c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data).size)"
    )
    assert min(inked) > 10  # an empty canvas holds one value


def test_the_axis_switches_between_steps_tokens_and_time(driver: Any, reports: dict[str, Path]) -> None:
    show(driver, reports["four"])
    seen = {picture(driver, "loss")}
    place = picture(driver, "position")
    for axis in ("tokens", "seconds"):
        click(driver, f"[name=x][value={axis}]")
        seen.add(picture(driver, "loss"))
        label = find(driver, "[data-chart=loss] .plot").get_attribute("aria-label")
        assert {"tokens": "tokens read", "seconds": "training time"}[axis] in label
    click(driver, "[name=x][value=operations]")
    assert "floating-point operations" in find(driver, "[data-chart=loss] .plot").get_attribute("aria-label")
    seen.add(picture(driver, "loss"))
    assert len(seen) == 4
    assert picture(driver, "position") == place  # has an axis of its own
    no_complaints(driver)


def test_log_axes_smoothing_and_skipping_redraw_the_loss(driver: Any, reports: dict[str, Path]) -> None:
    show(driver, reports["one"])
    seen = {picture(driver, "loss")}
    for name in ("logx", "logy"):
        click(driver, f"[name={name}]")
        seen.add(picture(driver, "loss"))
    for name, value in (("smooth", 8), ("skip", 50), ("smooth", 0)):
        driver.execute_script(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))",
            find(driver, f"[name={name}]"),
            value,
        )
        settle(driver)
        seen.add(picture(driver, "loss"))
    assert len(seen) == 6
    assert find(driver, "[name=smoothed]").text == "off"
    no_complaints(driver)


def test_a_run_that_is_unticked_leaves_charts_tables_and_samples(driver: Any, reports: dict[str, Path]) -> None:
    show(driver, reports["four"])
    before = picture(driver, "loss")
    click(driver, '[data-pick="1"]')
    assert "a-run-with-quite-a-long-name" not in names(driver)
    assert len(names(driver)) == 3
    assert not find(driver, 'article[data-run="1"]').is_displayed()
    assert picture(driver, "loss") != before
    click(driver, '[data-pick-all=""]')
    assert names(driver) == []
    assert find(driver, "[data-chart=loss] .empty").text == "No run is selected."
    click(driver, '[data-pick-all="1"]')
    assert len(names(driver)) == 4
    assert picture(driver, "loss") == before
    no_complaints(driver)


def test_a_heading_sorts_best_first_then_turns_round(driver: Any, reports: dict[str, Path]) -> None:
    show(driver, reports["four"])
    click(driver, "#results th:nth-child(3) button")
    heading = find(driver, "#results th:nth-child(3)")
    assert heading.text.startswith("Bits/byte")
    assert heading.get_attribute("aria-sort") == "ascending"
    ascending = names(driver)
    values = [
        row.get_attribute("data-value") for row in driver.find_elements("css selector", "#results td:nth-child(3)")
    ]
    assert values == sorted(values, key=float)
    click(driver, "#results th:nth-child(3) button")
    assert names(driver) == ascending[::-1]
    click(driver, "#results th:nth-child(1) button")
    assert names(driver) == sorted(names(driver), key=str.lower)


def test_the_mouse_reads_values_and_zooms_and_a_double_click_goes_back(driver: Any, reports: dict[str, Path]) -> None:
    from selenium.webdriver import ActionChains

    show(driver, reports["four"])
    plot = find(driver, "[data-chart=loss] .plot")
    driver.execute_script(
        "document.documentElement.style.scrollBehavior = 'auto'; arguments[0].scrollIntoView({block: 'center'})", plot
    )
    ActionChains(driver).move_to_element_with_offset(plot, -400, 0).perform()
    settle(driver)
    tip = find(driver, ".tip")
    assert tip.is_displayed()
    assert "Step" in tip.text
    assert "training" in tip.text
    before = picture(driver, "loss")
    ActionChains(driver).click_and_hold().move_by_offset(300, 0).release().perform()
    settle(driver)
    assert picture(driver, "loss") != before
    assert find(driver, "[name=reset]").is_enabled()
    ActionChains(driver).move_to_element(plot).double_click().perform()
    settle(driver)
    assert not find(driver, "[name=reset]").is_enabled()
    assert picture(driver, "loss") == before
    no_complaints(driver)


def test_everything_can_be_reached_and_read_by_keyboard(driver: Any, reports: dict[str, Path]) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    show(driver, reports["four"])
    reached: list[str] = []
    for _ in range(80):
        ActionChains(driver).send_keys(Keys.TAB).perform()
        reached.append(
            driver.execute_script(
                "const e = document.activeElement;"
                "return e.closest('[data-chart]')?.dataset.chart || e.name || (e.dataset.pick && 'pick')"
                " || e.closest('th')?.innerText || e.tagName"
            )
        )
        if reached[-1] == "loss":
            break
    assert {"pick", "Bits/byte", "x", "logx", "logy", "smooth", "skip", "loss"} <= {name.strip() for name in reached}
    ActionChains(driver).send_keys(Keys.ARROW_RIGHT * 20).perform()
    settle(driver)
    assert find(driver, ".tip").is_displayed()
    ActionChains(driver).send_keys(Keys.ESCAPE).perform()
    assert not find(driver, ".tip").is_displayed()


def test_a_moving_average_is_the_mean_and_leaves_a_line_as_it_is(driver: Any, reports: dict[str, Path]) -> None:
    show(driver, reports["one"])
    script = "return Numbers.smoothed({step: arguments[1], count: arguments[3]}, arguments[2], arguments[0])"
    steps = list(range(1, 102))
    line = [2.0 + step / 50 for step in steps]
    assert driver.execute_script(script, 10, steps, line, None)[:90] == pytest.approx(
        line[:90]
    )  # at the end one side is cut
    binned = driver.execute_script(script, 200, [1, 2, 4, 101], [1.0, 4.0, None, 2.0], [1, 3, 5, 2])
    assert binned == [1.0, pytest.approx((1 + 3 * 4) / 4), None, pytest.approx((1 * 1 + 3 * 4 + 2 * 2) / 6)]


def test_print_is_light_and_unfolded(driver: Any, reports: dict[str, Path]) -> None:
    show(driver, reports["four"], dark=True)
    driver.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert (
        driver.execute_script("return getComputedStyle(document.documentElement).getPropertyValue('--card').trim()")
        == "#fff"
    )
    assert driver.execute_script("return document.querySelectorAll('details:not([open])').length") == 0
    driver.execute_script("dispatchEvent(new Event('afterprint'))")
    assert driver.execute_script("return document.querySelectorAll('details:not([open])').length") > 0
    no_complaints(driver)


def test_fifty_runs_open_in_under_two_seconds(driver: Any, reports: dict[str, Path]) -> None:
    """Of the page's own time, from the request to the last chart drawn: other programs use this machine too."""
    assert reports["fifty"].stat().st_size <= 500_000 + 50 * 20_000
    driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})

    def busy() -> float:
        found = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        return next(metric["value"] for metric in found if metric["name"] == "TaskDuration")

    driver.get("about:blank")
    before = busy()
    show(driver, reports["fifty"])
    took = busy() - before
    driver.execute_cdp_cmd("Performance.disable", {})
    assert 0.01 < took < 2, took


def test_a_comparison_sorts_unfolds_and_picks_runs_by_name(driver: Any, reports: dict[str, Path]) -> None:
    show(driver, reports["contest"])
    entrants = "#entrants-0 tbody tr td:first-child"
    before = [cell.text for cell in driver.find_elements("css selector", entrants)]
    assert before == [f"architecture-{i}" for i in range(7)]
    click(driver, "#entrants-0 th:nth-child(2) button")
    click(driver, "#entrants-0 th:nth-child(2) button")
    assert [cell.text for cell in driver.find_elements("css selector", entrants)] == before[::-1]
    assert not find(driver, ".pairs").is_displayed()
    click(driver, "#contest-0 details:nth-of-type(2) summary")
    assert find(driver, ".pairs").is_displayed()
    assert find(driver, ".pairs tbody").text.count("architecture-0") == 6
    search = find(driver, "[data-pick-filter]")
    search.send_keys("architecture-3")
    settle(driver)
    assert names(driver) == [f"architecture-3.seed-{i}" for i in range(3)]
    search.clear()
    search.send_keys(" ")
    settle(driver)
    assert len(names(driver)) == 21
    no_complaints(driver)
