import math
import re
import sys

import pytest

from foreshock.report.picture import write_picture


def test_an_svg_is_written_the_same_each_time(spiky, tmp_path):
    first = write_picture(spiky, tmp_path / "new" / "a.svg").read_bytes()
    second = write_picture(spiky, tmp_path / "b.svg").read_bytes()
    assert first == second
    assert first.startswith(b"<?xml")


def test_a_png_is_twice_900_pixels_wide_on_white(spiky, tmp_path):
    image = pytest.importorskip("matplotlib.image")
    pixels = image.imread(write_picture(spiky, tmp_path / "a.png"))
    assert pixels.shape[1] == 1800
    assert (pixels[0] == 1).all()
    assert (pixels[..., :3].min(axis=2) < 0.5).any()


def test_without_curvature_no_ratio_is_drawn(spiky, blind, tmp_path):
    image = pytest.importorskip("matplotlib.image")
    both = image.imread(write_picture(spiky, tmp_path / "both.png"))
    loss = image.imread(write_picture(blind, tmp_path / "loss.png"))
    assert loss.shape[0] < 0.7 * both.shape[0]


@pytest.mark.parametrize("values", [[1.0] * 150 + [math.nan] * 20, [math.nan] * 9, [0.0]])
def test_a_diverged_run_is_drawn(log, tmp_path, values):
    run = log(
        *(("step", {"step": i, "loss": value}) for i, value in enumerate(values)),
        ("curvature", {"step": 5, "stability_ratio": -0.5}),
    )
    assert write_picture(run, tmp_path / "nan.png").stat().st_size > 0


def test_nothing_to_draw_is_refused(log, tmp_path):
    with pytest.raises(ValueError, match="no losses"):
        write_picture(log(), tmp_path / "x.png")


def test_missing_matplotlib_says_what_to_install(spiky, tmp_path, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=re.escape('pip install "foreshock[figures]"')):
        write_picture(spiky, tmp_path / "x.png")


def test_a_guard_a_schedule_and_losses_below_zero_are_drawn(log, tmp_path):
    rows = [
        {"step": i, "loss": -2.0 - 0.01 * i, "gradient_norm": 1.0 + i % 3, "learning_rate": 1e-3 / (1 + i)}
        for i in range(200)
    ]
    acted = [{"step": step, "policy": "auto", "remedy": "clip"} for step in (20, 21, 150)]
    plain = log(*(("step", row) for row in rows))
    without = write_picture(plain, tmp_path / "without.svg").read_text()
    guarded = log(*(("step", row) for row in rows), *(("guard", row) for row in acted))
    drawn = write_picture(guarded, tmp_path / "with.svg").read_text()
    assert drawn.count("#2e7d4f") > without.count("#2e7d4f") > 0  # the learning rate has the guard's green


def test_where_batches_differ_the_mean_square_ratio_is_drawn(log, tmp_path):
    image = pytest.importorskip("matplotlib.image")
    losses = [("step", {"step": i, "loss": 2.0}) for i in range(200)]
    forecasts = [
        ("forecast", {"step": i, "typical_mean_square_ratio": 0.3 + i / 400}) for i in range(0, 200, 10)
    ]
    loss = image.imread(write_picture(log(*losses), tmp_path / "loss.png"))
    both = image.imread(write_picture(log(*losses, *forecasts), tmp_path / "both.png"))
    assert loss.shape[0] < 0.7 * both.shape[0]
