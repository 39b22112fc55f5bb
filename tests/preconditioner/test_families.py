"""Every reader against torch's own steps: what it says is about to happen is what happens."""

from __future__ import annotations

import pytest
import torch
from torch import nn, optim

from foreshock.preconditioner import read_preconditioner
from preconditioner.stepping import (
    largest_error,
    moving,
    parameters,
    predicted,
    same,
    set_gradients,
    snapshot,
)

L2, MAXIMIZE = {"weight_decay": 0.1}, {"maximize": True}
ADAM_LIKE = [
    {},
    L2,
    MAXIMIZE,
    L2 | MAXIMIZE,
    {"betas": (0.0, 0.9)},
    {"eps": 0.1},
    {"lr": torch.tensor(0.02, dtype=torch.float64)},
]
DECOUPLED = [L2 | {"decoupled_weight_decay": True}, L2 | MAXIMIZE | {"decoupled_weight_decay": True}]
VARIANTS = {
    optim.Adam: [*ADAM_LIKE, {"amsgrad": True}, L2 | {"amsgrad": True}],
    optim.AdamW: [*ADAM_LIKE, {"amsgrad": True}, L2 | {"amsgrad": True}],
    optim.NAdam: [*ADAM_LIKE, *DECOUPLED, {"momentum_decay": 0.3}],
    # ρ_t passes 5 at step 6 for both defaults and at step 9 for β₂ = .9.
    optim.RAdam: [*ADAM_LIKE, *DECOUPLED],
    optim.Adamax: ADAM_LIKE,
    optim.RMSprop: [
        {},
        L2,
        L2 | MAXIMIZE,
        {"centered": True},
        {"momentum": 0.8},
        L2 | {"centered": True, "momentum": 0.8, "alpha": 0.9, "eps": 0.01},
        {"lr": torch.tensor(0.02, dtype=torch.float64)},
    ],
    optim.Adagrad: [
        {},
        L2,
        L2 | MAXIMIZE,
        {"lr_decay": 0.3},
        {"initial_accumulator_value": 0.5, "eps": 0.01},
        {"lr": torch.tensor(0.02, dtype=torch.float64)},
    ],
    optim.Adadelta: [{}, L2, L2 | MAXIMIZE, {"rho": 0.5, "eps": 0.01}],
    optim.Adafactor: [
        {"weight_decay": 0.0},
        L2,
        L2 | MAXIMIZE,
        {"lr": 0.9},
        {"d": 1.5, "beta2_decay": -0.5},
        {"eps": (0.05, 2.0)},
        {"lr": torch.tensor(0.02, dtype=torch.float64)},
    ],
    optim.SGD: [
        {},
        L2,
        L2 | MAXIMIZE,
        {"momentum": 0.8},
        {"momentum": 0.8, "dampening": 0.3} | L2,
        {"momentum": 0.8, "nesterov": True} | L2 | MAXIMIZE,
        {"lr": torch.tensor(0.02, dtype=torch.float64)},
    ],
}
FUSED = {optim.Adam, optim.AdamW, optim.Adagrad, optim.SGD}


def _id(value):
    return value.__name__ if isinstance(value, type) else None


def _name(options: dict) -> str:
    names = [f"{k}={float(v) if torch.is_tensor(v) else v}" for k, v in options.items()]
    return ",".join(names) or "plain"


CASES = [
    pytest.param(cls, layout, options, id=f"{cls.__name__}-{layout}-{_name(options)}")
    for cls, variants in VARIANTS.items()
    for options in variants
    for layout in ("loop", "foreach", *(["fused"] if cls in FUSED else []))
    # torch refuses a tensor as learning rate with foreach unless capturable.
    if not (layout == "foreach" and torch.is_tensor(options.get("lr")))
]


@pytest.mark.parametrize(("cls", "layout", "options"), CASES)
def test_displacement_is_that_of_one_torch_step(cls, layout, options):
    layouts = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
    optimizer = cls(parameters(), **{"lr": 0.01} | layouts[layout] | options)
    # Parameters are of order one: twelve digits leave room for torch's own order of operations.
    assert largest_error(optimizer, steps=12) < 1e-12


