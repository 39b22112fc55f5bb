"""The page in a real browser: it draws, its charts zoom together, and the console stays silent."""

from pathlib import Path

import pytest

from chromium import CHROMIUM, INK
from foreshock.report.html import write_html

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="needs chromium"),
]

ZOOMS = "foreshockRuns.map(run => run.plots.map(p => [p.scales.x.min, p.scales.x.max]))"


@pytest.fixture(params=["light", "dark"])
def page(request, browser, spiky, blind, tmp_path):
    opened = browser.new_page(viewport={"width": 1100, "height": 900}, color_scheme=request.param)
    complaints = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda asked: complaints.append(asked.url))
    path = write_html([spiky, blind], tmp_path / "report.html")
    opened.goto(path.as_uri())
    opened.wait_for_function("window.foreshockRuns?.every(run => run.plots.length > 0)")
    yield opened
    assert [said for said in complaints if said not in (path.as_uri(), "data:,")] == []
    opened.close()


def test_every_chart_is_drawn(page):
    canvases = page.locator("figure canvas")
    assert canvases.count() == 15
    assert all(canvases.nth(i).evaluate(INK) for i in range(14))


def test_a_drag_zooms_all_charts_of_its_run_and_no_other(page):
    whole = page.evaluate(ZOOMS)
    over = page.locator("#run-1 [data-chart=ratio] .u-over")
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.25, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, y, steps=4)
    page.mouse.up()
    first, second = page.evaluate(ZOOMS)
    assert first[0] == pytest.approx([0.25 * 1199, 0.75 * 1199], abs=3)
    assert all(zoom == first[0] for zoom in first)
    assert second == whole[1]
    page.locator("#run-1 .reset").click()
    assert page.evaluate(ZOOMS) == whole


def test_the_cursor_is_shared_within_a_run(page):
    page.locator("#run-1 [data-chart=loss] .u-over").hover(position={"x": 300, "y": 50})
    legends = page.locator("#run-1 .u-legend .u-series:first-child .u-value").all_inner_texts()
    assert len(legends) == 10
    numbers = [int(text.replace(",", "")) for text in legends]
    assert max(numbers) - min(numbers) <= 5


def test_a_spike_in_the_table_zooms_to_itself(page):
    button = page.locator("#run-1 .goto").first
    onset = int(button.inner_text().replace(",", ""))
    button.click()
    [low, high] = page.evaluate(ZOOMS)[0][0]
    assert low < onset < high
    assert high - low < 600


def test_a_narrow_screen_does_not_scroll_sideways(page):
    page.set_viewport_size({"width": 400, "height": 800})
    page.wait_for_function("foreshockRuns[0].plots[0].width < 400")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_a_term_of_a_caption_opens_the_glossary_at_its_place(page):
    box = page.locator("details.glossary")
    assert box.get_attribute("open") is None
    page.locator("#run-1 [data-chart=ratio] a.term", has_text="stability ratio").click()
    assert box.get_attribute("open") is not None
    place = page.locator("#term-stability-ratio")
    page.wait_for_function(
        "document.querySelector('#term-stability-ratio').getBoundingClientRect().top < innerHeight"
    )
    assert "amplifies" in place.inner_text()


def test_the_glossary_opens_where_the_browser_itself_would_not_open_it(page):
    page.evaluate("addEventListener('click', event => event.preventDefault())")
    page.locator("#run-1 [data-chart=ratio] a.term").first.click()
    assert page.locator("details.glossary").get_attribute("open") is not None
