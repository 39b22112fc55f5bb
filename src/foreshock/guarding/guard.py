"""The guard of one optimizer: attached to it by hooks, and idle until it must act."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.curvature import LossFunction
from foreshock.failures import Failures
from foreshock.guarding.engine import NOISY, Engine
from foreshock.guarding.pair_prober import APART, MEANINGLESS, PAIR_INTERVAL, PairProber
from foreshock.guarding.policies import Policy, share_of_threshold
from foreshock.guarding.record import ActionLog, GuardAction, GuardSummary, Tally
from foreshock.guarding.step_hooks import StepHooks, is_captured
from foreshock.isolation import kept_options, several_processes
from foreshock.preconditioner import unwrap

_LOGGER = logging.getLogger("foreshock")
_LONG_MEMORY = 0.99


class Guard:
    """Keep one optimizer from making loss spikes; made by `foreshock.guard`.

    On a step on which it does not act, training is bitwise what it would be without. What the guard remembers
    is in the guard and not in the optimizer, whose ``state_dict`` any plain optimizer can load.

    Args:
        optimizer: The optimizer.
        policy: When and how to act.
        on_action: Called with each `GuardAction`. What it raises ends the training step.
        max_actions: How many of the last actions to keep, ≥ 1.
        group: Process group to add sums up over, where plain tensors are parts of parameters (FSDP1, ZeRO).
        wait: Whether to wait at each step until the device has computed ‖g‖, see `foreshock.guard`.

    Attributes:
        policy: The policy.
        actions: The last actions, the oldest first: a sequence, ``guard.actions[-5:]`` are the last five.
        monitored: Whether a `Monitor` measures for it.

    Raises:
        TypeError: If the optimizer can't be guarded.
        ValueError: If `max_actions` is below one, or the optimizer has a guard already.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        policy: Policy,
        *,
        on_action: Callable[[GuardAction], None] | None = None,
        max_actions: int = 1000,
        group: Any = None,
        wait: bool = True,
    ) -> None:
        if not max_actions >= 1:
            raise ValueError(f"max_actions is {max_actions!r}; keep at least one action")
        self._engine = Engine(optimizer, policy, group=group, wait=wait)
        # In a loop that is compiled, the identities of gradients would be compiled anew at each step.
        untraced: Any = torch.compiler.disable
        self._take_norm = untraced(self._engine.clipped)
        self._optimizer, self.policy = optimizer, policy
        self.actions = ActionLog(max_actions)
        # What a copy is made with.
        self._arguments = {"on_action": on_action, "max_actions": max_actions, "group": group, "wait": wait}
        self._callbacks = [] if on_action is None else [on_action]
        self._tally = Tally(policy.name)
        self._prober = PairProber()
        self._failures = Failures("guard")
        self._has_curvature = self._has_forecast = False
        self.monitored = False
        self._hooks = StepHooks(
            optimizer,
            before=self._before_step,
            after=self._after_step,
            reading=self._engine.restore,
            replaced=self._engine.optimizer_loaded,
        )

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer that is guarded."""
        return self._optimizer

    @property
    def step(self) -> int:
        """Number of updates seen."""
        return self._engine.step

    @property
    def lag(self) -> float:
        """How far the second moment, without the guard's raises, is above g²; NaN before it is known."""
        return self._engine.memory.natural.lag

    @property
    def raised(self) -> float:
        """Σv over what it would be without the guard's raises, ≥ 1."""
        return self._engine.memory.natural.raised_share

    @property
    def mean_square_ratio(self) -> float:
        """Mean-square ratio from the pairs measured so far; NaN before the fifth."""
        return self._engine.memory.mean_square

    @property
    def share_of_threshold(self) -> float:
        """The mean-square ratio over that from which the policy acts; NaN before the fifth pair."""
        return share_of_threshold(self.policy, self._engine.memory.mean_square)

    def clipped(self, total_norm: Tensor | float, *, max_norm: float) -> None:
        """Report that the gradients of the coming step were clipped by their norm.

        The secant compares the gradients of two steps, which clipping falsifies; with this call it is undone.
        Call it after clipping: ‖g‖ is then known, and the guard doesn't compute it again on most steps. It
        does where this norm is not that of the gradients that it sees, as where some of the parameters were
        clipped, or where the gradients are changed afterwards; also in half precision and over several
        processes that share the parameters.

        Args:
            total_norm: The norm of ``.grad`` before clipping, as ``torch.nn.utils.clip_grad_norm_`` returns
                it. With ``wait=False`` a tensor is read one step later where that does. Where `group` adds up
                over processes, that of all of them.
            max_norm: What it was clipped to.

        Example:
            >>> from foreshock import guard
            >>> weight = torch.ones(2, requires_grad=True)
            >>> watched = guard(torch.optim.Adam([weight]))
            >>> weight.square().sum().backward()
            >>> watched.clipped(torch.nn.utils.clip_grad_norm_([weight], 1.0), max_norm=1.0)
        """
        self._take_norm(total_norm, max_norm=max_norm)

    def measure(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        batch: Any,
        *,
        every: int = PAIR_INTERVAL,
        gradient_scale: float = 1.0,
    ) -> bool:
        """Measure the noise of mini-batches, if that is due. Call it between ``backward()`` and ``step()``.

        Two gradients of each half of the batch, 2 F, every 20 steps while v lags and the mean-square ratio is
        above half of where the policy acts, every 40 below that, and every 100 below .3 of it or while v
        follows g²: 2/`every` F a step at most. Nothing where every step sees the same data, or where the
        policy needs no pairs. Training is left as it was.

        Behind DistributedDataParallel call it in every process, with the wrapped model: all measure at the
        same steps, and act on the same numbers. Elsewhere nothing is measured where several processes train
        together, because their weights would drift apart.

        Args:
            model: The model.
            loss_fn: ``loss_fn(model, batch)`` → mean loss, a scalar tensor.
            batch: The batch of this step; of an accumulation, `MicroBatches`.
            every: Steps between two measurements near the edge, ≥ 1; up to five times as many elsewhere.
                More steps cost less, and see the noise later.
            gradient_scale: What ``.grad`` still has to be divided by.

        Returns:
            Whether anything was spent.

        Raises:
            ValueError: If `every` is below one.
        """
        able = self._hooks.attached and not self._failures.given_up
        # Of several processes each comes to where they agree, also one that can't act.
        if "pairs" not in self.policy.needs or not (able or several_processes()):
            return False
        with kept_options([unwrap(self._optimizer)]):
            reading = self._prober.measure(
                model,
                loss_fn,
                self._optimizer,
                batch,
                step=self.step,
                lag=self.lag,
                ratio=self.share_of_threshold,
                gradient_scale=gradient_scale,
                every=every,
                able=able,
            )
        if reading is not None:
            self.record_noise(mean=reading.mean, variance=reading.variance, noise_factor=reading.noise_factor)
        elif self._prober.meaningless:
            self.forget_noise()
        return self._prober.spent  # also where it failed half-way

    def record_noise(self, *, mean: float, variance: float, noise_factor: float) -> None:
        """Take one pair into account that was measured elsewhere, as by a `Monitor`, for the coming step.

        Args:
            mean: μ, as a multiple of the full-batch edge (`NoiseReading`).
            variance: σ² in the same units.
            noise_factor: n/c of the optimizer's recursion.
        """
        self._engine.memory.record_noise(mean=mean, variance=variance, noise_factor=noise_factor)

    def forget_noise(self) -> None:
        """Forget all pairs so far and say so, because they turned out to be no noise of mini-batches."""
        self._engine.memory.forget_noise()
        self._failures.note(MEANINGLESS)

    def record_curvature(self, ratio: float, vector: Tensor) -> None:
        """Take the largest eigenvalue at the coming step into account, as measured by a `Monitor`.

        Args:
            ratio: Stability ratio.
            vector: Its eigenvector of the symmetric form, shape (n,), in the order of the trained parameters.
        """
        self._has_curvature = True
        self._engine.curvature = (ratio, vector)

    def record_forecast(self, probability: float) -> None:
        """Take a forecast at the coming step into account, of a `Monitor` of a run in mini-batches.

        Args:
            probability: That a spike begins within fifty steps, in [0, 1]; NaN if unknown.

        Raises:
            ValueError: If it is no probability.
        """
        if not (math.isnan(probability) or 0 <= probability <= 1):
            raise ValueError(f"probability is {probability!r}; it lies between 0 and 1, or is NaN if unknown")
        self._has_forecast = True
        self._engine.probability = probability

    def add_callback(self, callback: Callable[[GuardAction], None]) -> None:
        """Call a further function with each action.

        Args:
            callback: The function. What it raises ends the training step.
        """
        self._callbacks.append(callback)

    def summary(self) -> GuardSummary:
        """Return what the guard did so far; ``str()`` of it is in words."""
        notes = (*self._failures.notes, *self._short_memory(), *self._prober.notes, *self._unmeasured())
        return self._tally.summary(self.step, notes)

    def _unmeasured(self) -> tuple[str, ...]:
        """Return what the policy needs and nobody measures."""
        if not self.step:
            return ()
        if several_processes():
            known = self._engine.memory.pairs or self._has_curvature or self._has_forecast
            needed = self.policy.needs & {"pairs", "curvature", "forecast"}
            return (APART,) if needed and not (known or self._prober.notes) else ()
        if self.policy.needs == {"forecast"} and not self._has_forecast:
            return (
                "no spike was forecast, so that nothing was guarded: pass the guard to a Monitor with a "
                "loss_fn, of a run in mini-batches, or take the policy 'auto', which guards others as well",
            )
        if self.monitored:
            return ()
        memory = self._engine.memory
        differs = memory.growth.settled and memory.growth.noise > NOISY
        if "pairs" in self.policy.needs and differs and not (self._prober.asked or memory.pairs):
            return (
                "the noise of mini-batches was not measured, so that they were guarded by the rise of the "
                "gradient alone, or not at all: call "
                "guard.measure(model, loss_fn, batch) between backward() and step(), or pass the guard to "
                "a Monitor",
            )
        if self.policy.needs == {"curvature"} and not self._has_curvature:
            return (
                "λ_max was never measured, so that nothing was guarded: pass the guard to a Monitor, or take "
                "the policy 'secant', which needs none",
            )
        return ()

    def _short_memory(self) -> tuple[str, ...]:
        beta2 = self._engine.memory.beta2
        if beta2 is None or beta2 >= _LONG_MEMORY or not self._tally.raised:
            return ()
        return (
            f"with β₂ = {beta2:g} v forgets within {round(1 / (1 - beta2))} steps what the guard gives back, "
            "which keeps few spikes away: a guard works best with β₂ = 0.999",
        )

    def detach(self) -> None:
        """Remove the hooks from the optimizer. Detaching twice is harmless."""
        self._hooks.remove()
        self._prober.close()
        self._engine.restore()

    def buffers(self) -> list[Tensor]:
        """Return the tensors that the guard holds between steps: one of each parameter's size at most."""
        return self._engine.buffers()

    def state_dict(self, *, vectors: bool = True) -> dict[str, Any]:
        """Return what a resumed run needs to go on with the same guard; the last actions are left out.

        Args:
            vectors: Whether to keep what is as long as the parameters, as the last displacement. Without it
                the state fits any number of processes, and the first step has no secant.
        """
        return {
            "engine": self._engine.state_dict(vectors=vectors),
            "tally": self._tally.state_dict(),
            "prober": self._prober.state_dict(vectors=vectors),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()` of a guard of the same policy on the same optimizer.

        Of an optimizer with other parameters, as where layers are unfrozen step by step, the last
        displacement is dropped, and `summary` says so: the first step then has no secant.

        Args:
            state: What `state_dict` returned.

        Raises:
            ValueError: If it is of another policy.
        """
        # The engine first: it refuses a state of another policy before anything is changed.
        misfit = self._engine.load_state_dict(state["engine"])
        if misfit:
            self._failures.note(f"the last displacement of the guard's state was dropped: {misfit}")
        self._tally.load_state_dict(state["tally"])
        self._prober.load_state_dict(state["prober"])

    def __reduce__(self) -> tuple[Any, ...]:
        """Say how to copy or pickle a guard: with its optimizer, on which the copy has hooks of its own.

        Callbacks that were added later, as by a `Monitor`, belong to whoever added them, and stay behind.
        """
        attached = self._hooks.attached
        state = self.state_dict()
        return _copied, (self._optimizer, self.policy, self._arguments, attached, state, list(self.actions))

    def __repr__(self) -> str:
        """Return what is guarded and how, and what was done."""
        name = type(unwrap(self._optimizer)).__name__
        return f"<Guard {self.policy.name!r} of {name}: {self.step} steps, {self.actions.describe()}>"

    def __enter__(self) -> Self:
        """Return the guard itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Detach from the optimizer."""
        self.detach()

    @torch.no_grad()
    def _before_step(self) -> None:
        # Also after giving up, options that were changed for good stay so: a learning rate that was lowered
        # must not jump back.
        if self._failures.given_up or is_captured():
            self._engine.skip()
            return
        try:
            actions = self._engine.before()
        except Exception as error:  # noqa: BLE001 - a guard must never end a training run
            self._failures.failed(f"the guard failed at step {self.step}", error)
            self._engine.skip()
            return
        try:
            self._report(actions)
        except BaseException:  # of a callback: the step is not made, and nothing may stay changed for it
            self._engine.restore()
            raise

    @torch.no_grad()
    def _after_step(self) -> None:
        try:
            self._engine.after()
        except Exception as error:  # noqa: BLE001 - a guard must never end a training run
            # The engine has counted the step already.
            self._failures.failed(f"the guard failed after step {self.step - 1}", error)
            self._engine.drop()
        else:
            if self._failures.in_a_row and not self._engine.skipped:
                self._failures.succeeded()

    def _report(self, actions: Sequence[GuardAction]) -> None:
        for action in actions:
            # Recorded before its callbacks run: one that raises must not hide what was done.
            self.actions.append(action)
            self._tally.add(action)
            if action.remedy == "cooldown" and self._tally.cooldowns == 1:  # the summary says how often
                _LOGGER.warning("guard: %s", action.reason)
            for callback in self._callbacks:
                callback(action)


def _copied(
    optimizer: Optimizer,
    policy: Policy,
    arguments: dict[str, Any],
    attached: bool,  # noqa: FBT001 - as pickle passes it
    state: dict[str, Any],
    actions: Sequence[GuardAction],
) -> Guard:
    own = getattr(optimizer, "guard", None)
    if isinstance(own, Guard):  # an optimizer of foreshock.optim was copied with its guard
        return own
    copied = Guard(optimizer, policy, **arguments)
    copied.load_state_dict(state)
    for action in actions:
        copied.actions.append(action)
    if not attached:
        copied.detach()
    return copied
