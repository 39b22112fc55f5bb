"""Probes of a model in training: one backend for all, and each starts from the result of the last one.

Two types: of the curvature of a batch, by Hessian products, and of its noise, by the gradients of its parts.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from foreshock.batches import MicroBatches
from foreshock.curvature.followed import FollowedRatio, FollowedReading, refresh_curvature
from foreshock.curvature.measurement import LossFunction, loss_terms, part_terms
from foreshock.curvature.noise import NoiseReading, measure_noise
from foreshock.curvature.probe import CurvatureReading, ProbeMemory, ProbeSettings, probe_curvature
from foreshock.isolation import alone, isolated, plain_module
from foreshock.operators import BackendChoice, choose_backend
from foreshock.preconditioner import Preconditioner

_LOGGER = logging.getLogger("foreshock")


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

        Raises:
            Exception: Whatever the loss function raises.
        """
        model = plain_module(model)
        terms = part_terms(model, loss_fn, parts)
        with alone(model), isolated(model, loss_fn):
            reading, self._direction = measure_noise(
                terms, preconditioner, step=step, direction=self._direction, model=model, loss=loss
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
        self._model = plain_module(model)
        self._loss_fn = loss_fn
        self._memory: ProbeMemory | None = None
        self._noise = NoiseProber()
        self._followed: FollowedRatio | None = None
        self.backend: BackendChoice | None = None

    @property
    def top_vector(self) -> Tensor | None:
        """Eigenvector of λ_max in the symmetric form, as of the last probe, shape (n,)."""
        return None if self._memory is None else self._memory.starts[0]

    def probe(self, batch: Any, preconditioner: Preconditioner, *, step: int) -> CurvatureReading:
        """Return the curvature for the step about to be taken; the model is left as it was.

        Cost: see `probe_curvature`; the first probe, and one after a failure, also chooses the backend; see
        `choose_backend`.

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
        with alone(self._model), isolated(self._model, self._loss_fn):
            spent = 0.0
            if chosen is None:
                chosen = choose_backend(loss, preconditioner.parameters, model=self._model)
                spent = chosen.passes
            settings = ProbeSettings(chosen, model=self._model)
            reading, self._memory = probe_curvature(
                loss, preconditioner, step=step, memory=self._memory, settings=settings
            )
        self.backend = chosen
        self._follow(reading, self._memory.starts[0], preconditioner)
        return replace(reading, passes=reading.passes + spent)

    @property
    def measured(self) -> FollowedRatio | None:
        """The last measured stability ratio; None if there is none."""
        return self._followed

    @property
    def can_refresh(self) -> bool:
        """Whether there is an eigenvector to go on from, and a backend."""
        return self._followed is not None and self.backend is not None

    def refresh(self, batch: Any, preconditioner: Preconditioner, *, step: int) -> CurvatureReading:
        """Return the curvature along the last top eigenvector; see `refresh_curvature`.

        Args:
            batch: What `loss_fn` gets.
            preconditioner: The step about to be taken.
            step: Its number, for the reading.

        Raises:
            ValueError: If there is no eigenvector to go on from, or other parameters are trained by now.
            Exception: Whatever the loss function or the product raises.
        """
        direction = None if self._followed is None else self._followed.vector(preconditioner)
        chosen, memory = self.backend, self._memory
        if direction is None or chosen is None or memory is None:
            raise ValueError(
                "there is no eigenvector of these parameters to go on from: call `probe` before `refresh`"
            )
        self.backend = None  # unset until it succeeds, as in `probe`
        loss = loss_terms(self._model, self._loss_fn, batch)
        with alone(self._model), isolated(self._model, self._loss_fn):
            settings = ProbeSettings(chosen, model=self._model)
            reading, direction, found = refresh_curvature(
                loss, preconditioner, step=step, direction=direction, settings=settings, gain=memory.gain
            )
        self.backend = chosen
        starts = found.starts if reading.complete else (*found.starts, *memory.starts[1:])
        self._memory = ProbeMemory(starts, found.gain)
        self._follow(reading, direction, preconditioner)
        return reading

    def follow(self, preconditioner: Preconditioner) -> FollowedReading | None:
        """Return the last stability ratio with the present v and learning rate; None if there is none.

        No loss is evaluated; see `FollowedRatio`.

        Args:
            preconditioner: The step about to be taken.
        """
        return None if self._followed is None else self._followed.at(preconditioner)

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
        return self._noise.probe(self._model, self._loss_fn, parts, preconditioner, step=step, loss=loss)

    def _follow(self, reading: CurvatureReading, vector: Tensor, preconditioner: Preconditioner) -> None:
        self._followed = FollowedRatio.start(
            step=reading.step,
            ratio=reading.stability_ratio,
            relative_error=reading.relative_error,
            vector=vector,
            preconditioner=preconditioner,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the vectors of the last probes, from which a resumed run starts warm."""
        direction = self._noise.state_dict()
        if self._memory is None:
            return {"starts": None, "gain": None, "direction": direction, "followed": None}
        starts = [start.clone() for start in self._memory.starts]
        followed = self._followed
        saved = None if followed is None else vars(followed) | {"direction": followed.direction.clone()}
        return {
            "starts": starts,
            "gain": self._memory.gain,
            "direction": direction,
            "followed": saved,
        }

    def load_state_dict(self, state: Mapping[str, Any], *, size: int) -> None:
        """Continue from `state_dict()`.

        Where other parameters are trained, as after some were frozen or unfrozen, the vectors are dropped
        with a warning: the next probe starts without them, as the first one of a run does.

        Args:
            state: What `state_dict` returned.
            size: Number of trained parameters of the present model.
        """
        starts, direction, followed = state["starts"], state["direction"], state.get("followed")
        vectors = (*(starts or ()), direction, None if followed is None else followed["direction"])
        misfits = {one.numel() for one in vectors if one is not None} - {size}
        if misfits:
            _LOGGER.warning(
                "the vectors of the last probes were dropped: they are of %d trained parameters, this model "
                "has %d; the next probe starts without them",
                max(misfits),
                size,
            )
            starts = direction = followed = None
        self._noise.load_state_dict(direction)
        self._memory = None
        if starts is not None:
            self._memory = ProbeMemory(tuple(start.clone() for start in starts), state["gain"])
        self._followed = None if followed is None else FollowedRatio(**followed)
