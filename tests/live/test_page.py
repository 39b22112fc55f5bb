"""The live page in a real browser: it draws, moves while a run is written, and keeps hostile names text."""

import json
import math
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from chromium import CHROMIUM, INK
from foreshock.runlog import RunLogWriter
from live_logs import calm, forecast, pause, spiky, until

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="needs chromium"),
]

LOSS = "foreshockPage.charts.find(c => c.style.id === 'loss').plot"
WINDOW = "foreshockPage.window()"
NAMES = (
    "<img src=x onerror=window.pwned=1>",
    "</script><script>window.pwned=1</script>",
    "{{7*7}}",
    "\u202etxt.exe",
)


@pytest.fixture
def look(request, browser):
    """Return a function that opens a page and waits until it drew; any complaint of it fails the test."""
    complaints, opened = [], []

    def looked(page, *, width=1280, height=900, theme="light", late=0.0, **options):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme, **options
        )
        seen = context.new_page()
        seen.set_default_timeout(60_000)
        seen.on("console", lambda message: complaints.append(message.text))
        seen.on("pageerror", lambda error: complaints.append(str(error)))
        foreign = lambda asked: not asked.url.startswith(page.address.split("?")[0])  # noqa: E731
        seen.on("request", lambda asked: complaints.append(asked.url) if foreign(asked) else None)
        opened.append(context)
        if late:
            # A machine with more to do than this page: what it asks for is answered this much later (s).
            seen.route("**/api/*?*", lambda route: (pause(late), route.continue_()))
        seen.goto(page.address)
        wait(seen, f"window.foreshockPage && {LOSS}")
        seen.wait_for_selector("#story:not([hidden])")
        return seen

    yield looked
    for context in opened:
        context.close()
    assert complaints == []


@pytest.fixture
def one(tmp_path, write, serve):
    write(tmp_path / "runs" / "one", spiky(), name="one", horizon=50)
    return serve(tmp_path / "runs")


@pytest.fixture
def three(tmp_path, write, serve):
    for place, name in enumerate(("base", "warmup", "clip")):
        rows = [row for row in spiky() if row[1]["step"] < 700 - 50 * place]
        write(tmp_path / "runs" / name, rows, name=f"gpt small {name}")
    return serve(tmp_path / "runs")


def wait(seen, true):
    """Wait until an expression is true. Playwright's own way needs eval, which the page's policy forbids."""
    until(lambda: seen.evaluate(f"Boolean({true})"))


def idle(seen):
    """Wait until nothing is fetched or drawn any more, nor about to be."""
    wait(seen, "!foreshockPage.soon && !foreshockPage.store.busy && !foreshockPage.drawing")


def zoomed(seen):
    seen.wait_for_timeout(100)
    idle(seen)
    return seen.evaluate(WINDOW)


def drag(seen, start, end):
    over = seen.locator("[data-chart=loss] .u-over")
    box = over.bounding_box()
    y = box["y"] + box["height"] / 2
    seen.mouse.move(box["x"] + box["width"] * start, y)
    seen.mouse.down()
    seen.mouse.move(box["x"] + box["width"] * end, y, steps=4)
    seen.mouse.up()
    return zoomed(seen)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_every_chart_is_drawn_and_fits(one, look, theme, width):
    seen = look(one, theme=theme, width=width)
    seen.wait_for_selector(".heat canvas")
    idle(seen)
    for figure in seen.locator("figure:not([hidden])").all():
        figure.scroll_into_view_if_needed()
        figure.locator("canvas").wait_for()
    drawn = seen.locator("figure:not([hidden]) canvas")
    ids = seen.evaluate("foreshockPage.charts.filter(c => !c.figure.hidden).map(c => c.style.id)")
    assert ids == ["loss", "probability", "ratio", "gradient-norm", "learning-rate", "lag", "decay"]
    assert drawn.count() == len(ids) + 1
    for i in range(drawn.count()):
        assert drawn.nth(i).evaluate(INK)
    assert seen.evaluate("document.documentElement.scrollWidth") <= width
    assert seen.evaluate("document.documentElement.dataset.theme") == theme


def test_the_verdict_comes_first(one, look):
    seen = look(one, width=360, height=640)
    assert seen.locator("#state").inner_text() == "calm"
    assert "stability ratio is 0.6" in seen.locator("#words").inner_text()
    box = seen.locator("#words").bounding_box()
    assert box["y"] + box["height"] < 640
    assert "1 spike (8.0×)" in seen.locator("#happenedwords").inner_text()


@pytest.mark.parametrize("late", [0.0, 0.4])
def test_it_moves_while_a_run_is_written(tmp_path, serve, look, late):
    writer = RunLogWriter(tmp_path / "run", meta={"name": "growing"})
    writer.write_many([*calm(0, 100), forecast(90)])
    seen = look(serve(tmp_path), late=late)
    for step in range(100, 160):
        writer.write_many(calm(step, step + 1))
    wait(seen, f"{LOSS}.data[0].at(-1) === 159")
    assert seen.locator("#tiles dd").first.inner_text() == "159"
    writer.write_many([forecast(160, "armed", stability_ratio=1.2), *calm(160, 165)])
    seen.wait_for_selector("#verdict[data-state=danger]")
    writer.write_many([("step", {"step": 165 + k, "loss": math.nan}) for k in range(5)])
    seen.wait_for_selector("#verdict[data-state=diverged]")
    # The state is told by the stream, the numbers are fetched after it.
    wait(seen, f"{LOSS}.data[0].length === 170")
    writer.close()


