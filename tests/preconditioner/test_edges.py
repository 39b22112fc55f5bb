"""The edge of stability that each reader implies, against the real optimizer with D held still.

D stands still if the decay of the second moment is one but for rounding, and the gradients are tiny.
The optimizer is then a linear recursion. On ½λθ² with λ at 0.98 and 1.02 of the edge it must shrink
the deviation, and grow it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from foreshock.preconditioner import read_preconditioner

STEPS = 600
# β₂ᵗ must vanish for this β₂; float32 counts no further than 2²⁴, so that t stands still, as it may.
FROZEN, LATE = 1 - 1e-12, 1e14


@dataclass(frozen=True)
class Setting:
    """One optimizer whose D is frozen at a value other than one."""

    name: str
    cls: type[optim.Optimizer]
    options: Mapping[str, Any]
    state: Mapping[str, float] = field(default_factory=dict)
    shape: tuple[int, ...] = (1,)


def _adam(name: str, cls: type[optim.Optimizer], **options: Any) -> Setting:
    options = {"lr": 0.1, "betas": (0.9, FROZEN), "eps": 0.0} | options
    state = {"step": LATE, "exp_avg": 0.0, "exp_avg_sq": 4.0}
    state |= {"max_exp_avg_sq": 9.0} if options.get("amsgrad") else {}
    state |= {"mu_product": 0.0} if cls is optim.NAdam else {}
    return Setting(name, cls, options, state)


def _rmsprop(name: str, **options: Any) -> Setting:
    state = {"step": LATE, "square_avg": 4.0, "grad_avg": 0.5, "momentum_buffer": 0.0}
    return Setting(name, optim.RMSprop, {"lr": 0.1, "alpha": FROZEN} | options, state)


def _adafactor(name: str, shape: tuple[int, ...], **options: Any) -> Setting:
    # 1 − β₂ = t^τ = 1e-16, and ε₂ above RMS(θ) keeps the relative step at max(ε₂, RMS(θ))·η = .01.
    options = {"lr": 0.01, "beta2_decay": -8.0, "eps": (None, 1.0), "weight_decay": 0.0} | options
    moments = {"row_var": 4.0, "col_var": 4.0} if len(shape) > 1 else {"variance": 4.0}
    return Setting(name, optim.Adafactor, options, {"step": 100.0} | moments, shape)


def _sgd(name: str, **options: Any) -> Setting:
    return Setting(name, optim.SGD, {"lr": 0.1} | options)


DECOUPLED = {"weight_decay": 3.0, "decoupled_weight_decay": True}
SETTINGS = [
    _adam("adam", optim.Adam),
    _adam("adam-no-momentum", optim.Adam, betas=(0.0, FROZEN)),
    _adam("adam-l2", optim.Adam, weight_decay=3.0),
    _adam("adam-amsgrad", optim.Adam, amsgrad=True),
    _adam("adamw", optim.AdamW, weight_decay=3.0),
    _adam("nadam", optim.NAdam),
    _adam("nadam-slow-schedule", optim.NAdam, momentum_decay=1e-15),
    _adam("nadamw", optim.NAdam, **DECOUPLED),
    _adam("radam", optim.RAdam),
    _adam("radamw", optim.RAdam, **DECOUPLED),
    Setting(
        "radam-unrectified",
        optim.RAdam,
        # With β₂ = .6, ρ_t never exceeds 4: the adaptive part never comes.
        {"lr": 0.1, "betas": (0.9, 0.6)},
        {"step": 1000.0, "exp_avg": 0.0, "exp_avg_sq": 1.0},
    ),
    Setting(
        "adamax",
        optim.Adamax,
        {"lr": 0.1, "betas": (0.9, FROZEN)},
        {"step": LATE, "exp_avg": 0.0, "exp_inf": 2.0},
    ),
    _rmsprop("rmsprop"),
    _rmsprop("rmsprop-l2", weight_decay=3.0),
    _rmsprop("rmsprop-centered", centered=True),
    _rmsprop("rmsprop-momentum", momentum=0.9),
    _rmsprop("rmsprop-centered-momentum", centered=True, momentum=0.5),
    Setting("adagrad", optim.Adagrad, {"lr": 0.1}, {"step": 1.0, "sum": 4.0}),
    Setting("adagrad-lr-decay", optim.Adagrad, {"lr": 0.1, "lr_decay": 1e-14}, {"step": LATE, "sum": 4.0}),
    Setting(
        "adadelta",
        optim.Adadelta,
        {"lr": 0.1, "rho": FROZEN},
        {"step": LATE, "square_avg": 4.0, "acc_delta": 9.0},
    ),
    _adafactor("adafactor", (1,)),
    _adafactor("adafactor-matrix", (1, 1)),
    _adafactor("adafactor-decay", (1,), weight_decay=50.0),
    _sgd("sgd"),
    _sgd("sgd-l2", weight_decay=3.0),
    _sgd("sgd-momentum", momentum=0.9),
    _sgd("sgd-dampening", momentum=0.9, dampening=0.6),
    _sgd("sgd-nesterov", momentum=0.9, nesterov=True, weight_decay=1.0),
]


def prepared(setting: Setting) -> tuple[optim.Optimizer, nn.Parameter]:
    """Return the optimizer late in its life, and its parameter of 1e-12."""
    theta = nn.Parameter(torch.full(setting.shape, 1e-12, dtype=torch.float64))
    optimizer = setting.cls([theta], **setting.options)
    for name, value in setting.state.items():
        scalar = name in {"step", "mu_product"}
        filled: Tensor = torch.tensor(value) if scalar else torch.full_like(theta, value, requires_grad=False)
        optimizer.state[theta][name] = filled
    return optimizer, theta


def edge(optimizer: optim.Optimizer, theta: nn.Parameter) -> float:
    """Return the λ at which the reader says that the ratio is one; coupled decay adds to λ."""
    theta.grad = torch.zeros_like(theta)
    preconditioner = read_preconditioner(optimizer)
    decay = preconditioner.coupled_decay()
    return 1 / float(preconditioner.scale_root()) ** 2 - (0.0 if decay is None else float(decay))


def deviation(setting: Setting, fraction: float) -> float:
    """Return the deviation after many steps relative to the start; infinity once it has grown 1000-fold."""
    optimizer, theta = prepared(setting)
    curvature = fraction * edge(optimizer, theta)
    for _ in range(STEPS):
        theta.grad = curvature * theta.detach()
        optimizer.step()
        if not abs(float(theta.detach())) < 1e-9:
            # Further on, the gradient would move D.
            return math.inf
    return abs(float(theta.detach())) / 1e-12


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_ratio_of_one_divides_decay_from_growth(setting):
    assert deviation(setting, 0.98) < 1e-3
    assert deviation(setting, 1.02) == math.inf


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_frozen_state_stands_still(setting):
    optimizer, theta = prepared(setting)
    curvature = 1.02 * edge(optimizer, theta)
    before = read_preconditioner(optimizer).active[0].denominator
    for _ in range(20):
        theta.grad = curvature * theta.detach()
        optimizer.step()
    after = read_preconditioner(optimizer).active[0].denominator
    assert float(after) == pytest.approx(float(before), rel=1e-6)
    assert math.isfinite(float(theta.detach()))
