"""Growth of ln λ_max(Ĥ) before each event, split into the part of v and that of the landscape."""

from __future__ import annotations

import json
from pathlib import Path

from foreshock.lab.reproduction.figures.training import DOTS_PER_INCH
from foreshock.report.appearance import AMBER, BLUE, SOFT, dress, label
from foreshock.report.drawing import figure_class, save_figure

_LINEAR = 0.05  # per cent a step: pure decay of v at β₂ = 0.999

CAPTIONS = {
    "cause-growth.png": "Growth of ln λ_max(Ĥ) before each event, per cent a step (first seed): with only v "
    "moving, and with only the landscape moving"
}


def draw_causes(folder: Path, target: Path) -> list[Path]:
    """Draw two points for each event.

    Args:
        folder: Folder of one seed.
        target: Folder of the picture.
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
    axis.set_yscale("symlog", linthresh=_LINEAR)
    axis.set_xticks(range(len(kept)), list(kept))
    axis.legend(frameon=False, fontsize=9, loc="upper left")
    dress(axis)
    label(axis, y="growth, % a step")
    return [save_figure(figure, target / next(iter(CAPTIONS)), dots_per_inch=DOTS_PER_INCH)]
