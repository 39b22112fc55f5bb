"""Pairs of half-batch gradients for a guard that has no monitor: when they are due, and what went wrong."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from torch import nn
from torch.optim import Optimizer

from foreshock.batches import BatchWatch
from foreshock.curvature import LossFunction, NoiseProber, NoiseReading
from foreshock.curvature.form import spread_over
from foreshock.distributed import ALONE, JointProbe, LeftOutError, Together, training_peers
from foreshock.failures import Failures
from foreshock.forecast import noise_interval
from foreshock.guarding.parameters import all_parameters
from foreshock.isolation import several_processes
from foreshock.preconditioner import moving_parameters, read_preconditioner, unwrap
from foreshock.vectors import is_sharded

_LOGGER = logging.getLogger("foreshock")
APART = (
    "where several processes train together, neither the noise of mini-batches nor λ_max is used unless all "
    "of them measure together: each would act on its own batch, so that their weights would drift apart; "
    "what follows from the gradients that they share is guarded. Give each process the same guard.measure() "
    "or Monitor, with the model that DistributedDataParallel or fully_shard returned"
)
MEANINGLESS = (
    "the loss of a batch is far from the mean of that of its halves, again and again: their noise is not "
    "acted on, and mini-batches are guarded by the rise of the gradient alone. If it is a mean over tokens "
    "or micro-batches, pass MicroBatches"
)
PAIR_INTERVAL = 20
"""Steps between two measurements near the edge, unless the user says otherwise."""


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
        self._company: Together | None = None
        self.spent = False

    @property
    def asked(self) -> bool:
        """Whether `measure` was called."""
        return self._calls > 0

    @property
    def meaningless(self) -> bool:
        """Whether what was measured is no noise of mini-batches, see `NoiseProber.meaningless`."""
        return self._prober.meaningless

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
        ratio: float,
        gradient_scale: float,
        every: int = PAIR_INTERVAL,
        able: bool = True,
    ) -> NoiseReading | None:
        """Return a reading if one is due and can be made.

        Args:
            model: The model.
            loss_fn: ``loss_fn(model, batch)`` → mean loss, a scalar tensor.
            optimizer: The optimizer, about to take a step.
            batch: What the loss function gets.
            step: Number of the step.
            lag: How far the second moment lags; NaN if that is not known.
            ratio: Mean-square ratio so far over that from which the policy acts; NaN where it is not known.
            gradient_scale: What ``.grad`` still has to be divided by.
            every: Steps between two measurements near the edge, ≥ 1, see `foreshock.forecast.noise_interval`.
            able: Whether this process can act; where it can't, none of several measures.

        Raises:
            ValueError: If `every` is below one.
        """
        if not every >= 1:
            raise ValueError(f"every is {every!r}; at least one step lies between two measurements")
        self.spent = False
        self._see(batch)
        waits = step % noise_interval(lag, every=every, ratio=ratio) != 0
        joint: JointProbe | None = None
        if several_processes():
            due = able and not waits and self._able(optimizer)
            joint = self._agreed(model, optimizer, step=step, every=every, due=due)
            if joint is None:
                return None
        # What a batch was too short for is measured on the next one.
        elif (waits and not self._prober.pending) or not self._able(optimizer):
            return None
        try:
            with nullcontext(ALONE) if joint is None else joint as together:
                preconditioner = spread_over(
                    read_preconditioner(optimizer, gradient_scale=gradient_scale), together
                )
                if not preconditioner.largest_rate > 0:
                    raise LeftOutError  # nothing moves: a schedule may begin at zero
                self.spent = True
                reading = self._prober.probe(
                    model,
                    loss_fn,
                    batch,
                    preconditioner,
                    step=step,
                    usual=self._batches.usual_examples,
                    joint=together,
                )
        except LeftOutError:
            return None
        except Exception as error:  # noqa: BLE001 - a measurement must never end a training run
            self._failures.failed(f"a measurement of the noise failed at step {step}", error)
            return None
        self._failures.succeeded()
        self._say()
        self.spent = reading is not None
        return None if self.meaningless else reading

    def close(self) -> None:
        """Take no more part in measurements of several processes, so that none waits for this one."""
        if self._company is not None:
            self._company.close()

    def _able(self, optimizer: Optimizer) -> bool:
        """Return whether this process can measure at all."""
        if self._batches.constant is not False or self._failures.given_up or self.meaningless:
            return False
        return self._can_measure(optimizer)

    def _agreed(
        self, model: nn.Module, optimizer: Optimizer, *, step: int, every: int, due: bool
    ) -> JointProbe | None:
        """Return the messages of a measurement that all processes make now; None if there is none.

        They meet at each multiple of `every`, whatever one of them knows, so that nobody waits for another.
        """
        if self._company is None:
            peers = training_peers(model)
            if peers is None:
                self._failures.note(APART)
                return None
            self._company = Together(
                peers, "guard", signature=f"every {every}", every=every, choices=("noise",)
            )
        company = self._company
        meets = company.meets(step)
        if company.alone:
            self._failures.note(f"{APART} ({company.alone})")
        if not meets:
            return None
        parameters = moving_parameters([optimizer])
        joint = company.probe(parameters) if due else None
        company.note(step, 0.0, self._batches.examples)
        meeting = company.meet(step, None if joint is None else "noise")
        if meeting is None or meeting.what is None or joint is None:
            return None
        joint.share = meeting.share
        return joint

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
        alone = is_sharded(parameters) and self._company is None
        kind = "sharded" if alone else "complex" if any(one.is_complex() for one in parameters) else ""
        if kind:
            self._failures.note(f"the noise of mini-batches is not measured where parameters are {kind}")
        return not kind

    def _say(self) -> None:
        """Log what is new about the batches and their halves."""
        for remark in self._prober.take_remarks():
            if remark.warning and remark.name != "no noise":
                self._failures.note(remark.message)  # which logs it
                continue
            _LOGGER.log(logging.WARNING if remark.warning else logging.INFO, "guard: %s", remark.message)
            if remark.name == "no noise":
                self._unsplit = remark.message

    def state_dict(self, *, vectors: bool = True) -> dict[str, Any]:
        """Return what a resumed run needs, with or without the direction of the last measurement."""
        return {
            "noise": self._prober.state_dict(vectors=vectors),
            "batches": self._batches.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        # Earlier versions kept the direction alone.
        self._prober.load_state_dict(
            state["noise"] if "noise" in state else {"direction": state["direction"]}
        )
        self._batches.load_state_dict(state["batches"])
