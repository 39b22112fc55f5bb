"""What is measured at one step of a recorded run: Foreshock's own quantities and those of other rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.batches import split_batch
from foreshock.curvature import LossFunction, Prober, loss_terms, measure_noise, part_terms
from foreshock.dynamics import second_moment_lag
from foreshock.eigen import StoppingRule, largest_eigenvalue
from foreshock.isolation import isolated
from foreshock.operators import BackendChoice, choose_backend, displaced, hessian_operator
from foreshock.preconditioner import read_preconditioner, read_second_moment_sums
from foreshock.vectors import rayleigh_quotient, reciprocal

# Multiples of the present step that the search for the critical rate covers, and halvings of the bracket:
# 3 in the logarithm leave a bracket of a factor 2^(1/8), 9 %.
_MOST_MULTIPLE = 64.0
_BISECTIONS = 3


class Measurements:
    """Measure one run, step by step; the model is left as it was each time.

    Args:
        model: The model.
        loss_fn: ``loss_fn(model, batch)`` → mean loss, a scalar tensor.
        optimizer: Its optimizer.

    Attributes:
        passes: What was spent so far, in forward and backward passes of the batch (F): a forward pass counts
            1/3, the graph of a Hessian 3, a product 2.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFunction, optimizer: Optimizer) -> None:
        self._model, self._loss_fn, self._optimizer = model, loss_fn, optimizer
        self._prober = Prober(model, loss_fn)
        self._direction: Tensor | None = None
        self._raw_starts: tuple[Tensor, ...] = ()
        self._backend: BackendChoice | None = None
        self._last: tuple[Tensor, float] | None = None
        self.passes = 0.0
        self._by_name: dict[str, Callable[[], Mapping[str, float]]] = {
            "probe": self._probe,
            "pair": self._pair,
            "sharpness": self._sharpness,
            "batch_sharpness": self._batch_sharpness,
            "critical_rate": self._critical_rate,
            "kurtosis": self._kurtosis,
            "trial": self._trial,
        }

    def begin(self, step: int, batch: Any, loss: float) -> None:
        """Look at the step about to be taken, between ``backward()`` and ``step()``."""
        self._step, self._batch, self._loss = step, batch, loss
        self._preconditioner = read_preconditioner(self._optimizer)
        self._move = self._preconditioner.displacement()

    def measure(self, kind: str) -> Mapping[str, float]:
        """Return one measurement, by column; nothing where it overflows, or where no parameter moves.

        ``trial`` is to be called after ``step()``, all others before it.
        """
        # A run that diverges may have a finite loss, but gradients whose norm overflows.
        if not (self._preconditioner.largest_rate > 0 and self._preconditioner.gradient().norm().isfinite()):
            return {}
        try:
            with isolated(self._model):
                return self._by_name[kind]()
        except FloatingPointError:
            return {}

    def free(self) -> dict[str, float]:
        """Return the columns that need nothing but gradients and the optimizer's state."""
        preconditioner, move = self._preconditioner, self._move
        gradient = preconditioner.gradient()
        sums = read_second_moment_sums(self._optimizer)
        lag = second_moment_lag(sums)
        active = preconditioner.active
        squares = [(step.gradient**2 / step.denominator).sum() for step in active]
        relative = [(step.gradient / step.denominator).square().mean() for step in active]
        return {
            "gradient_norm": float(gradient.norm()),
            "update_norm": float(move.norm()),
            "second_moment": sum(part.corrected for part in sums),
            "lag_ratio": 1 / lag.instant_lag,
            "decay_exponent": lag.decay_exponent,
            "preconditioned_square": float(torch.stack(squares).sum()),
            "linear_change": float(gradient @ move),
            "secant_ratio": self._secant(gradient),
            "learning_rate": preconditioner.largest_rate,
            "update_rms": math.sqrt(float(torch.stack(relative).max())),
        }

    def _secant(self, gradient: Tensor) -> float:
        """Return Δgᵀd/(dᵀA⁻¹d) of the last displacement d; the two gradients are of two batches."""
        ratio = math.nan
        if self._last is not None:
            last, along = self._last
            root = self._preconditioner.scale_root()
            metric = float(last @ (last * reciprocal(root) ** 2))
            ratio = (float(gradient @ last) - along) / metric if metric > 0 else math.nan
        self._last = (self._move, float(gradient @ self._move))
        return ratio

    def _probe(self) -> Mapping[str, float]:
        reading = self._prober.probe(self._batch, self._preconditioner, step=self._step)
        self.passes += 3 + 2 * reading.products
        return {
            "stability_ratio": reading.stability_ratio,
            "stability_error": reading.error_bound,
            "gradient_ratio": reading.gradient_stability_ratio,
            "update_ratio": reading.update_stability_ratio,
            "alignment": reading.alignment,
            "predicted_change": reading.predicted_loss_change,
            "excess_loss": reading.excess_loss,
            "products": reading.products,
        }

    def _pair(self) -> Mapping[str, float]:
        parts = part_terms(self._model, self._loss_fn, split_batch(self._batch))
        try:
            reading, self._direction = measure_noise(
                parts,
                self._preconditioner,
                step=self._step,
                direction=self._direction,
                model=self._model,
                loss=self._loss,
            )
        except ValueError:
            return {}  # A run that has diverged may have no gradient left where v is not in the way.
        self.passes += 2
        return {
            "pair_mean": reading.mean,
            "pair_square": reading.variance,
            "pair_along": reading.variance_along,
            "noise_factor": reading.noise_factor,
            "gradient_signal": reading.gradient_signal,
            "gradient_noise": reading.gradient_noise,
            "loss_mismatch": reading.loss_mismatch,
        }

    def _sharpness(self) -> Mapping[str, float]:
        with self._hessian() as hessian:
            starts = (*self._raw_starts, self._preconditioner.gradient())
            top = largest_eigenvalue(hessian, starts, StoppingRule(relative_tolerance=0.02))
        self._raw_starts = top.starts
        self.passes += 3 + 2 * top.products
        return {"sharpness": top.value}

    def _batch_sharpness(self) -> Mapping[str, float]:
        gradient = self._preconditioner.gradient()
        self.passes += 5
        with self._hessian() as hessian:
            return {"batch_sharpness": rayleigh_quotient(gradient, hessian(gradient))}

    def _critical_rate(self) -> Mapping[str, float]:
        """Search outwards by doubling, then bisect in the logarithm."""
        multiple, low, high = 1.0, 0.0, math.inf
        while 1 / _MOST_MULTIPLE <= multiple <= _MOST_MULTIPLE:
            if self._loss_at(multiple) > self._loss:
                high = multiple
                multiple /= 2
            else:
                low = multiple
                multiple *= 2
            if low and high < math.inf:
                break
        if not low or high == math.inf:
            return {"critical_rate": math.inf if low else 1 / _MOST_MULTIPLE}
        for _ in range(_BISECTIONS):
            middle = math.sqrt(low * high)
            if self._loss_at(middle) > self._loss:
                high = middle
            else:
                low = middle
        return {"critical_rate": math.sqrt(low * high)}

    def _kurtosis(self) -> Mapping[str, float]:
        found: list[Tensor] = []

        def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.numel() > 1:
                deviation = output - output.mean()
                found.append((deviation**4).mean() / (deviation**2).mean() ** 2)

        leaves = [module for module in self._model.modules() if not list(module.children())]
        hooks = [module.register_forward_hook(look) for module in leaves]
        try:
            self._evaluate()
        finally:
            for hook in hooks:
                hook.remove()
        return {"kurtosis": torch.stack(found).max().item() if found else math.nan}

    def _trial(self) -> Mapping[str, float]:
        return {"trial_change": self._evaluate() - self._loss}

    def _hessian(self) -> Any:
        parameters = self._preconditioner.parameters
        loss = loss_terms(self._model, self._loss_fn, self._batch)
        if self._backend is None:
            self._backend = choose_backend(loss, parameters, model=self._model)
        return hessian_operator(self._backend, loss, parameters, model=self._model)

    def _loss_at(self, multiple: float) -> float:
        with displaced(self._preconditioner.parameters, self._move, by=multiple):
            return self._evaluate()

    def _evaluate(self) -> float:
        self.passes += 1 / 3
        # With grad: the loss may itself be made of derivatives, as that of a physics-informed network.
        loss = self._loss_fn(self._model, self._batch).item()
        return math.inf if math.isnan(loss) else loss
