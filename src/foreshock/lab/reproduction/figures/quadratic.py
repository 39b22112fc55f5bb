"""Pictures of the quadratic: gradient descent against Adam, and the phase diagram."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from foreshock.report.appearance import AMBER, BLUE, PURPLE, QUIET, RED, SOFT, dress, label
from foreshock.report.drawing import figure_class, save_figure

CAPTIONS = {
    "quadratic-cycle.png": "Adam and gradient descent on ½θ²; λ_max(Ĥ) against 2/η; v against g²",
    "quadratic-phases.png": "Steps between spikes over β₁ and β₂; grey: none",
}
DOTS_PER_INCH = 110
_SHOWN = 1500


def draw(folder: Path, target: Path) -> list[Path]:
    """Draw both pictures.

    Args:
        folder: Folder of the run.
        target: Folder of the pictures.
    """
    with np.load(folder / "quadratic.npz") as arrays:
        found = dict(arrays)
    names = list(CAPTIONS)
    return [_cycle(found, target / names[0]), _phases(found, target / names[1])]


def _cycle(found: dict[str, np.ndarray], path: Path) -> Path:
    figure = figure_class()(figsize=(7.5, 5.4), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    axes[0].plot(found["adam"][:_SHOWN], color=BLUE, linewidth=1.1, label="Adam")
    descent = found["descent"][:_SHOWN]
    axes[0].plot(
        np.where(descent > -120, descent, np.nan), color=QUIET, linewidth=1.4, label="gradient descent"
    )
    axes[1].plot(found["ratio"][:_SHOWN], color=PURPLE, linewidth=1.1)
    axes[1].axhline(1, color=RED, linewidth=0.9, linestyle="--")
    axes[2].plot(found["v"][:_SHOWN], color=AMBER, linewidth=1.2, label="v")
    axes[2].plot(found["g"][:_SHOWN], color=SOFT, linewidth=0.7, label="g²")
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
