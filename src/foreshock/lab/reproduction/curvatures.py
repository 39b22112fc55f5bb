"""Curvature that the monitor does not measure: along a batch's gradient, by block, and whole spectra."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.curvature import LossFunction, loss_terms, spectrum
from foreshock.isolation import isolated
from foreshock.lab.reproduction.plan import Moment
from foreshock.operators import BackendChoice, PreconditionedOperator, choose_backend, hessian_operator
from foreshock.preconditioner import Preconditioner
from foreshock.vectors import rayleigh_quotient

SPECTRA = "spectra.npz"
MOMENTS = ("before", "at", "after")
_BEFORE, _AFTER, _RISEN = 0.9, 0.97, 1.2
# Points of the grid, and width of a line as a share of the spectrum: about three points.
_POINTS, _SMOOTHING = 400, 0.008

BLOCKS = 4
"""How many blocks are followed: the largest tensors."""


class BatchDirection:
    """Measure gᵀĤg/‖g‖²·η/2 on the batch of each step. Cost: 5 F.

    Args:
        model: The model.
        loss_fn: ``loss_fn(model, batch)`` → mean loss, a scalar tensor.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFunction) -> None:
        self._model, self._loss_fn = model, loss_fn
        self._backend: BackendChoice | None = None

    def measure(self, batch: Any, preconditioner: Preconditioner) -> float:
        """Return the ratio for the step about to be taken; one is the edge of the full batch.

        Args:
            batch: The batch of this step.
            preconditioner: The step.
        """
        gradient, root = preconditioner.gradient(), preconditioner.scale_root()
        with self._form(batch, preconditioner, root) as operator:
            return rayleigh_quotient(gradient, operator.curvature(gradient) * root**2)

    def image(self, batch: Any, preconditioner: Preconditioner, vector: Tensor) -> Tensor:
        """Return S·w, S the symmetric form of the preconditioned Hessian of a batch. Cost: 4 F.

        Args:
            batch: The batch.
            preconditioner: The step about to be taken.
            vector: w, of shape (n,).
        """
        with self._form(batch, preconditioner, preconditioner.scale_root()) as operator:
            return operator(vector)

    @contextmanager
    def _form(
        self, batch: Any, preconditioner: Preconditioner, root: Tensor
    ) -> Iterator[PreconditionedOperator]:
        loss, parameters = loss_terms(self._model, self._loss_fn, batch), preconditioner.parameters
        with isolated(self._model):
            if self._backend is None:
                self._backend = choose_backend(loss, parameters, model=self._model)
            with hessian_operator(self._backend, loss, parameters, model=self._model) as hessian:
                yield PreconditionedOperator(
                    hessian, root, shift=preconditioner.coupled_decay(), sign=preconditioner.sign
                )


def block_levels(model: nn.Module, optimizer: Optimizer) -> dict[str, float]:
    """Return the means of v and of g² over the largest tensors, between ``backward()`` and ``step()``.

    v is that before the step, without bias correction.

    Args:
        model: The model.
        optimizer: Adam or AdamW over its parameters.

    Returns:
        ``v:NAME`` and ``g:NAME`` for each tensor; nothing before the first step.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.grad is not None]
    largest = sorted(named, key=lambda pair: -pair[1].numel())[:BLOCKS]
    levels = {}
    with torch.no_grad():
        for name, parameter in largest:
            state = optimizer.state.get(parameter, {})
            if "exp_avg_sq" in state and parameter.grad is not None:
                levels[f"v:{name}"] = float(state["exp_avg_sq"].mean())
                levels[f"g:{name}"] = float(parameter.grad.square().mean())
    return levels


class SpectrumWatch:
    """Keep three spectra around the first spike after some steps.

    ``before``: where the stability ratio first passes 0.9; ``at``: where the ratio is at or above one and
    the loss has left its level, 1.2 × the median of the 100 steps before; ``after``: where the ratio is
    below 0.97 again.

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
