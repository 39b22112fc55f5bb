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
    opened.wait_for_function("window.foreshockOverlaid?.plots.length > 0")
    yield opened
    assert [said for said in complaints if said not in (path.as_uri(), "data:,")] == []
    opened.close()


@pytest.fixture
def stacked(page):
    page.get_by_role("button", name="Stacked").click()
    page.wait_for_function("foreshockRuns.every(run => run.plots.length > 0)")
    return page


def test_runs_are_overlaid_until_they_are_stacked(page, spiky, blind):
    lines = page.evaluate("foreshockOverlaid.plots.map(p => p.series.slice(1).map(s => s.label))")
    assert lines == [["spiky", "blind"], ["spiky"], ["spiky"], ["spiky"], *[["spiky", "blind"]] * 4]
    steps, *losses = page.evaluate("foreshockOverlaid.plots[0].data.map(column => [...column])")
    assert steps == spiky.steps("step").tolist()
    for run, column in zip((spiky, blind), losses, strict=True):
        assert column == pytest.approx(run.column("step", "loss").tolist(), rel=1e-5)
    assert all(page.locator("#overlaid canvas").nth(i).evaluate(INK) for i in range(len(lines)))
    assert page.locator(".run .charts figure:visible").count() == 0
    page.get_by_role("button", name="Stacked").click()
    assert page.locator("#overlaid figure:visible").count() == 0
    assert page.locator(".run .charts figure:visible").count() == 15
    assert page.locator(".views button[aria-pressed=true]").inner_text() == "Stacked"
    page.get_by_role("button", name="Overlaid").click()
    assert page.locator("#overlaid figure:visible").count() == len(lines)


def test_a_run_is_hidden_by_its_name_in_the_legend(page):
    page.locator("#overlaid [data-chart=loss] .u-series", has_text="blind").click()
    assert page.evaluate("foreshockOverlaid.plots[0].series.map(s => s.show)") == [True, True, False]


def test_a_spike_in_the_table_zooms_what_is_in_view(page):
    page.locator("#run-1 .goto").first.click()
    low, high = page.evaluate("foreshockOverlaid.plots.map(p => [p.scales.x.min, p.scales.x.max])")[0]
    assert high - low < 600
    page.locator("#overlaid .reset").click()
    assert page.evaluate("foreshockOverlaid.zoom") == [0, 1199]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_verdict_why_what_to_do_and_the_loss_are_seen_without_scrolling(browser, spiky, tmp_path, count):
    opened = browser.new_page(viewport={"width": 1280, "height": 800})
    opened.goto(write_html([spiky] * count, tmp_path / "report.html").as_uri())
    opened.wait_for_function("[...document.querySelectorAll('canvas')].some(c => c.clientWidth)")
    words = [".cards .happened", ".cards .answer >> nth=0", ".cards .answer >> nth=1"]
    words = {1: [".verdict", ".answers div >> nth=0", ".answers div >> nth=1"], 2: words}.get(
        count, [".rows p"]
    )
    tops = [opened.locator(place).first.bounding_box()["y"] for place in words]
    chart = opened.locator("[data-chart=loss] .plot:visible").bounding_box()
    assert max(tops) < chart["y"]
    assert chart["y"] + chart["height"] < 800
    opened.close()


def test_runs_with_huge_values_strange_names_or_nothing_at_all_share_the_axes(browser, spiky, log, tmp_path):
    evil = "</script><img src=x onerror=alert(1)>"
    huge = log(*[("step", {"step": s, "loss": 1e307 * (s + 1)}) for s in range(9)], name=evil)
    empty = log(("event", {"step": 0, "name": "x", "message": "y"}), name=evil + "x" * 5000)
    opened = browser.new_page(viewport={"width": 1280, "height": 800})
    complaints = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(write_html([empty, huge, spiky, spiky], tmp_path / "report.html").as_uri())
    opened.wait_for_function("window.foreshockOverlaid?.plots.length > 0")
    plot = "foreshockOverlaid.plots[0]"
    labels = opened.evaluate(f"{plot}.series.slice(1).map(s => s.label)")
    assert labels == [evil, "spiky (1)", "spiky (2)"]
    low, high = opened.evaluate(f"[{plot}.scales.y.min, {plot}.scales.y.max]")
    assert 0 < low < 1e-3
    assert 9e307 <= high < float("inf")
    assert opened.locator("img").count() == 0
    assert opened.evaluate("document.documentElement.scrollWidth") == 1280
    assert complaints == []
    opened.close()


