"""Probes of a model in training: one backend for all, and each starts from the result of the last one.

Two types: of the curvature of a batch, by Hessian products, and of its noise, by the gradients of its parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from foreshock.batches import MicroBatches
from foreshock.curvature.measurement import LossFunction, loss_terms, part_terms
from foreshock.curvature.noise import NoiseReading, measure_noise
from foreshock.curvature.probe import CurvatureReading, ProbeMemory, ProbeSettings, probe_curvature
from foreshock.isolation import isolated
from foreshock.operators import BackendChoice, Evaluation, choose_backend
from foreshock.preconditioner import Preconditioner


class NoiseProber:
    """Measure the noise of batches again and again: each measurement continues the last one's direction."""

    def __init__(self) -> None:
        self._direction: Tensor | None = None

    def probe(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        parts: MicroBatches,
        preconditioner: Preconditioner,
        *,
        step: int,
        loss: float = math.nan,
        keep: Callable[[Evaluation], None] | None = None,
    ) -> NoiseReading:
        """Return the curvature along one direction, and how it differs between the parts of a batch.

        The model is left as it was. Cost: 2 F.

        Args:
            model: The model.
            loss_fn: ``loss_fn(model, batch)`` → mean loss, a scalar tensor.
            parts: Micro-batches, or the halves that `split_batch` makes of a batch.
            preconditioner: The step about to be taken.
            step: Its number, for the reading.
            loss: Loss of the whole batch, to compare with; NaN if unknown.
            keep: Called with the mean loss and gradient of the parts.

        Raises:
            Exception: Whatever the loss function raises.
        """
        terms = part_terms(model, loss_fn, parts)
        with isolated(model):
            reading, self._direction = measure_noise(
                terms,
                preconditioner,
                step=step,
                direction=self._direction,
                model=model,
                loss=loss,
                keep=keep,
            )
        return reading

    def state_dict(self) -> Tensor | None:
        """Return the direction that the next measurement continues, if there is one."""
        return None if self._direction is None else self._direction.clone()

    def load_state_dict(self, state: Tensor | None) -> None:
        """Continue from `state_dict()`."""
        self._direction = None if state is None else state.clone()


class Prober:
    """Measure the preconditioned curvature of a model in training, again and again.

    Args:
        model: The model.
        loss_fn: ``loss_fn(model, batch)`` → mean loss, a scalar tensor.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFunction) -> None:
        self._model = model
        self._loss_fn = loss_fn
        self._memory: ProbeMemory | None = None
        self._noise = NoiseProber()
        self._evaluation: Evaluation | None = None
        self.backend: BackendChoice | None = None

    @property
    def top_vector(self) -> Tensor | None:
        """Eigenvector of λ_max in the symmetric form, as of the last probe, shape (n,)."""
        return None if self._memory is None else self._memory.starts[0]

    def probe(self, batch: Any, preconditioner: Preconditioner, *, step: int) -> CurvatureReading:
        """Return the curvature for the step about to be taken; the model is left as it was.

        Cost: see `probe_curvature`; the first probe, and one after a failure, costs 10 to 16 F more to choose
        the backend.

        Args:
            batch: What `loss_fn` gets.
            preconditioner: The step about to be taken.
            step: Its number, for the reading.

        Raises:
            Exception: Whatever the loss function or a product raises. The next probe then chooses a backend
                again.
        """
        loss = loss_terms(self._model, self._loss_fn, batch)
        # Unset until the probe succeeds: the backend may be why one fails.
        chosen, self.backend = self.backend, None
        with isolated(self._model):
            if chosen is None:
                chosen = choose_backend(loss, preconditioner.parameters, model=self._model)
            settings = ProbeSettings(chosen, model=self._model)
            reading, memory = probe_curvature(
                loss, preconditioner, step=step, memory=self._memory, settings=settings
            )
        self._memory, self._evaluation = replace(memory, evaluation=None), memory.evaluation
        self.backend = chosen
        return reading

    def probe_noise(
        self, parts: MicroBatches, preconditioner: Preconditioner, *, step: int, loss: float
    ) -> NoiseReading:
        """Return the noise of a batch; see `NoiseProber.probe`.

        Args:
            parts: Micro-batches, or the halves that `split_batch` makes of a batch.
            preconditioner: The step about to be taken.
            step: Its number, for the reading.
            loss: Loss of the whole batch.
        """
        return self._noise.probe(
            self._model, self._loss_fn, parts, preconditioner, step=step, loss=loss, keep=self._keep
        )

    def take_evaluation(self) -> Evaluation | None:
        """Return loss and gradient of the batch that was probed last, once: they are not kept."""
        evaluation, self._evaluation = self._evaluation, None
        return evaluation

    def _keep(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation

    def state_dict(self) -> dict[str, Any]:
        """Return the vectors of the last probes, from which a resumed run starts warm."""
        direction = self._noise.state_dict()
        if self._memory is None:
            return {"starts": None, "gain": None, "direction": direction}
        starts = [start.clone() for start in self._memory.starts]
        return {"starts": starts, "gain": self._memory.gain, "direction": direction}

    def load_state_dict(self, state: Mapping[str, Any], *, size: int) -> None:
        """Continue from `state_dict()`.

        Args:
            state: What `state_dict` returned.
            size: Number of trained parameters of the present model.

        Raises:
            ValueError: If the state is of a model of another size.
        """
        starts, direction = state["starts"], state["direction"]
        for vector in (*(starts or ()), *(() if direction is None else (direction,))):
            if vector.numel() != size:
                raise ValueError(
                    f"the state is of a model with {vector.numel()} trained parameters, this one has {size}"
                )
        self._noise.load_state_dict(direction)
        self._memory = None
        if starts is not None:
            self._memory = ProbeMemory(tuple(start.clone() for start in starts), state["gain"])
