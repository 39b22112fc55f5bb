"""Figures of runs: each kind is drawn, alone or overlaid, and what can't be drawn says why."""

import math
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from foreshock.report import write_figure, write_picture
from foreshock.report.appearance import draw_line
from foreshock.report.figure import KINDS

# On the axis of one run, and of several.
WORDS = {
    "loss": ("loss", "loss"),
    "probability": ("spike ahead", "probability of a spike"),
    "edge": ("stability ratio", "ratio to the edge"),
    "lag": ("lag of v", "lag of v"),
    "gradient": ("gradient", "‖g‖"),
}


def text_of(path):
    """Return the texts of an SVG file, which matplotlib writes into comments beside their outlines."""
    return "\n".join(re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("kind", WORDS)
def test_a_chart_of_one_run_or_several_names_what_it_shows(spiky, blind, tmp_path, kind):
    alone = write_figure([spiky], tmp_path / "alone.svg", kind=kind)
    together = write_figure([spiky, blind], tmp_path / "both.svg", kind=kind)
    one, several = WORDS[kind]
    assert one in text_of(alone)
    assert several in text_of(together)
    assert {"spiky", "blind"} <= set(text_of(together).splitlines())


def test_the_close_up_is_of_the_spike_that_was_asked_for(spiky, tmp_path):
    first, second = (write_figure([spiky], tmp_path / f"{n}.svg", kind="spike", spike=n) for n in (1, 2))
    assert text_of(first) != text_of(second)
    with pytest.raises(ValueError, match="99"):
        write_figure([spiky], tmp_path / "x.svg", kind="spike", spike=99)


def test_layers_are_a_map_over_steps(log, tmp_path):
    blocks = [{"name": "0", "share": 0.7, "size": 80}, {"name": "2", "share": 0.3, "size": 20}]
    rows = [("curvature", {"step": s, "stability_ratio": 0.6, "blocks": blocks}) for s in (0, 5, 9)]
    drawn = write_figure([log(*rows)], tmp_path / "x.svg", kind="layers")
    assert "layer 0" in text_of(drawn)


def test_a_run_whose_noise_alone_was_measured_is_not_asked_for_a_loss_fn(log, tmp_path):
    run = log(("step", {"step": 0, "loss": 1.0}), ("noise", {"step": 0, "mean_square_ratio": 0.2}))
    with pytest.raises(ValueError, match="nothing by layer: where batches differ") as caught:
        write_figure([run], tmp_path / "x.svg", kind="layers")
    assert "loss_fn" not in str(caught.value)


def test_a_run_without_measurements_is(blind, tmp_path):
    for kind in ("edge", "probability", "layers"):
        with pytest.raises(ValueError, match="give the monitor a loss_fn"):
            write_figure([blind], tmp_path / "x.svg", kind=kind)


@pytest.mark.parametrize("kind", ["overview", "layers", "spike"])
def test_what_shows_one_run_takes_one(spiky, blind, tmp_path, kind):
    assert kind in KINDS
    with pytest.raises(ValueError, match=f"'{kind}' is a figure of one run, 2 were passed"):
        write_figure([spiky, blind], tmp_path / "x.svg", kind=kind)


def reason(run, kind, tmp_path):
    with pytest.raises(ValueError, match=r"has no|nothing") as caught:
        write_figure([run], tmp_path / "x.svg", kind=kind)
    return str(caught.value)


def test_a_log_with_curvature_is_never_asked_for_a_loss_fn(log, tmp_path):
    steps = [("step", {"step": step, "loss": 1.0}) for step in range(3)]
    measured = ("curvature", {"step": 0, "stability_ratio": 0.5})
    forecast = ("forecast", {"step": 0, "stability_ratio": 0.5})
    assert reason(log(*steps, measured), "probability", tmp_path).endswith(
        "has no values for 'probability': it has 1 measurement of the curvature, but no forecasts; draw the "
        "curvature itself with --kind edge"
    )
    old = reason(log(*steps, measured, forecast), "probability", tmp_path)
    assert "its 1 forecast has no probability, as in logs of earlier versions" in old
    assert reason(log(*steps, measured), "layers", tmp_path).endswith("of the curvature, but none by layer")
    lost = ("curvature", {"step": 0, "stability_ratio": math.nan})
    assert "no ratio that is finite and above zero" in reason(log(*steps, lost), "edge", tmp_path)
    failed = ("event", {"step": 0, "name": "probe failed", "message": "TypeError: 2 were given", "count": 3})
    for kind in ("probability", "edge", "layers"):
        words = "3 probes failed, none succeeded; the last said: TypeError: 2 were given"
        assert reason(log(*steps, failed), kind, tmp_path).endswith(words)


@pytest.mark.parametrize(
    ("value", "count", "words"),
    [
        (math.nan, 5, "none of the 5 values that were recorded is finite"),
        (0.0, 5, "none of the 5 values that were recorded is above zero"),
        (math.inf, 1, "its only value is not finite"),
    ],
)
def test_values_that_have_no_place_are_said_to_be_there(log, tmp_path, value, count, words):
    run = log(*(("step", {"step": step, "loss": value}) for step in range(count)))
    assert reason(run, "loss", tmp_path).endswith(words)


def test_a_close_up_of_a_run_that_was_never_finite_says_so(log, tmp_path):
    run = log(*(("step", {"step": step, "loss": math.nan}) for step in range(50)))
    assert reason(run, "spike", tmp_path).endswith("has no finite value near step 0 that could be drawn")
    assert "no finite loss" in text_of(write_figure([run], tmp_path / "overview.svg"))


def test_a_value_that_stands_alone_is_a_dot():
    axis = Figure().subplots()
    values = np.array([1.0, math.nan, 2.0, 3.0, math.nan, 4.0])
    draw_line(axis, np.arange(6), values, color="red", linewidth=1.0)
    draw_line(axis, np.arange(2), np.ones(2), color="blue")
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert [line.get_xdata().tolist() for line in dots] == [[0, 5]]
    assert dots[0].get_color() == "red"


def test_labels_around_a_single_value_are_few(log, tmp_path):
    run = log(("step", {"step": 7, "loss": 1.5}))
    words = text_of(write_figure([run], tmp_path / "x.svg", kind="loss")).splitlines()
    assert "7" in words
    assert not {"0.1", "10", "7.2"} & set(words)


@pytest.mark.parametrize("name", ["p.gif", "p", "p.jpeg", "figures/"])
def test_a_picture_of_another_format_is_refused_before_it_is_drawn(blind, tmp_path, name):
    words = r"must end in \.pdf, \.svg or \.png: these are the formats of a picture"
    for draw in (write_figure, lambda runs, path: write_picture(runs[0], path)):
        with pytest.raises(ValueError, match=words):
            draw([blind], f"{tmp_path}/{name}")
    assert not list(tmp_path.glob("p*"))


def test_the_format_is_that_of_the_name_in_any_case(blind, tmp_path):
    assert write_figure([blind], tmp_path / "P.SVG", kind="loss").read_text().startswith("<?xml")