@pytest.mark.parametrize("runs", [1, 2])
def test_a_printed_page_is_as_wide_as_the_paper_and_hides_nothing(browser, spiky, blind, tmp_path, runs):
    opened = browser.new_page(viewport={"width": 680, "height": 900}, color_scheme="dark")
    opened.goto(write_html([spiky, blind][:runs], tmp_path / "report.html").as_uri())
    opened.evaluate("""document.querySelector('.answers ul').parentElement.insertAdjacentHTML(
        'beforeend', '<details class=more><summary>1 more</summary><p id=folded>folded</p></details>')""")
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    opened.emulate_media(media="print")
    plots = opened.locator(".plot:visible canvas")
    assert plots.count() >= 8
    for i in range(plots.count()):
        assert plots.nth(i).evaluate("c => [c.width, c.getBoundingClientRect().right]") == [1360, 680]
        assert plots.nth(i).evaluate(INK)
    assert opened.evaluate("document.documentElement.scrollWidth") == 680
    assert opened.locator("#folded").is_visible()
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    opened.emulate_media(media="screen")
    opened.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not opened.locator("#folded").is_visible()
    assert opened.locator(".plot:visible canvas").first.evaluate("c => c.width") < 680
    assert opened.pdf()[:5] == b"%PDF-"
    opened.close()


def test_every_chart_is_drawn(stacked):
    page = stacked
    canvases = page.locator(".run figure canvas")
    assert canvases.count() == 15
    assert all(canvases.nth(i).evaluate(INK) for i in range(14))


def test_a_drag_zooms_all_charts_of_its_run_and_no_other(stacked):
    page = stacked
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


def test_the_cursor_is_shared_within_a_run(stacked):
    page = stacked
    page.locator("#run-1 [data-chart=loss] .u-over").hover(position={"x": 300, "y": 50})
    legends = page.locator("#run-1 .u-legend .u-series:first-child .u-value").all_inner_texts()
    assert len(legends) == 10
    numbers = [int(text.replace(",", "")) for text in legends]
    assert max(numbers) - min(numbers) <= 5


def test_a_spike_in_the_table_zooms_to_itself(stacked):
    page = stacked
    button = page.locator("#run-1 .goto").first
    onset = int(button.inner_text().replace(",", ""))
    button.click()
    [low, high] = page.evaluate(ZOOMS)[0][0]
    assert low < onset < high
    assert high - low < 600


def test_a_narrow_screen_does_not_scroll_sideways(stacked):
    page = stacked
    page.set_viewport_size({"width": 400, "height": 800})
    page.wait_for_function("foreshockRuns[0].plots[0].width < 400")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_a_term_of_a_caption_opens_the_glossary_at_its_place(stacked):
    page = stacked
    box = page.locator("details.glossary")
    assert box.get_attribute("open") is None
    page.locator("#run-1 [data-chart=ratio] a.term", has_text="stability ratio").click()
    assert box.get_attribute("open") is not None
    place = page.locator("#term-stability-ratio")
    page.wait_for_function(
        "document.querySelector('#term-stability-ratio').getBoundingClientRect().top < innerHeight"
    )
    assert "amplifies" in place.inner_text()


def test_the_glossary_opens_where_the_browser_itself_would_not_open_it(stacked):
    page = stacked
    page.evaluate("addEventListener('click', event => event.preventDefault())")
    page.locator("#run-1 [data-chart=ratio] a.term").first.click()
    assert page.locator("details.glossary").get_attribute("open") is not None
