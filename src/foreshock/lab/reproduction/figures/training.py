"""Pictures of one training: loss with the curvatures, v against g² of each block, alignment, spectra."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.lab.reproduction.recording import TRACE
from foreshock.lab.reproduction.spectra import MOMENTS, SPECTRA
from foreshock.lab.spikebench.trace import Trace
from foreshock.report.appearance import AMBER, BLUE, GREEN, INK, PURPLE, QUIET, RED, SOFT, dress, label
from foreshock.report.drawing import figure_class, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOTS_PER_INCH = 110
_LOWEST_DENSITY = 1e-6
_BELOW, _ABOVE = 0.3, 4.0


def captions(name: str, *, spectra: bool = True) -> dict[str, str]:
    """Return the captions of the pictures of one experiment, by file name.

    Args:
        name: Name of the experiment.
        spectra: Whether spectra are taken.
    """
    found = {
        f"{name}-loss.png": "Loss; λ_max(Ĥ) and the curvature along the gradient in multiples of 2/η, "
        "λ_max(H) relative to its median, and in mini-batches the mean-square ratio (green); alignment of "
        "the gradient with the top eigenvector (first seed)",
        f"{name}-moments.png": "Bias-corrected v and g², means over the largest tensors (first seed)",
    }
    if spectra:
        found[f"{name}-spectrum.png"] = "Spectrum of Ĥ in multiples of 2/η before, at and after a spike"
    return found


def draw_training(
    folder: Path, target: Path, name: str, *, first: int = 0, last: int | None = None
) -> list[Path]:
    """Draw the pictures of a recorded training.

    Args:
        folder: Folder of the run.
        target: Folder of the pictures.
        name: Name of the experiment.
        first: First step shown.
        last: Last step shown; None for the whole run.
    """
    trace = Trace.load(folder / TRACE)
    last = int(trace.column("loss").steps[-1]) if last is None else last
    drawn = [
        _losses(trace, target / f"{name}-loss.png", first, last),
        _moments(trace, target / f"{name}-moments.png", first, last),
    ]
    if (folder / SPECTRA).exists():
        drawn.append(_spectra(folder / SPECTRA, target / f"{name}-spectrum.png"))
    return drawn


def _losses(trace: Trace, path: Path, first: int, last: int) -> Path:
    figure = figure_class()(figsize=(8, 5.6), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True, height_ratios=(1.1, 1.3, 0.6))
    axes[0].plot(*_points(trace, "loss"), color=BLUE, linewidth=0.9)
    axes[0].set_yscale("log")
    _curvatures(axes[1], trace)
    axes[2].plot(*_points(trace, "alignment"), color=GREEN, **_style(trace))
    axes[2].set_ylim(0, 1.02)
    for axis, text in zip(axes, ("loss", "curvature·η/2", "alignment"), strict=True):
        dress(axis)
        label(axis, y=text)
    axes[2].set_xlim(first, last)
    label(axes[2], x="step", y="alignment")
    return save_figure(figure, path, dots_per_inch=DOTS_PER_INCH)


def _curvatures(axis: Axes, trace: Trace) -> None:
    steps, raw = _points(trace, "sharpness")
    if steps.size:
        # λ_max(H) has its own unit: it is drawn relative to its median, at the height of 0.5.
        axis.plot(
            steps, 0.5 * raw / np.nanmedian(raw), color=QUIET, linewidth=1.0, label="λ_max(H), relative"
        )
    axis.plot(*_points(trace, "gradient_ratio"), color=AMBER, linewidth=0.8, label="gᵀĤg/‖g‖²")
    axis.plot(*_points(trace, "mean_square_ratio"), color=GREEN, linewidth=0.8)
    axis.plot(*_points(trace, "stability_ratio"), color=PURPLE, label="λ_max(Ĥ)", **_style(trace))
    axis.axhline(1, color=RED, linewidth=0.9, linestyle="--")
    axis.set_yscale("log")
    axis.set_ylim(_BELOW / 10, _ABOVE)
    axis.legend(frameon=False, fontsize=8, loc="upper left", ncols=3)


def _style(trace: Trace) -> dict[str, Any]:
    """Return how λ_max and alignment are drawn: in mini-batches they are too few for a line."""
    if trace.meta["kind"] == "mini":
        return {"linestyle": "none", "marker": "o", "markersize": 3.5}
    return {"linewidth": 1.0}


def _moments(trace: Trace, path: Path, first: int, last: int) -> Path:
    names = [name.removeprefix("v:") for name in trace.columns if name.startswith("v:")]
    figure = figure_class()(figsize=(8, 1.5 * max(len(names), 1) + 0.5), layout="constrained")
    axes = figure.subplots(max(len(names), 1), 1, sharex=True, squeeze=False)[:, 0]
    for axis, name in zip(axes, names, strict=False):
        axis.plot(*_points(trace, f"g:{name}"), color=QUIET, linewidth=0.7, label="g²")
        steps, second = _points(trace, f"v:{name}")
        corrected = second / (1 - float(trace.meta["beta2"]) ** np.maximum(steps, 1))
        axis.plot(steps, corrected, color=AMBER, linewidth=1.2, label="v, bias-corrected")
        axis.set_yscale("log")
        axis.set_title(name, loc="left", fontsize=9, color=INK)
        dress(axis)
    axes[0].legend(frameon=False, fontsize=8, loc="upper right", ncols=2)
    axes[-1].set_xlim(first, last)
    label(axes[-1], x="step")
    return save_figure(figure, path, dots_per_inch=DOTS_PER_INCH)


def _spectra(source: Path, path: Path) -> Path:
    with np.load(source) as arrays:
        found = dict(arrays)
    figure = figure_class()(figsize=(8, 2.6), layout="constrained")
    axes = figure.subplots(1, len(MOMENTS), sharey=True)
    for axis, name in zip(axes, MOMENTS, strict=True):
        if f"{name}.grid" in found:
            density = np.maximum(found[f"{name}.density"], _LOWEST_DENSITY)
            axis.fill_between(
                found[f"{name}.grid"], _LOWEST_DENSITY, density, color=PURPLE, alpha=0.35, linewidth=0
            )
            axis.plot(found[f"{name}.grid"], density, color=PURPLE, linewidth=0.9)
            axis.set_title(f"{name}, step {int(found[f'{name}.step'])}", loc="left", fontsize=10, color=INK)
        axis.axvline(1, color=RED, linewidth=0.9, linestyle="--")
        axis.set_yscale("log")
        dress(axis)
        axis.set_xlabel("eigenvalue·η/2", color=SOFT, fontsize=9)
    label(axes[0], x="eigenvalue·η/2", y="density")
    return save_figure(figure, path, dots_per_inch=DOTS_PER_INCH)


def _points(trace: Trace, name: str) -> tuple[np.ndarray, np.ndarray]:
    column = trace.column(name)
    return column.steps, np.where(np.isfinite(column.values), column.values, np.nan)
