"""Cut a training at its alarms and continue it under each intervention, from the same state."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.guarding import guard
from foreshock.lab.reproduction.plan import Moment, Plan
from foreshock.lab.tasks import Step, Training

# Adam's first steps can lie above the edge while v is young; alarms count once the run has settled.
WARM_UP = 300
_REARMED = 0.99  # the ratio must fall below this before its next rise through one is another alarm


@dataclass(frozen=True)
class Cut:
    """The state of a training before a step.

    Attributes:
        step: The step.
        level: Median loss of the 20 steps before.
        gradient_norm: Median of ‖g‖ over the 100 steps before.
        model: State of the model.
        optimizer: State of the optimizer.
    """

    step: int
    level: float
    gradient_norm: float
    model: dict[str, Any]
    optimizer: dict[str, Any]


class AlarmCuts:
    """Keep a cut at every alarm: where λ_max(Ĥ) rises through 2/η.

    Args:
        start: First step that counts.

    Attributes:
        cuts: What was kept.
    """

    def __init__(self, *, start: int = WARM_UP) -> None:
        self.cuts: list[Cut] = []
        self._start, self._armed = start, True
        self._losses: deque[float] = deque(maxlen=20)
        self._norms: deque[float] = deque(maxlen=100)

    def __call__(self, moment: Moment) -> None:
        """Look at one step."""
        if moment.ratio >= 1 and self._armed and moment.step >= self._start:
            self._armed = False
            self.cuts.append(self._cut(moment))
        self._armed = self._armed or moment.ratio < _REARMED
        gradients = [p.grad for p in moment.model.parameters() if p.grad is not None]
        self._losses.append(moment.loss)
        self._norms.append(float(sum(gradient.square().sum() for gradient in gradients)) ** 0.5)

    def _cut(self, moment: Moment) -> Cut:
        return Cut(
            step=moment.step,
            level=float(np.median(self._losses)),
            gradient_norm=float(np.median(self._norms)),
            model=copy.deepcopy(moment.model.state_dict()),
            optimizer=copy.deepcopy(moment.optimizer.state_dict()),
        )


def continue_from(
    plan: Plan, seed: int, cut: Cut, intervention: Intervention, *, steps: int
) -> NDArray[np.float64]:
    """Continue a training from a cut under an intervention and return the losses.

    Args:
        plan: The training, full batch.
        seed: Its seed.
        cut: Where to start.
        intervention: What to do there.
        steps: Updates.

    Returns:
        Losses before each update, shape (steps,); NaN after one that is not finite.
    """
    training = Training(replace(plan, steps=steps), seed)
    training.model.load_state_dict(cut.model)
    training.optimizer.load_state_dict(copy.deepcopy(cut.optimizer))
    before = intervention.begin(Fork(training.model, training.optimizer, cut.gradient_norm))
    losses = np.full(steps, np.nan)

    def before_step(step: Step) -> None:
        losses[step.index] = step.loss
        if step.finite and before is not None:
            before(step.index)

    for _ in training.run(before_step=before_step):
        pass
    return losses


@dataclass(frozen=True)
class Fork:
    """A training that was cut at an alarm and continues under an intervention.

    Attributes:
        model: The model, its own copy.
        optimizer: Its optimizer, of its own too.
        gradient_norm: Median of ‖g‖ over the 100 steps before.
    """

    model: nn.Module
    optimizer: Optimizer
    gradient_norm: float


BeforeStep = Callable[[int], None]
"""Called with the number of steps since the fork, between ``backward()`` and ``step()``."""


@dataclass(frozen=True)
class Intervention:
    """One intervention at an alarm.

    Attributes:
        label: What it does, in a few words.
        begin: Called once at the fork; returns what to call before each step, or None.
    """

    label: str
    begin: Callable[[Fork], BeforeStep | None]


def change(**options: float | tuple[float, float]) -> Callable[[Fork], None]:
    """Return an intervention that sets options of all parameter groups for good.

    Args:
        **options: Options of `torch.optim.Adam`, or ``beta2``.
    """

    def begin(fork: Fork) -> None:
        for group in fork.optimizer.param_groups:
            for name, value in options.items():
                if name == "beta2":
                    group["betas"] = (group["betas"][0], value)
                else:
                    group[name] = value

    return begin


def shorten_memory(fork: Fork) -> None:
    """Set β₂ to 0.9, and v to what leaves v̂ as it is: the bias correction changes with β₂."""
    for group in fork.optimizer.param_groups:
        before, group["betas"] = group["betas"][1], (group["betas"][0], 0.9)
        for parameter in group["params"]:
            state = fork.optimizer.state[parameter]
            taken = float(state["step"])
            state["exp_avg_sq"].mul_((1 - 0.9**taken) / (1 - before**taken))


def scale_rate(factor: float, *, steps: float = math.inf) -> Callable[[Fork], BeforeStep]:
    """Return an intervention that multiplies η for some steps.

    Args:
        factor: What η is multiplied by.
        steps: For how long; for good by default.
    """

    def begin(fork: Fork) -> BeforeStep:
        rates = [group["lr"] for group in fork.optimizer.param_groups]

        def before(step: int) -> None:
            for group, rate in zip(fork.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * (factor if step < steps else 1.0)

        return before

    return begin


def clip(fork: Fork) -> BeforeStep:
    """Clip the norm of the gradient to its median before the alarm."""
    parameters = list(fork.model.parameters())

    def before(step: int) -> None:
        del step
        torch.nn.utils.clip_grad_norm_(parameters, fork.gradient_norm)

    return before


def hold_up_v(fork: Fork) -> BeforeStep:
    """Keep v at or above g², coordinate by coordinate."""

    def before(step: int) -> None:
        del step
        for gradient, state in _states(fork):
            state["exp_avg_sq"].copy_(torch.maximum(state["exp_avg_sq"], gradient.square()))

    return before


def amsgrad(fork: Fork) -> None:
    """Use the largest v from here on."""
    for group in fork.optimizer.param_groups:
        group["amsgrad"] = True
    for state in fork.optimizer.state.values():
        state["max_exp_avg_sq"] = state["exp_avg_sq"].clone()


def _guard(fork: Fork) -> None:
    guard(fork.optimizer, "secant")


def _nothing(fork: Fork) -> None:
    del fork


def _states(fork: Fork) -> list[tuple[Tensor, dict[str, Tensor]]]:
    return [
        (parameter.grad, fork.optimizer.state[parameter])
        for parameter in fork.model.parameters()
        if parameter.grad is not None and "exp_avg_sq" in fork.optimizer.state[parameter]
    ]


INTERVENTIONS: Mapping[str, Intervention] = MappingProxyType(
    {
        "none": Intervention("nothing", _nothing),
        "beta2-0.9": Intervention("β₂ → 0.9", change(beta2=0.9)),
        "beta2-0.9-kept": Intervention("β₂ → 0.9, v̂ as it is", shorten_memory),
        "beta2-0.99": Intervention("β₂ → 0.99", change(beta2=0.99)),
        "epsilon-0.1": Intervention("ε → 0.1", change(eps=0.1)),
        "epsilon-1e-3": Intervention("ε → 10⁻³", change(eps=1e-3)),
        "rate-half": Intervention("η ÷ 2 for good", scale_rate(0.5)),
        "rate-half-100": Intervention("η ÷ 2 for 100 steps", scale_rate(0.5, steps=100)),
        "hold-v": Intervention("v ← max(v, g²) each step", hold_up_v),
        "clip": Intervention("clip ‖g‖ to its median", clip),
        "amsgrad": Intervention("AMSGrad from here on", amsgrad),
        "guard": Intervention("secant guard", _guard),
    }
)
"""All interventions by name; doing nothing comes first."""
