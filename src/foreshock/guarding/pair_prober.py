"""Pairs of half-batch gradients for a guard that has no monitor: when they are due, and what went wrong."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from foreshock.batches import BatchWatch
from foreshock.curvature import LossFunction, NoiseProber, NoiseReading
from foreshock.failures import Failures
from foreshock.forecast import NOISE_INTERVAL, noise_interval
from foreshock.guarding.parameters import all_parameters
from foreshock.preconditioner import read_preconditioner, unwrap
from foreshock.vectors import is_sharded

_LOGGER = logging.getLogger("foreshock")


class PairProber:
    """Measure pairs now and then; a failure is noted and harms nothing.

    Attributes:
        spent: Whether the last call of `measure` spent anything.
    """

    def __init__(self) -> None:
        self._prober = NoiseProber()
        self._batches = BatchWatch()
        self._failures = Failures("guard")
        self._calls = 0
        self._unsplit = ""  # why no batch could be split
        self.spent = False

    @property
    def asked(self) -> bool:
        """Whether `measure` was called."""
        return self._calls > 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be measured, and why."""
        same = self._batches.constant is True
        return (
            *self._failures.notes,
            *((self._unsplit,) if self._unsplit and self._prober.given_up else ()),
            *(("every step saw the same data: there was no noise to measure",) if same else ()),
        )

    def measure(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        optimizer: Optimizer,
        batch: Any,
        *,
        step: int,
        lag: float,
        gradient_scale: float,
        every: int = NOISE_INTERVAL,
    ) -> NoiseReading | None:
        """Return a reading if one is due and can be made.

        Args:
            model: The model.
            loss_fn: ``loss_fn(model, batch)`` → mean loss, a scalar tensor.
            optimizer: The optimizer, about to take a step.
            batch: What the loss function gets.
            step: Number of the step.
            lag: How far the second moment lags; NaN if that is not known.
            gradient_scale: What ``.grad`` still has to be divided by.
            every: Steps between two measurements while v lags, ≥ 1; five times as many otherwise.

        Raises:
            ValueError: If `every` is below one.
        """
        if not every >= 1:
            raise ValueError(f"every is {every!r}; at least one step lies between two measurements")
        self.spent = False
        self._see(batch)
        # What a batch was too short for is measured on the next one.
        if step % noise_interval(lag, every=every) and not self._prober.pending:
            return None
        if self._batches.constant is not False or self._failures.given_up:
            return None
        if not self._can_measure(optimizer):
            return None
        try:
            preconditioner = read_preconditioner(optimizer, gradient_scale=gradient_scale)
            if not preconditioner.largest_rate > 0:
                return None  # nothing moves: a schedule may begin at zero
            self.spent = True
            reading = self._prober.probe(
                model, loss_fn, batch, preconditioner, step=step, usual=self._batches.usual_examples
            )
        except Exception as error:  # noqa: BLE001 - a measurement must never end a training run
            self._failures.failed(f"a measurement of the noise failed at step {step}", error)
            return None
        self._failures.succeeded()
        self._say()
        self.spent = reading is not None
        return reading

    def _see(self, batch: Any) -> None:
        """Take a batch into account, and note it if batches can't be compared."""
        self._batches.see(batch)
        self._calls += 1
        if self._calls > 1 and self._batches.constant is None:
            self._failures.note(
                f"the noise of mini-batches can't be measured: no tensors were found in a batch of the type "
                f"{type(batch).__name__}: pass a tensor, or a sequence or mapping that has some"
            )

    def _can_measure(self, optimizer: Optimizer) -> bool:
        """Return whether parameters are whole and real, and say so if not."""
        parameters = all_parameters(unwrap(optimizer))
        kind = "sharded" if is_sharded(parameters) else ""
        kind = kind or ("complex" if any(one.is_complex() for one in parameters) else "")
        if kind:
            self._failures.note(f"the noise of mini-batches is not measured where parameters are {kind}")
        return not kind

    def _say(self) -> None:
        """Log what is new about the batches and their halves."""
        for remark in self._prober.take_remarks():
            _LOGGER.log(logging.WARNING if remark.warning else logging.INFO, "guard: %s", remark.message)
            if remark.name == "no noise":
                self._unsplit = remark.message
            elif remark.warning:
                self._failures.note(remark.message)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {
            "noise": self._prober.state_dict(),
            "batches": self._batches.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        # Earlier versions kept the direction alone.
        self._prober.load_state_dict(
            state["noise"] if "noise" in state else {"direction": state["direction"]}
        )
        self._batches.load_state_dict(state["batches"])
