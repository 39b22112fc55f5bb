"""One recorded run: what was measured, at which steps, and what each measurement cost.

A rule or a forecast reads nothing but a trace, so that all of them see the same run. The columns are

=========================  =====================================================================
every step
------------------------------------------------------------------------------------------------
``loss``                   loss of the batch of this step
``gradient_norm``          ‖g‖
``update_norm``            ‖Δθ‖ of the step
``second_moment``          Σv̂
``lag_ratio``              Σg²/Σv̂, one over the instant lag
``decay_exponent``         log(Σv_t/Σv_{t−1})/log β₂
``preconditioned_square``  gᵀD⁻¹g
``linear_change``          gᵀΔθ of the step
``secant_ratio``           curvature along the last step from two batches' gradients; 1 is the edge
``learning_rate``          η
``update_rms``             largest RMS(g/√v̂) of a tensor
-------------------------  ---------------------------------------------------------------------
every few steps
------------------------------------------------------------------------------------------------
``stability_ratio``        λ_max(Ĥ)·η/2; ``stability_error`` is its error
``gradient_ratio``         gᵀĤg/‖g‖²·η/2
``update_ratio``           the same along the update, in the metric of D
``alignment``              |cos| of the preconditioned gradient and the top eigenvector
``predicted_change``       gᵀΔθ + ½ΔθᵀHΔθ
``sharpness``              λ_max(H)
``batch_sharpness``        gᵀHg/‖g‖² of the batch
``critical_rate``          least multiple of the present step at which the batch's loss is back at its
                           start; infinite if none was found
``kurtosis``               largest kurtosis of an activation
``trial_change``           L(θ+Δθ) − L(θ) on the batch of the step; ``trial_linear`` is gᵀΔθ
-------------------------  ---------------------------------------------------------------------
mini-batches, from two half-batches, h₁ and h₂ their curvature times a unit vector w; the edge of
the full-batch mean is one
------------------------------------------------------------------------------------------------
``pair_mean``              wᵀ(h₁ + h₂)/2
``pair_square``            ‖h₁ − h₂‖²/4
``pair_along``             (wᵀ(h₁ − h₂))²/4
``noise_factor``           n/c: MSS = mean + noise_factor · square/mean
=========================  =====================================================================
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

META = (
    "name",
    "family",
    "seed",
    "split",
    "role",
    "kind",
    "language",
    "batch_size",
    "steps",
    "beta1",
    "beta2",
    "strides",
    "costs",
)
_CHOICES = {
    "split": ("development", "held-out", "test"),
    "role": ("spiky", "control"),
    "kind": ("full", "mini"),
}


@dataclass(frozen=True)
class Column:
    """One quantity at its own steps.

    Attributes:
        steps: Steps of the measurements, increasing, of shape (n,).
        values: The measurements, of shape (n,); NaN where one was tried and gave none.

    Raises:
        ValueError: If the shapes differ or the steps do not increase.
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Store both as arrays and check them."""
        object.__setattr__(self, "steps", np.asarray(self.steps, dtype=np.int64))
        object.__setattr__(self, "values", np.asarray(self.values, dtype=np.float64))
        if self.steps.ndim != 1 or self.steps.shape != self.values.shape:
            raise ValueError(
                f"steps have shape {self.steps.shape}, values {self.values.shape}; both must be (n,)"
            )
        if not (np.diff(self.steps) > 0).all():
            raise ValueError("steps must increase strictly; a resumed run is cut at its restart first")

    def held(self, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return, for each of `steps`, the last value at or before it; NaN before the first."""
        index = np.searchsorted(self.steps, steps, side="right") - 1
        padded = np.concatenate(([np.nan], self.values))
        return np.asarray(padded[index + 1])

    def until(self, step: int) -> Column:
        """Return the column as it was known after `step`."""
        count = int(np.searchsorted(self.steps, step, side="right"))
        return Column(self.steps[:count], self.values[:count])


@dataclass(frozen=True)
class Trace:
    """A run and all that was measured in it; the module's docstring lists the columns.

    Attributes:
        meta: ``name``, ``family``, ``seed``, ``split`` (development, held-out or test), ``role`` (spiky
            or control), ``kind`` (full or mini), ``language`` (whether the loss is cross-entropy on text),
            ``batch_size``, ``steps``, ``beta1``, ``beta2``, ``strides`` (steps between measurements) and
            ``costs`` (time of a measurement over that of one forward and backward pass, F); the last two
            by kind of measurement: probe, pair, sharpness, batch_sharpness, critical_rate, kurtosis, trial.
        columns: The measurements by name; ``loss`` is always there.

    Raises:
        ValueError: If an entry of `meta` or the loss is missing, or an entry is none of its choices.
    """

    meta: Mapping[str, Any]
    columns: Mapping[str, Column]

    def __post_init__(self) -> None:
        """Check what every reader relies on."""
        missing = [key for key in META if key not in self.meta]
        if missing:
            raise ValueError(f"meta lacks {', '.join(missing)}; a trace needs {', '.join(META)}")
        for key, choices in _CHOICES.items():
            if self.meta[key] not in choices:
                raise ValueError(f"{key} is {self.meta[key]!r}; it must be one of {', '.join(choices)}")
        if "loss" not in self.columns:
            raise ValueError("the trace has no loss; record it at every step")

    def column(self, name: str) -> Column:
        """Return a column; an empty one if it was not recorded, so that a rule on it has no score."""
        empty = Column(np.empty(0, dtype=np.int64), np.empty(0))
        return self.columns.get(name, empty)

    def until(self, step: int) -> Trace:
        """Return the trace as it was known after `step`: what a causal rule may use at that step."""
        return Trace(self.meta, {name: column.until(step) for name, column in self.columns.items()})

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a compressed ``.npz``, which is there whole or not at all; its folder is made if missing.

        Raises:
            ValueError: If the name of the file does not end in ``.npz``.
        """
        target = Path(path)
        if target.suffix != ".npz":
            raise ValueError(f"path is {str(target)!r}; a trace is saved as .npz")
        target.parent.mkdir(parents=True, exist_ok=True)
        arrays = {"meta": np.array(json.dumps(dict(self.meta)))}
        for name, column in self.columns.items():
            arrays[f"{name}.steps"], arrays[f"{name}.values"] = column.steps, column.values
        # By keyword, numpy takes any name but that of its own first parameter, "file".
        partial = target.with_name(f"partial-{os.getpid()}-{target.name}")
        np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]
        return partial.replace(target)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trace:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: If the file is no trace.
        """
        with np.load(path, allow_pickle=False) as arrays:
            if "meta" not in arrays:
                raise ValueError(f"{os.fspath(path)} has no meta; it was not written by Trace.save")
            names = [key.removesuffix(".steps") for key in arrays.files if key.endswith(".steps")]
            columns = {name: Column(arrays[f"{name}.steps"], arrays[f"{name}.values"]) for name in names}
            return cls(json.loads(str(arrays["meta"])), columns)
