"""Figures of runs: each kind is drawn, alone or overlaid, and what can't be drawn says why."""

import re

import pytest

from foreshock.report import write_figure
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