def test_it_moves_while_a_process_trains(tmp_path, serve, look):
    script = textwrap.dedent("""
        import sys, torch, foreshock
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        batch = torch.randn(32, 4)
        loss_fn = lambda model, batch: (model(batch) - batch.sum(1, keepdim=True)).square().mean()
        with foreshock.Monitor(model, optimizer, loss_fn, run=sys.argv[1]) as monitor:
            for step in range(10**9):
                optimizer.zero_grad()
                loss = loss_fn(model, batch)
                loss.backward()
                monitor.observe(batch, loss)
                optimizer.step()
    """)
    page = serve(tmp_path)
    training = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "run")])
    try:
        seen = look(page)
        first = seen.evaluate(f"{LOSS}.data[0].at(-1)")
        wait(seen, f"{LOSS}.data[0].at(-1) > {first} + 50")
        seen.wait_for_selector("[data-chart=ratio]:not([hidden]) canvas")
    finally:
        training.kill()
        training.wait()


def test_a_run_that_begins_later_appears(tmp_path, write, serve, look):
    write(tmp_path / "first", calm(0, 100))
    seen = look(serve(tmp_path))
    write(tmp_path / "second", calm(0, 120))
    seen.wait_for_selector("#list li:nth-child(2)")
    assert seen.locator("#list b").all_inner_texts() == ["first", "second"]


def test_a_drag_zooms_every_chart_and_a_double_click_shows_all(one, look):
    seen = look(one)
    whole = zoomed(seen)
    found = drag(seen, 0.25, 0.75)
    assert found == pytest.approx([0.25 * 699, 0.75 * 699], abs=4)
    plots = "foreshockPage.charts.filter(c => c.visible && !c.figure.hidden).map(c => c.plot.scales.x)"
    scales = f"{plots}.map(x => [x.min, x.max])"
    shown = seen.evaluate(scales)
    assert len(shown) >= 3
    assert all(scale == pytest.approx(found) for scale in shown)
    seen.locator("[data-chart=ratio] .u-over").dblclick()
    assert zoomed(seen) == whole


def test_zooming_brings_back_what_was_left_out(tmp_path, write, serve, look):
    rows = calm(0, 60_000)
    rows[43_210][1]["loss"] = 5.0
    write(tmp_path / "long", rows)
    seen = look(serve(tmp_path))
    idle(seen)
    held = seen.evaluate(f"{LOSS}.data[0].length")
    # What arrives while the server still reads the log is added to what is held, up to three times a view.
    assert held < 12_000
    place = seen.evaluate(f"{LOSS}.data[0].indexOf(43210)")
    assert seen.evaluate(f"{LOSS}.data[1][{place}]") == 5.0
    seen.evaluate("foreshockPage.show([43000, 43400])")
    wait(seen, f"{LOSS}.data[0].length === 403 && {LOSS}.data[0].includes(43209)")


def test_runs_are_compared(three, look):
    seen = look(three)
    assert seen.evaluate(f"{LOSS}.series.length") == 4
    seen.locator("#filter").fill("warm")
    assert seen.locator("#list li:visible b").all_inner_texts() == ["…warmup"]
    seen.locator("#filter").fill("")
    seen.locator("#list li:has-text('…base') input").uncheck()
    wait(seen, f"{LOSS}.series.length === 3")
    seen.locator("#list li:has-text('…base') .open").click()
    assert seen.locator("#name").inner_text() == "gpt small base"
    wait(seen, f"{LOSS}.series.length === 4")
    seen.locator("#none").click()
    wait(seen, f"{LOSS}.series.length === 2")


def test_marks_open_their_explanation(one, look):
    seen = look(one)
    seen.locator(".lane .mark.spike").click()
    box = seen.locator("#explanation")
    seen.wait_for_selector("#explanation[open]")
    assert "Spike at step 400" in box.inner_text()
    assert "50 steps ahead" in box.inner_text()
    seen.locator("#eprev").click()
    wait(seen, "document.getElementById('etitle').textContent === 'Watch at step 350'")
    assert "Stability ratio 0.94, edge" in box.inner_text()
    seen.locator("#ezoom").click()
    low, high = zoomed(seen)
    assert low == 250
    assert high == 550
    seen.locator("#events .goto").first.click()
    seen.wait_for_selector("#explanation[open]")


