"""The spectrum of the preconditioned Hessian before, at and after a spike, taken while a run goes on."""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path

import numpy as np

from foreshock.curvature import spectrum
from foreshock.lab.reproduction.plan import Moment

SPECTRA = "spectra.npz"
MOMENTS = ("before", "at", "after")
_BEFORE, _AFTER, _RISEN = 0.9, 0.97, 1.2
_POINTS, _SMOOTHING = 400, 0.008


class SpectrumWatch:
    """Keep three spectra around the first spike after some steps.

    ``before``: where the stability ratio first passes 0.9; ``at``: where the ratio is at or above one and
        the loss has
    left its level, 1.2 × the median of the 100 steps before; ``after``: where the ratio is below 0.97 again.

    Args:
        folder: Where the spectra are kept.
        probes: Random vectors.
        steps: Products from each.
        start: First step that counts.
    """

    def __init__(self, folder: Path, *, probes: int = 2, steps: int = 30, start: int = 100) -> None:
        self._folder, self._probes, self._steps, self._start = folder, probes, steps, start
        self._losses: deque[float] = deque(maxlen=100)
        self._found: dict[str, np.ndarray] = {}
        self._at: dict[str, int] = {}

    def __call__(self, moment: Moment) -> None:
        """Look at one step."""
        wanted = MOMENTS[len(self._at)] if len(self._at) < len(MOMENTS) else None
        if wanted is not None and moment.step >= self._start and self._reached(wanted, moment):
            self._take(wanted, moment)
        self._losses.append(moment.loss)

    def _reached(self, wanted: str, moment: Moment) -> bool:
        if math.isnan(moment.ratio):
            return False
        if wanted == "before":
            return _BEFORE <= moment.ratio < 1
        if wanted == "at":
            return moment.ratio >= 1 and moment.loss > _RISEN * float(np.median(self._losses))
        return moment.ratio < _AFTER

    def _take(self, name: str, moment: Moment) -> None:
        density = spectrum(
            moment.model,
            moment.loss_fn,
            moment.batch,
            optimizer=moment.optimizer,
            probes=self._probes,
            steps=self._steps,
        )
        width = _SMOOTHING * (density.upper - density.lower)
        grid = density.grid(width, _POINTS)
        self._at[name] = moment.step
        self._found[f"{name}.grid"], self._found[f"{name}.density"] = grid, density.density(grid, width)
        self._found[f"{name}.step"] = np.array(moment.step)
        if len(self._at) == len(MOMENTS):
            self.save()

    def save(self) -> None:
        """Write what was found."""
        self._folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(self._folder / SPECTRA, **self._found)  # type: ignore[arg-type]
