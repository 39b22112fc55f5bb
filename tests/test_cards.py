"""Cards of notebooks: what a result shows, well-formed, its extremes kept, and no word of it as markup."""

import math
import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch

import foreshock
from foreshock.cards import Card, Curve, draw
from foreshock.forecast import Forecast
from foreshock.guarding import GuardSummary
from foreshock.runlog import RunLogWriter, read_run

HOSTILE = '<img src=x onerror="alert(1)">&\x1b[2J\u202e'
FORECAST = Forecast(1200, 0.97, 14, 9, 40, 0.002, "edge", "four readings", measured=1190)


def read(html):
    """Return the words of a card; it must be well-formed, and have only our elements."""
    tree = ET.fromstring(html)  # noqa: S314 - made here
    assert {one.tag for one in tree.iter()} <= {"div", "b", "table", "tr", "td", "svg", "path"}
    assert not any(name.startswith("on") for one in tree.iter() for name in one.attrib)
    return " ".join(tree.itertext())


def points(svg):
    """Return the drawn points of a curve, (x, y) in the units of the picture, of each unbroken part."""
    path = re.search(r'<path d="([^"]*)" stroke="#7b4fb5"', svg)[1]
    parts = [part.split("L") for part in path.split("M")[1:]]
    return [[tuple(map(float, one.split())) for one in part] for part in parts]


def sharpness():
    model = torch.nn.Linear(2, 1, bias=False)
    batch = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    return model, lambda model, batch: model(batch).square().mean(), batch


def test_a_forecast_shows_its_numbers():
    words = read(FORECAST._repr_html_())
    assert "Forecast at step 1,200: edge" in words
    assert "10 steps ago" in words
    assert "a spike" not in words
    likely = replace(
        FORECAST,
        probability=0.4,
        probability_low=0.2,
        probability_high=0.6,
        horizon=50,
        level="alarm",
        doubt=HOSTILE,
    )
    words = read(likely._repr_html_())
    assert "step 1,200: alarm" in words
    assert "40% within 50 steps (20%–60%)" in words
    assert '<img src=x onerror="alert(1)">&\\x1b[2J\\u202e' in words


def test_sharpness_and_spectrum_show_theirs():
    model, loss_fn, batch = sharpness()
    words = read(foreshock.sharpness(model, loss_fn, batch)._repr_html_())
    assert "λ_max(H) = 4" in words
    assert "weight 100%" in words
    assert "double backward" in words
    spectrum = foreshock.spectrum(model, loss_fn, batch)
    words = read(spectrum._repr_html_())
    assert "Spectrum of 2 eigenvalues" in words
    assert "1 to 4" in words
    [curve] = points(spectrum._repr_html_())
    assert min(y for _, y in curve) == 4  # the peak touches the upper edge


def test_stability_shows_its_edge_and_what_is_in_doubt():
    model, loss_fn, batch = sharpness()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    loss_fn(model, batch).backward()
    optimizer.step()
    reading = foreshock.preconditioned_sharpness(model, optimizer, loss_fn, batch)
    words = read(reading._repr_html_())
    assert f"= {reading.stability_ratio:.4g}" in words
    assert "weight 100%" in words
    assert "not converged" not in words
    doubtful = replace(reading, converged=False, preconditioned_sharpness=None, threshold=None)
    assert "not converged: the true value may be larger" in read(doubtful._repr_html_())
    assert "threshold" not in read(doubtful._repr_html_())
    found = foreshock.mean_square_stability(model, optimizer, loss_fn, [batch, 2 * batch])
    words = read(found._repr_html_())
    assert f"Mean-square ratio = {found.ratio:.4g}" in words
    assert str(found.curvature)[:20] in words


def test_a_spectrum_of_one_value_has_no_curve():
    model = torch.nn.Linear(1, 1, bias=False)
    found = foreshock.spectrum(model, lambda model, batch: model(batch).square().mean(), torch.ones(2, 1))
    assert found.lower == found.upper
    assert "<svg" not in found._repr_html_()


def test_a_run_shows_its_loss_and_what_failed(tmp_path):
    log = RunLogWriter(tmp_path / "run", meta={"name": HOSTILE})
    for step in range(5000):
        loss = 90.0 if step == 3210 else math.nan if step in (700, 701) else 1.0
        log.write("step", {"step": step, "loss": loss})
    log.close()
    html = read_run(tmp_path / "run")._repr_html_()
    words = read(html)
    assert '<img src=x onerror="alert(1)">&\\x1b[2J\\u202e' in words
    assert "0 to 4,999" in words
    assert "2 losses" in words
    drawn = [point for part in points(html) for point in part]
    # The one high step of 5,000 touches the upper edge, at its place.
    [(x, _)] = [point for point in drawn if point[1] == 4]
    assert x == pytest.approx(4 + 552 * 3210 / 4999, abs=0.1)
    assert len(drawn) < 1000


def test_a_guard_and_a_monitor_show_themselves():
    summary = GuardSummary("secant", 2000, 12, {"raise all": 12}, largest_raise=1.5, notes=(HOSTILE,))
    words = read(summary._repr_html_())
    assert "Guard 'secant'" in words
    assert "12 of 2,000 steps (0.60%)" in words
    assert "onerror" in words
    model, loss_fn, batch = sharpness()
    optimizer = torch.optim.Adam(model.parameters())
    with foreshock.Monitor(model, optimizer, loss_fn, guard="auto") as monitor:
        before = read(monitor.show()._repr_html_())
        for _ in range(12):
            optimizer.zero_grad()
            loss = loss_fn(model, batch)
            loss.backward()
            monitor.observe(batch, loss)
            optimizer.step()
        after = monitor.show()
    assert "Run: unknown" in before
    assert str(monitor.forecast) in read(after._repr_html_())
    assert "of 12 steps" in str(after)


def test_gaps_stay_gaps_and_a_single_value_is_a_dot():
    y = np.array([1.0, 2.0, math.nan, 3.0, math.inf, 4.0, 5.0])
    parts = points(draw(Curve(np.arange(7), y, "loss", "step")))
    assert [len(part) for part in parts] == [2, 2, 2]
    assert parts[1][0] == parts[1][1]


@pytest.mark.parametrize("y", [[], [math.nan], [math.inf, -math.inf]])
def test_what_has_no_finite_value_is_not_drawn(y):
    assert draw(Curve(np.arange(len(y)), np.array(y, dtype=float), "loss", "step")) == ""


@pytest.mark.parametrize(
    "y", [[1.0], [0.0, 0.0], [-1.0, 5.0], [1e-300, 1e300], [-1.7e308, 1.7e308], [5e-324, 1.0]]
)
def test_any_values_stay_inside_the_picture(y):
    svg = draw(Curve(np.arange(len(y)), np.array(y), "loss", "step"))
    assert all(0 <= x <= 560 and 0 <= up <= 120 for part in points(svg) for x, up in part)
    assert ("logarithmic" in svg) == (min(y) > 0 and max(y) > 30 * min(y))


def test_a_mark_is_drawn_where_it_lies_inside():
    curve = Curve(np.array([-1.0, 1.0]), np.ones(2), "density", "eigenvalue", mark=0.0)
    assert '<path d="M280.0 0V120"' in draw(curve)
    assert "; dashed at 0" in draw(curve)
    assert "V120" not in draw(replace(curve, mark=2.0))


def test_a_row_without_words_is_left_out_of_text_and_page():
    card = Card("<b>", (("one", "1"), ("two", "")))
    assert str(card) == repr(card) == "<b>\n  one: 1"
    assert "two" not in read(card._repr_html_())
