"""The charts of the page: which columns of a run each draws, and how."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from foreshock.forecast import NOISY_EDGE
from foreshock.report.captions import CAPTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

COLUMNS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "step": ("loss", "gradient_norm", "learning_rate", "instant_lag", "decay_exponent"),
        "forecast": ("probability", "typical_mean_square_ratio", "lag"),
        "curvature": ("alignment", "gradient_stability_ratio", "update_stability_ratio"),
        "ratio": ("stability_ratio",),
    }
)
"""Columns that are followed, by kind of record; those of ``ratio`` come from forecasts and measurements."""


@dataclass(frozen=True)
class ChartStyle:
    """One chart.

    Attributes:
        name: Its key, that of its title and caption.
        kind: Whose columns it draws, a key of `COLUMNS`.
        lines: Label, role (which decides the colour) and column of each line.
        log: Whether its axis is logarithmic where all values are positive.
        threshold: Value of a horizontal line; None for no line.
        edge: What the line is called.
        limits: Ends of its axis; None to follow the values in view.
    """

    name: str
    kind: str
    lines: tuple[tuple[str, str, str], ...]
    log: bool = False
    threshold: float | None = None
    edge: str = ""
    limits: tuple[float, float] | None = None

    def to_mapping(self) -> dict[str, Any]:
        """Return what the page needs to draw it: plain JSON values."""
        words = CAPTIONS[self.name]
        return {
            "id": self.name,
            **words,
            "lines": [{"label": label, "role": role} for label, role, _ in self.lines],
            "log": self.log,
            "threshold": self.threshold,
            "edge": self.edge,
            "limits": self.limits,
        }


CHARTS: tuple[ChartStyle, ...] = (
    ChartStyle("loss", "step", (("loss", "loss", "loss"),), log=True),
    ChartStyle("probability", "forecast", (("probability", "forecast", "probability"),), limits=(0.0, 1.0)),
    ChartStyle(
        "ratio",
        "ratio",
        (("λ_max(Ĥ) ÷ (2/η)", "ratio", "stability_ratio"),),
        log=True,
        threshold=1.0,
        edge="edge 2/η",
    ),
    ChartStyle(
        "noise",
        "forecast",
        (
            ("typical mean-square ratio", "ratio", "typical_mean_square_ratio"),
            ("lag: v above g²", "lag", "lag"),
        ),
        log=True,
        threshold=NOISY_EDGE,
        edge="edge",
    ),
    ChartStyle("gradient-norm", "step", (("‖g‖", "gradient", "gradient_norm"),), log=True),
    ChartStyle("learning-rate", "step", (("η", "rate", "learning_rate"),)),
    ChartStyle("lag", "step", (("Σv̂ ÷ Σg²", "lag", "instant_lag"),), log=True, threshold=1.0),
    ChartStyle(
        "decay",
        "step",
        (("decay exponent", "decay", "decay_exponent"),),
        threshold=1.0,
        edge="pure decay",
        limits=(-2.0, 1.5),
    ),
    ChartStyle("alignment", "curvature", (("alignment", "alignment", "alignment"),), limits=(0.0, 1.0)),
    ChartStyle(
        "directions",
        "curvature",
        (
            ("along the gradient", "gradient", "gradient_stability_ratio"),
            ("along the update", "update", "update_stability_ratio"),
        ),
        threshold=1.0,
        edge="edge 2/η",
    ),
)
"""In the order of the page."""
