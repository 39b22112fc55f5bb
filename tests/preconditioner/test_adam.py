"""The reader against torch's own steps, and against Adam written by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn, optim

from foreshock.preconditioner import Reader, find_reader, read_preconditioner, register_preconditioner
from foreshock.preconditioner.adam import read_adam_second_moment

LAYOUTS = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
VARIANTS = {
    "plain": {},
    "amsgrad": {"amsgrad": True},
    "decay": {"weight_decay": 0.1},
    "maximize": {"maximize": True},
    "amsgrad-decay": {"amsgrad": True, "weight_decay": 0.03},
    "momentum-free": {"betas": (0.0, 0.9)},
    "large-epsilon": {"eps": 0.1},
    "tensor-rate": {"lr": torch.tensor(0.02, dtype=torch.float64)},
}


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in [(3, 4), (5,), ()]]


def set_gradients(moving: list[nn.Parameter], scale: float) -> None:
    for parameter in moving:
        parameter.grad = torch.randn_like(parameter) * scale


def largest_error(optimizer: optim.Optimizer, steps: int) -> float:
    """Return the largest difference of predicted and real displacement over some steps."""
    worst = 0.0
    for step in range(steps):
        moving = [p for group in optimizer.param_groups for p in group["params"]]
        set_gradients(moving, scale=10.0 ** (step % 3 - 1))
        preconditioner = read_preconditioner(optimizer)
        before = [p.detach().clone() for p in moving]
        predicted = [s.displacement(p) for s, p in zip(preconditioner.active, moving, strict=True)]
        optimizer.step()
        for old, new, change in zip(before, moving, predicted, strict=True):
            worst = max(worst, float((new.detach() - old - change).abs().max()))
    return worst


# torch refuses a tensor as learning rate with foreach unless capturable.
POSSIBLE = [(x, y) for x in LAYOUTS for y in VARIANTS if (x, y) != ("foreach", "tensor-rate")]


@pytest.mark.parametrize("cls", [optim.Adam, optim.AdamW])
@pytest.mark.parametrize(("layout", "variant"), POSSIBLE)
def test_displacement_is_that_of_one_torch_step(cls, layout, variant):
    optimizer = cls(parameters(), **{"lr": 0.01} | LAYOUTS[layout] | VARIANTS[variant])
    # Parameters are of order one: twelve digits leave room for torch's own order of operations.
    assert largest_error(optimizer, steps=6) < 1e-12


def test_displacement_with_several_groups():
    first, second, third = parameters()
    optimizer = optim.AdamW(
        [
            {"params": [first], "lr": 0.1, "betas": (0.5, 0.9)},
            {"params": [second], "lr": 0.001, "eps": 1e-3, "weight_decay": 0.5},
            {"params": [third], "lr": 0.0},
        ]
    )
    assert largest_error(optimizer, steps=5) < 1e-12


def test_denominator_is_that_of_a_hand_written_adam():
    [theta] = [nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))]
    optimizer = optim.Adam([theta], lr=0.01, betas=(0.9, 0.99), eps=1e-3)
    v = [0.0, 0.0]
    for t in range(1, 5):
        gradients = [math.sin(t), math.cos(3 * t)]
        theta.grad = torch.tensor(gradients, dtype=torch.float64)
        v = [0.99 * old + 0.01 * g * g for old, g in zip(v, gradients, strict=True)]
        expected = [math.sqrt(value / (1 - 0.99**t)) + 1e-3 for value in v]
        [step] = read_preconditioner(optimizer).active
        assert step.denominator.tolist() == pytest.approx(expected, rel=1e-13)
        c = 0.1 / 1.9 / (1 - 0.9**t)
        assert step.momentum_factor == pytest.approx(c, rel=1e-13)
        scale = read_preconditioner(optimizer).scale_root() ** 2
        folded = [c * 0.01 / (2 * d) for d in expected]
        assert scale.tolist() == pytest.approx(folded, rel=1e-12)
        optimizer.step()


def test_reading_changes_nothing():
    moving = parameters()
    optimizer = optim.Adam(moving, lr=0.01, amsgrad=True, weight_decay=0.1)
    for _ in range(3):
        set_gradients(moving, 1.0)
        optimizer.step()
    tensors = [t for p in moving for t in (p, p.grad, *optimizer.state[p].values())]
    before = [t.detach().clone() for t in tensors]
    versions = [t._version for t in tensors]
    read_preconditioner(optimizer)
    assert all(torch.equal(old, new) for old, new in zip(before, tensors, strict=True))
    assert versions == [t._version for t in tensors]


def test_parameter_without_gradient_does_not_move():
    first, second, third = parameters()
    optimizer = optim.Adam([first, second, third], lr=0.01)
    second.grad = torch.ones_like(second)
    preconditioner = read_preconditioner(optimizer)
    assert [step is None for step in preconditioner.steps] == [True, False, True]
    root = preconditioner.scale_root()
    assert torch.equal(root.nonzero().flatten(), torch.arange(12, 17))


def test_coordinate_that_never_had_a_gradient_stays_finite_without_epsilon():
    theta = nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = optim.Adam([theta], lr=0.01, eps=0.0)
    theta.grad = torch.tensor([1.0, 0.0], dtype=torch.float64)
    root = read_preconditioner(optimizer).scale_root()
    assert root[1] == 0
    assert 0 < root[0] < math.inf


def test_unknown_optimizer_is_refused_with_the_way_out():
    with pytest.raises(TypeError, match="register_preconditioner"):
        find_reader(optim.LBFGS(parameters()))


class RenamedAdam(optim.Adam):
    """Nothing changed."""


class OtherAdam(optim.Adam):
    """A different step."""

    def step(self, closure=None):
        return None


def test_subclass_is_read_only_if_its_step_is_the_same():
    assert find_reader(RenamedAdam(parameters())) is find_reader(optim.Adam(parameters()))
    with pytest.raises(TypeError, match="OtherAdam is not an optimizer Foreshock can read"):
        find_reader(OtherAdam(parameters()))


def test_a_registered_reader_is_used(monkeypatch):
    monkeypatch.setattr("foreshock.preconditioner.registry._READERS", {})
    reader = Reader(lambda parameter, state, group: None, read_adam_second_moment)
    register_preconditioner(OtherAdam, reader)
    assert find_reader(OtherAdam(parameters())) is reader
    with pytest.raises(TypeError, match="not a subclass"):
        register_preconditioner(int, reader)


def test_sparse_gradient_is_refused():
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = optim.Adam(embedding.parameters())
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match="sparse=False"):
        read_preconditioner(optimizer)