def test_the_keyboard_alone_suffices(three, look):
    seen = look(three)
    press = seen.keyboard.press
    front = seen.locator("#name").inner_text()
    press("j")
    assert seen.locator("#name").inner_text() != front
    wait(seen, "foreshockPage.details")
    press("n")
    seen.wait_for_selector("#explanation[open]")
    first = seen.locator("#etitle").inner_text()
    press("n")
    wait(seen, f"document.getElementById('etitle').textContent !== {json.dumps(first)}")
    press("Escape")
    assert not seen.locator("#explanation").is_visible()
    whole = zoomed(seen)
    press("+")
    closer = zoomed(seen)
    assert closer[1] - closer[0] == pytest.approx((whole[1] - whole[0]) / 2)
    press(".")
    assert zoomed(seen)[0] > closer[0]
    press("0")
    assert zoomed(seen) == whole
    seen.locator("[data-chart=loss] .plot").focus()
    press("ArrowRight")
    press("Shift+ArrowRight")
    assert seen.evaluate(f"{LOSS}.cursor.idx") == 10
    assert seen.locator("[data-chart=loss] .legend .at").inner_text() == "step 10"
    press("/")
    seen.keyboard.type("clip")
    assert seen.locator("#list li:visible").count() == 1
    press("Escape")
    assert seen.locator("#list li:visible").count() == 3
    press("t")
    assert seen.evaluate("document.documentElement.dataset.theme") == "dark"
    press("f")
    assert zoomed(seen)[0] == 0
    press("?")
    assert seen.locator("#keys").is_visible()
    press("Escape")
    # Whatever can be clicked can be reached with Tab.
    hidden = "[...document.querySelectorAll('button, input, summary, a')].filter(e => e.tabIndex < 0).length"
    assert seen.evaluate(hidden) == 0


def test_two_fingers_zoom_and_one_moves(one, look):
    seen = look(one, width=360, has_touch=True)
    seen.locator("[data-chart=loss]").scroll_into_view_if_needed()
    whole = zoomed(seen)
    fingers = """([moves]) => {
      const place = document.querySelector('[data-chart=loss] .plot');
      const box = place.querySelector('.u-over').getBoundingClientRect();
      for (const [type, id, x] of moves)
        place.dispatchEvent(new PointerEvent(type, { pointerId: id, pointerType: 'touch', bubbles: true,
          clientX: box.left + x * box.width, clientY: box.top + 50 }));
    }"""
    pinch = [
        ["pointerdown", 1, 0.4],
        ["pointerdown", 2, 0.6],
        ["pointermove", 1, 0.2],
        ["pointermove", 2, 0.8],
    ]
    seen.evaluate(fingers, [[*pinch, ["pointerup", 1, 0.2], ["pointerup", 2, 0.8]]])
    low, high = zoomed(seen)
    assert high - low == pytest.approx((whole[1] - whole[0]) / 3, rel=0.02)
    seen.evaluate(fingers, [[["pointerdown", 3, 0.5], ["pointermove", 3, 0.3], ["pointerup", 3, 0.3]]])
    assert zoomed(seen)[0] == pytest.approx(low + 0.2 * (high - low), abs=3)


def test_hostile_names_stay_text(tmp_path, write, serve, look):
    evil = NAMES[0]
    for place, name in enumerate(NAMES):
        rows = spiky() if place == 0 else calm(0, 100)
        if place == 0:
            rows += [
                ("event", {"step": 20, "name": evil, "message": evil}),
                ("alarm", {"step": 600, "level": evil, "reason": evil, "forecast": {"cause_hint": evil}}),
                ("guard", {"step": 500, "policy": evil, "remedy": evil, "reason": evil, "factor": 2.0}),
                (
                    "curvature",
                    {"step": 650, "stability_ratio": 0.6, "blocks": [{"name": evil, "share": 1.0, evil: 3}]},
                ),
                forecast(690, "unknown", basis=evil),
            ]
        write(
            tmp_path / f"<b>{place}", rows, name=name, description=name, optimizer=evil, layers={evil: evil}
        )
    seen = look(serve(tmp_path))
    seen.locator("#list .open").first.click()
    seen.wait_for_selector(".heat canvas")
    seen.locator("#sorts label:has-text('Events') input").check()
    assert evil in seen.locator("#words").inner_text()
    for _ in range(5):
        seen.keyboard.press("n")
        seen.wait_for_timeout(100)
    seen.keyboard.press("Escape")
    seen.locator("details.box summary").first.click()
    assert evil in seen.locator("#basis").inner_text()
    assert evil in seen.locator("#tensortable").inner_text()
    assert seen.evaluate("window.pwned") is None
    assert seen.locator("img").count() == 0
    assert seen.locator("script").count() == 5
    assert "49" not in seen.locator("#list").inner_text().replace("49 ·", "")


def test_a_server_that_ends_is_said_and_what_is_drawn_stays(tmp_path, write, serve, browser):
    write(tmp_path / "run", spiky())
    page = serve(tmp_path)
    seen = browser.new_page()
    seen.goto(page.address)
    wait(seen, f"window.foreshockPage && {LOSS}")
    idle(seen)
    page.stop()
    seen.wait_for_selector("#link[data-state=lost]", timeout=60_000)
    assert seen.evaluate(f"{LOSS}.data[0].length") == 700
    seen.close()


def test_a_token_leaves_the_address(tmp_path, write, serve, look):
    write(tmp_path / "run", spiky())
    page = serve(tmp_path, ask_token=True)
    seen = look(page)
    assert seen.url == page.address.split("?")[0]
