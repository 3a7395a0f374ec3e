"""The page of look-ups: what stands on it, how it is bounded, and that hovering a word shows the passage it was given."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from formers.comparison.lookups import LIMIT, render, write_lookups
from formers.errors import RunError
from formers.inspection.looked import LayerLookups, Lookups

from .browser import click, find, no_complaints, settle, show

EVIL = "</script><script>window.attacked = true</script><img src=x onerror='window.attacked = true'>"
WORDS = "The harbour master kept a blue lantern .\n Nobody knew why . Years later she asked for the blue lantern".split(
    " "
)
PIECES = ("The", *(f" {word}" for word in WORDS[1:]))
SEGMENT = 7


def document(
    pieces: tuple[str, ...] = PIECES, *, heads: int = 2, kept: int = 2, layers: int = 1, joint: bool = False
) -> Lookups:
    """Every token from the second segment on was given the newest token of its own text in an earlier segment, or token 0."""
    length = len(pieces)
    made = [_layer(pieces, 2 * i + 1, heads, kept, joint) for i in range(layers)]
    loss = np.linspace(3.0, 1.0, length).astype(np.float32)
    loss[0] = np.nan
    return Lookups(np.arange(length), pieces, loss, loss + np.float32(0.25), SEGMENT, tuple(made))


def _layer(pieces: tuple[str, ...], number: int, heads: int, kept: int, joint: bool) -> LayerLookups:
    length = len(pieces)
    shares = np.zeros((length, heads, 4), np.float32)
    index, score, weight = (
        np.full((length, heads, kept), -1),
        np.zeros((length, heads, kept)),
        np.zeros((length, heads, kept)),
    )
    seen: dict[str, int] = {}
    for start in range(0, length, SEGMENT):
        for t in range(start, min(start + SEGMENT, length)):
            far = 0.0 if start == 0 else 0.4 if not joint else 0.1 + 0.6 * t / length
            shares[t] = [0.75 * (1 - far), 0.25 * (1 - far), far, 0]
            if start:
                index[t, :, 0], score[t, :, 0], weight[t, :, 0] = seen.get(pieces[t], 0), 5.5, far
        seen |= {pieces[t]: t for t in range(start, min(start + SEGMENT, length))}
    return LayerLookups(number, "attention", None if joint else np.full(heads, 0.4), shares, index, score, weight)


LANTERN, ASKED_LANTERN = PIECES.index(" lantern"), len(PIECES) - 1


# --- without a browser ----------------------------------------------------------------------------------------------


def test_the_document_stands_on_the_page_and_the_summary_says_what_memory_did() -> None:
    page = render(document(), title="tale.txt")
    assert "".join(re.findall(r'<span id="t\d+"[^>]*>([^<]*)</span>', page)) == "".join(PIECES)
    assert "What the memory remembered: tale.txt" in page
    assert "took off 0.2500 nats a token" in page
    assert re.search(r"\d+ % of the attention of layer 1 went to the memory", page)


def test_nothing_is_loaded_from_anywhere() -> None:
    page = render(document(), title="t")
    assert not re.search(r"https?://|src=|@import|url\(", page)
    assert "default-src 'none'" in page


def test_foreign_text_is_text() -> None:
    page = render(document((EVIL, *PIECES, EVIL)), title=EVIL)
    assert page.count("<script") == 2
    assert "<img" not in page


def test_a_long_document_is_cut_and_the_page_says_where() -> None:
    page = render(document(PIECES * 40), title="long", first=100, most=50)
    assert re.findall(r'<span id="t(\d+)"', page) == [str(i) for i in range(100, 150)]
    assert f"Tokens 100 to 149 of {len(PIECES) * 40:,} are shown" in page
    assert "are shown" not in render(document(), title="whole")
    assert "of 999 are shown" in render(document(), title="only its beginning was read", length=999)


def test_many_heads_and_layers_stay_within_the_limit() -> None:
    words = sum(map(len, PIECES)) * 190
    page = render(document(PIECES * 190, heads=16, kept=4, layers=3), title="wide", most=4000)
    assert LIMIT * 0.8 < len(page.encode()) < LIMIT + 60 * 4000 + 10 * words
    assert "are shown" in page


def test_a_folder_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is a folder"):
        write_lookups(document(), tmp_path)


# --- in a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("lookups")
    hostile = document((EVIL, "\n", "", *PIECES, EVIL))
    made = {
        "tale": document(), "hostile": hostile, "joint": document(PIECES * 20, layers=2, joint=True),
    }  # fmt: skip
    written = {name: write_lookups(found, root / f"{name}.html", title=name) for name, found in made.items()}
    long, first = document(PIECES * 20), 10 * len(PIECES)
    return written | {
        "cut": write_lookups(document(), root / "cut.html", title="cut", first=SEGMENT + 2),
        "middle": write_lookups(long, root / "middle.html", title="middle", first=first),
    }


def hover(driver: Any, token: int) -> None:
    from selenium.webdriver import ActionChains

    span = find(driver, f"#t{token}")
    driver.execute_script(
        "document.documentElement.style.scrollBehavior = 'auto'; arguments[0].scrollIntoView({block: 'center'})", span
    )
    ActionChains(driver).move_to_element(span).perform()
    settle(driver)


def passages(driver: Any) -> list[str]:
    return [found.text for found in driver.find_elements("css selector", ".passages li")]


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1366, 390])
@pytest.mark.parametrize("name", ["tale", "hostile", "joint", "cut"])
def test_a_page_fits_its_window_and_the_console_is_quiet(
    driver: Any, pages: dict[str, Path], name: str, width: int, dark: bool
) -> None:
    show(driver, pages[name], width=width, dark=dark)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    assert driver.execute_script("return window.attacked") is None
    no_complaints(driver)


@pytest.mark.browser
@pytest.mark.slow
def test_hovering_a_word_shows_where_it_looked(driver: Any, pages: dict[str, Path]) -> None:
    show(driver, pages["tale"])
    hover(driver, ASKED_LANTERN)
    panel = find(driver, "#panel").text
    assert "window 45 %" in panel
    assert "cache 15 %" in panel
    assert "memory 40 %" in panel
    assert "Gates of the heads 0.400" in panel
    assert "loss 1.00, without memory 1.25" in panel
    (passage,) = passages(driver)
    assert "kept a blue lantern" in passage.replace("\u00a0", " ")
    assert f"token {LANTERN}" in passage
    assert f"{ASKED_LANTERN - LANTERN} back" in passage
    assert "weight 40 %" in passage
    assert "score 5.50" in passage
    assert "given" in find(driver, f"#t{LANTERN}").get_attribute("class")
    hover(driver, 2)
    assert passages(driver) == []
    assert "the memory is empty" in find(driver, "#panel").text
    assert "given" not in (find(driver, f"#t{LANTERN}").get_attribute("class") or "")
    no_complaints(driver)


@pytest.mark.browser
@pytest.mark.slow
def test_a_click_holds_a_word_and_its_passage_leads_to_its_place(driver: Any, pages: dict[str, Path]) -> None:
    from selenium.webdriver import ActionChains

    show(driver, pages["tale"], width=390)
    hover(driver, ASKED_LANTERN)
    ActionChains(driver).click().perform()
    settle(driver)
    hover(driver, 2)
    assert "held" in find(driver, "#panel").text
    click(driver, ".passages a")
    assert "reached" in find(driver, f"#t{LANTERN}").get_attribute("class")
    covered = "const s = document.getElementById(arguments[0]).getBoundingClientRect();"
    covered += "return document.elementFromPoint(s.left + 2, s.top + s.height / 2)?.id"
    assert driver.execute_script(covered, f"t{LANTERN}") == f"t{LANTERN}"


@pytest.mark.browser
@pytest.mark.slow
def test_the_keyboard_walks_reads_and_comes_back(driver: Any, pages: dict[str, Path]) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(*keys: str) -> str:
        ActionChains(driver).send_keys(*keys).perform()
        settle(driver)
        return driver.execute_script("return document.activeElement.id || document.activeElement.dataset.to")

    show(driver, pages["tale"])
    find(driver, "[name=tint]:checked").send_keys(Keys.TAB)
    settle(driver)
    assert press(Keys.ARROW_RIGHT) == "t1"
    assert press(Keys.END) == f"t{ASKED_LANTERN}"
    assert "kept a blue lantern" in passages(driver)[0].replace("\u00a0", " ")
    assert press(Keys.ENTER) == str(LANTERN)
    press(Keys.ENTER)
    assert "reached" in find(driver, f"#t{LANTERN}").get_attribute("class")
    assert press(Keys.ESCAPE) == f"t{ASKED_LANTERN}"
    assert press(Keys.HOME, Keys.PAGE_DOWN) == f"t{SEGMENT}"
    assert "Memory 40 %" in driver.execute_script("return document.getElementById('said').textContent")


@pytest.mark.browser
@pytest.mark.slow
def test_the_tint_follows_layer_head_and_measure(driver: Any, pages: dict[str, Path]) -> None:
    show(driver, pages["joint"])
    strength = "return +document.getElementById(arguments[0]).style.getPropertyValue('--m')"
    assert driver.execute_script(strength, "t0") == 0
    early, late = driver.execute_script(strength, "t10"), driver.execute_script(strength, "t300")
    assert 0 < early < late
    click(driver, "[name=tint][value=saved]")
    assert "easier" in find(driver, "#scale").text
    assert driver.execute_script(strength, "t5") == driver.execute_script(strength, "t300") > 0.9
    assert len(driver.find_elements("css selector", "[name=layer] option")) == 2
    assert len(driver.find_elements("css selector", "[name=head] option")) == 3
    no_complaints(driver)


@pytest.mark.browser
@pytest.mark.slow
def test_a_passage_before_the_part_that_is_shown_has_its_text_and_no_link(driver: Any, pages: dict[str, Path]) -> None:
    show(driver, pages["cut"])
    hover(driver, ASKED_LANTERN)
    (passage,) = passages(driver)
    assert "kept a blue lantern" in passage.replace("\u00a0", " ")
    assert driver.find_elements("css selector", ".passages a") == []


@pytest.mark.browser
@pytest.mark.slow
def test_a_passage_in_the_part_that_is_shown_is_marked_where_it_stands(driver: Any, pages: dict[str, Path]) -> None:
    show(driver, pages["middle"])
    asked, there = 15 * len(PIECES) + ASKED_LANTERN, 15 * len(PIECES) + LANTERN
    hover(driver, asked)
    assert f"token {there}" in passages(driver)[0]
    marked = driver.find_elements("css selector", "#document .given")
    assert [span.get_attribute("id") for span in marked] == [f"t{there}"]
    click(driver, ".passages a")
    assert "reached" in find(driver, f"#t{there}").get_attribute("class")
