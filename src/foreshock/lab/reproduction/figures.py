"""Figures of the experiments, in the manner of the paper's, made of what a run kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.lab.reproduction.curvatures import MOMENTS, SPECTRA
from foreshock.lab.reproduction.recording import TRACE
from foreshock.lab.spikebench.trace import Trace
from foreshock.report.appearance import AMBER, BLUE, GREEN, GRID, INK, PURPLE, QUIET, RED, SOFT, dress, label
from foreshock.report.drawing import figure_class, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


DOTS_PER_INCH = 110
_LOWEST_DENSITY = 1e-6
_BELOW, _ABOVE = 0.3, 4.0


def captions(name: str, *, spectra: bool = True) -> dict[str, str]:
    """Return the captions of the figures of one experiment, by file name.

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
    """Draw the figures of a recorded training.

    Args:
        folder: Folder of the run.
        target: Folder of the figures.
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


QUADRATIC_CAPTIONS = {
    "quadratic-cycle.png": "Adam and gradient descent on ½θ²; λ_max(Ĥ) against 2/η; v against g²",
    "quadratic-phases.png": "Steps between spikes over β₁ and β₂; grey: none",
}
_CYCLE_STEPS = 1500


def draw_quadratic(folder: Path, target: Path) -> list[Path]:
    """Draw both figures.

    Args:
        folder: Folder of the run.
        target: Folder of the figures.
    """
    with np.load(folder / "quadratic.npz") as arrays:
        found = dict(arrays)
    names = list(QUADRATIC_CAPTIONS)
    return [_cycle(found, target / names[0]), _phases(found, target / names[1])]


def _cycle(found: dict[str, np.ndarray], path: Path) -> Path:
    figure = figure_class()(figsize=(7.5, 5.4), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    axes[0].plot(found["adam"][:_CYCLE_STEPS], color=BLUE, linewidth=1.1, label="Adam")
    descent = found["descent"][:_CYCLE_STEPS]
    axes[0].plot(
        np.where(descent > -120, descent, np.nan), color=QUIET, linewidth=1.4, label="gradient descent"
    )
    axes[1].plot(found["ratio"][:_CYCLE_STEPS], color=PURPLE, linewidth=1.1)
    axes[1].axhline(1, color=RED, linewidth=0.9, linestyle="--")
    axes[2].plot(found["v"][:_CYCLE_STEPS], color=AMBER, linewidth=1.2, label="v")
    axes[2].plot(found["g"][:_CYCLE_STEPS], color=SOFT, linewidth=0.7, label="g²")
    for axis, text in zip(axes, ("log₁₀ loss", "λ_max(Ĥ)·η/2", "log₁₀"), strict=True):
        dress(axis)
        label(axis, y=text)
    axes[0].legend(frameon=False, fontsize=9, loc="lower left")
    axes[2].legend(frameon=False, fontsize=9, loc="lower left")
    label(axes[2], x="step", y="log₁₀")
    return save_figure(figure, path, dots_per_inch=DOTS_PER_INCH)


def _phases(found: dict[str, np.ndarray], path: Path) -> Path:
    figure = figure_class()(figsize=(5.6, 4.4), layout="constrained")
    axis = figure.subplots()
    shown = np.where(found["crossings"] >= 2, found["interval"], np.nan)
    axis.set_facecolor("#d8dde4")
    mesh = axis.pcolormesh(
        1 - found["beta2"], 1 - found["beta1"], np.log10(shown), cmap="viridis", rasterized=True
    )
    axis.set_xscale("log")
    axis.set_yscale("log")
    edge = np.array([10**-2.5, 1.0])
    axis.plot(edge, edge, color=RED, linewidth=1, linestyle="--", label="β₁ = β₂")
    axis.set_xlim(1, 10**-2.5)
    axis.set_ylim(1, 10**-2.5)
    bar = figure.colorbar(mesh, ax=axis)
    bar.set_label("log₁₀ steps between crossings", color=SOFT, fontsize=10)
    dress(axis, grid="both")
    axis.legend(frameon=False, fontsize=9, loc="lower right")
    label(axis, x="1 − β₂", y="1 − β₁")
    return save_figure(figure, path, dots_per_inch=DOTS_PER_INCH)


LLM_CAPTIONS = {
    "llm-memories.png": "Loss (blue) and Σv̂ (violet) of the language model for each β₂ (first seed)"
}


def draw_memories(folder: Path, target: Path) -> list[Path]:
    """Draw one panel for each β₂.

    Args:
        folder: Folder of one seed, with a folder for each β₂.
        target: Folder of the figure.
    """
    runs = sorted(folder.glob(f"*/{TRACE}"), key=lambda path: path.parent.name, reverse=True)
    figure = figure_class()(figsize=(8, 1.8 * len(runs) + 0.4), layout="constrained")
    axes = figure.subplots(len(runs), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axis, path in zip(axes, runs, strict=True):
        trace = Trace.load(path)
        loss, moment = trace.column("loss"), trace.column("second_moment")
        axis.plot(loss.steps, loss.values, color=BLUE, linewidth=0.8)
        axis.set_yscale("log")
        axis.set_title(f"β₂ = {trace.meta['beta2']:g}", loc="left", fontsize=10, color=INK)
        twin = axis.twinx()
        twin.plot(
            moment.steps, np.where(moment.values > 0, moment.values, np.nan), color=PURPLE, linewidth=0.7
        )
        twin.set_yscale("log")
        dress(axis)
        dress(twin, grid="x")
        label(axis, y="loss")
    label(axes[-1], x="step", y="loss")
    return [save_figure(figure, target / next(iter(LLM_CAPTIONS)), dots_per_inch=DOTS_PER_INCH)]


FORK_CAPTIONS = {
    "interventions-forks.png": "Loss after one alarm, relative to its level there; grey: nothing was done "
    "(first seed)"
}
_COLUMNS = 3


def draw_forks(folder: Path, target: Path) -> list[Path]:
    """Draw one small panel for each measure; nothing if no alarm was followed by a spike.

    Args:
        folder: Folder of one seed.
        target: Folder of the figure.
    """
    losses = json.loads((folder / "forks.json").read_text(encoding="utf-8"))["losses"]
    if not losses:
        return []
    (_, plain), *others = losses.items()
    rows = -(-len(others) // _COLUMNS)
    figure = figure_class()(figsize=(8, 1.45 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
    for axis, (name, values) in zip(axes, others, strict=False):
        axis.axhline(1, color=GRID, linewidth=0.8)
        axis.plot([float("nan") if v is None else v for v in plain], color=QUIET, linewidth=0.8)
        axis.plot([float("nan") if v is None else v for v in values], color=BLUE, linewidth=1.0)
        axis.set_yscale("log")
        axis.set_title(name, loc="left", fontsize=9, color=INK)
        dress(axis)
    for axis in axes[len(others) :]:
        axis.set_visible(False)
    figure.supxlabel("steps after the alarm", color=SOFT, fontsize=9)
    figure.supylabel("loss ÷ level at the alarm", color=SOFT, fontsize=9)
    return [save_figure(figure, target / next(iter(FORK_CAPTIONS)), dots_per_inch=DOTS_PER_INCH)]


_LINEAR_BELOW = 0.05  # per cent a step: pure decay of v at β₂ = 0.999

CAUSE_CAPTIONS = {
    "cause-growth.png": "Growth of ln λ_max(Ĥ) before each event, per cent a step (first seed): with only v "
    "moving, and with only the landscape moving"
}


def draw_causes(folder: Path, target: Path) -> list[Path]:
    """Draw two points for each event.

    Args:
        folder: Folder of one seed.
        target: Folder of the figure.
    """
    kept = json.loads((folder / "growths.json").read_text(encoding="utf-8"))
    figure = figure_class()(figsize=(8, 2.9), layout="constrained")
    axis = figure.subplots()
    for place, growths in enumerate(kept.values()):
        for part, colour, shift in (("preconditioner", AMBER, -0.1), ("landscape", BLUE, 0.1)):
            rates = [100 * growth[part] / growth["length"] for growth in growths]
            legend = {"preconditioner": "v", "landscape": "landscape"}[part] if place == 0 else None
            axis.scatter([place + shift] * len(rates), rates, s=22, color=colour, alpha=0.7, label=legend)
    axis.axhline(0, color=SOFT, linewidth=0.8)
    axis.set_yscale("symlog", linthresh=_LINEAR_BELOW)
    axis.set_xticks(range(len(kept)), list(kept))
    axis.legend(frameon=False, fontsize=9, loc="upper left")
    dress(axis)
    label(axis, y="growth, % a step")
    return [save_figure(figure, target / next(iter(CAUSE_CAPTIONS)), dots_per_inch=DOTS_PER_INCH)]