@pytest.mark.parametrize("cls", VARIANTS, ids=_id)
def test_several_groups(cls):
    first, *rest = parameters()
    optimizer = cls([{"params": [first], "lr": 0.1, "weight_decay": 0.3}, {"params": rest, "lr": 0.0}])
    assert largest_error(optimizer, steps=7) < 1e-12


@pytest.mark.parametrize("cls", VARIANTS, ids=_id)
def test_reading_changes_nothing_and_depends_on_nothing_else(cls):
    optimizer = cls(parameters(), lr=0.01)
    largest_error(optimizer, steps=7)
    set_gradients(moving(optimizer), 1.0)
    before = snapshot(optimizer)
    first = predicted(optimizer)
    assert same(before, snapshot(optimizer))
    assert all(torch.equal(a, b) for a, b in zip(first, predicted(optimizer), strict=True))


@pytest.mark.parametrize("cls", [cls for cls in VARIANTS if cls is not optim.Adafactor], ids=_id)
def test_differentiable_optimizer(cls):
    # torch keeps t in its default dtype, and differentiates through it: float32 would round 1 − β₂ᵗ.
    torch.set_default_dtype(torch.float64)
    # A differentiable step writes into its parameters under autograd: they can't be leaves.
    copies = [p.clone() for p in parameters()]
    optimizer = cls(copies, lr=0.01, differentiable=True)
    worst = 0.0
    for _ in range(4):
        set_gradients(copies, 1.0)
        before, changes = [p.detach().clone() for p in copies], predicted(optimizer)
        assert not any(change.requires_grad for change in changes)
        optimizer.step()
        for old, new, change in zip(before, copies, changes, strict=True):
            worst = max(worst, float((new.detach() - old - change).abs().max()))
    assert worst < 1e-12


CAPTURABLE = [optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adamax, optim.RMSprop, optim.Adadelta]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch has no capturable optimizer on a CPU")
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("cls", CAPTURABLE, ids=_id)
def test_capturable_optimizer(cls, foreach):
    torch.set_default_dtype(torch.float64)
    on_device = [nn.Parameter(p.detach().cuda()) for p in parameters()]
    optimizer = cls(on_device, lr=0.01, capturable=True, foreach=foreach)
    assert largest_error(optimizer, steps=12) < 1e-12


@pytest.mark.parametrize("cls", VARIANTS, ids=_id)
def test_float32_moments_predict_float32_steps(cls):
    single = [nn.Parameter(p.detach().float()) for p in parameters()]
    optimizer = cls(single, lr=0.01)
    # Half a unit in the last place of a parameter below 8, and as much for the change.
    assert largest_error(optimizer, steps=8) < 1e-6


@pytest.mark.parametrize("cls", VARIANTS, ids=_id)
def test_frozen_parameters_are_left_out_and_missing_gradients_do_not_move(cls):
    first, second, third, _ = parameters()
    first.requires_grad_(False)
    optimizer = cls([first, second, third], lr=0.01)
    third.grad = torch.ones_like(third)
    preconditioner = read_preconditioner(optimizer)
    assert [step is None for step in preconditioner.steps] == [True, False]
    assert preconditioner.coverage == 1.0


def test_radam_changes_its_branch_between_the_fifth_and_the_sixth_step():
    optimizer = optim.RAdam([theta := nn.Parameter(torch.zeros(1, dtype=torch.float64))], lr=0.01)
    rates = []
    for _ in range(7):
        theta.grad = torch.full_like(theta, 3.0)
        [step] = read_preconditioner(optimizer).active
        rates.append(step.learning_rate)
        assert (step.denominator == 1).all() == (len(rates) <= 5)
        optimizer.step()
    assert rates[:5] == [0.01] * 5
    assert 0 < rates[5] < rates[6] < 0.01


def test_adagrad_group_that_was_added_later_has_no_state_yet():
    first, second, *_ = parameters()
    optimizer = optim.Adagrad([first], lr=0.1, initial_accumulator_value=0.5)
    optimizer.add_param_group({"params": [second]})
    assert second not in optimizer.state
    assert largest_error(optimizer, steps=3) < 1e-12
