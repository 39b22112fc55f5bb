"""What can be done at an alarm, each entry changes an optimizer at once or before each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.guarding import guard


@dataclass(frozen=True)
class Fork:
    """A training that was cut at an alarm and goes on under a measure.

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
class Measure:
    """One measure.

    Attributes:
        label: What it does, in a few words.
        begin: Called once at the fork; returns what to call before each step, or None.
    """

    label: str
    begin: Callable[[Fork], BeforeStep | None]


def change(**options: float | tuple[float, float]) -> Callable[[Fork], None]:
    """Return a measure that sets options of all parameter groups for good.

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


def scale_rate(factor: float, *, steps: float = math.inf) -> Callable[[Fork], BeforeStep]:
    """Return a measure that multiplies η for some steps.

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


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "none": Measure("nothing", _nothing),
        "beta2-0.9": Measure("β₂ → 0.9", change(beta2=0.9)),
        "beta2-0.99": Measure("β₂ → 0.99", change(beta2=0.99)),
        "epsilon-0.1": Measure("ε → 0.1", change(eps=0.1)),
        "epsilon-1e-3": Measure("ε → 10⁻³", change(eps=1e-3)),
        "rate-half": Measure("η ÷ 2 for good", scale_rate(0.5)),
        "rate-half-100": Measure("η ÷ 2 for 100 steps", scale_rate(0.5, steps=100)),
        "hold-v": Measure("v ← max(v, g²) each step", hold_up_v),
        "clip": Measure("clip ‖g‖ to its median", clip),
        "amsgrad": Measure("AMSGrad from here on", amsgrad),
        "guard": Measure("secant guard", _guard),
    }
)
"""All measures by name; doing nothing comes first."""
