"""A ratio that is followed is the true one while only v and the learning rate change."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn, optim

from foreshock.curvature import FollowedRatio, Prober
from foreshock.preconditioner import read_preconditioner, read_preconditioner_at

CURVATURES = torch.tensor([[5.0, 2.0, 1.0]], dtype=torch.float64)


class Diagonal(nn.Module):
    """½ Σ h_i θ_i²: the eigenvectors of the preconditioned Hessian are the coordinates."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64))

    def forward(self, scale):
        return scale * (CURVATURES * self.weight**2).sum() / 2


def loss_fn(model, batch):
    return model(batch)


def true_ratios(preconditioner):
    """Return h_i · cη/2D_i of each coordinate."""
    return (CURVATURES.flatten() * preconditioner.scale_root() ** 2).tolist()


def train(steps, *, batch, make=lambda p: optim.Adam(p, lr=0.02)):
    """Yield the prober and the coming step, in a training whose first step is probed."""
    model = Diagonal()
    optimizer = make(model.parameters())
    prober = Prober(model, loss_fn)
    for step in range(steps):
        optimizer.zero_grad()
        loss_fn(model, batch).backward()
        if step == 20:
            optimizer.param_groups[0]["lr"] /= 4
        coming = read_preconditioner(optimizer)
        if step == 0:
            prober.probe(batch, coming, step=0)
        yield step, prober, coming
        optimizer.step()


MAKE = {
    "Adam": lambda p: optim.Adam(p, lr=0.02),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.02),
    "SGD": lambda p: optim.SGD(p, lr=0.02),
}


@pytest.mark.parametrize("name", MAKE)
def test_on_a_quadratic_the_followed_ratio_is_the_true_one_along_the_same_eigenvector(name):
    batch = torch.tensor(1.0, dtype=torch.float64)
    top = None
    for _, prober, coming in train(60, batch=batch, make=MAKE[name]):
        true = true_ratios(coming)
        top = true.index(max(true)) if top is None else top
        assert prober.follow(coming) == pytest.approx(true[top], rel=1e-6)


def test_a_refresh_measures_a_curvature_that_changed_with_one_product():
    batch = torch.tensor(1.0, dtype=torch.float64)
    for step, prober, coming in train(11, batch=batch):
        if step == 10:
            steeper = torch.tensor(3.0, dtype=torch.float64)
            reading = prober.refresh(steeper, coming, step=10)
            assert (reading.products, reading.complete) == (1, False)
            assert reading.stability_ratio == pytest.approx(3 * max(true_ratios(coming)), rel=1e-6)
            assert reading.error_bound == pytest.approx(0.0, abs=1e-9)
            assert prober.follow(coming) == pytest.approx(reading.stability_ratio)
            assert prober.measured.step == 10


class Turning(Diagonal):
    """As before, but with the steepest coordinate last once the batch says so."""

    def forward(self, scale):
        curvatures = CURVATURES.flip(1) if float(scale) > 1 else CURVATURES
        return (curvatures * self.weight**2).sum() / 2 + 0.3 * self.weight[0, 0] * self.weight[0, 2]


def test_a_refresh_seeks_the_eigenvector_where_it_is_another_one():
    model = Turning()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    prober = Prober(model, loss_fn)
    before, after = (torch.tensor(value, dtype=torch.float64) for value in (1.0, 2.0))
    loss_fn(model, before).backward()
    coming = read_preconditioner(optimizer)
    prober.probe(before, coming, step=0)
    reading = prober.refresh(after, coming, step=1)
    hessian = torch.diag(CURVATURES.flatten().flip(0))
    hessian[0, 2] = hessian[2, 0] = 0.3
    true = float(torch.linalg.eigvalsh(hessian)[-1]) * 0.1 / 2
    assert reading.complete
    assert reading.products > 1
    assert reading.stability_ratio == pytest.approx(true, rel=0.05)
    assert abs(reading.stability_ratio - true) <= reading.error_bound + 1e-12


def test_without_an_eigenvector_there_is_nothing_to_refresh_or_follow():
    model = Diagonal()
    optimizer = optim.Adam(model.parameters(), lr=0.02)
    batch = torch.tensor(1.0, dtype=torch.float64)
    loss_fn(model, batch).backward()
    coming, prober = read_preconditioner(optimizer), Prober(model, loss_fn)
    assert prober.follow(coming) is None
    with pytest.raises(ValueError, match="call `probe` before `refresh`"):
        prober.refresh(batch, coming, step=0)


def test_a_resumed_prober_follows_the_same_ratio():
    batch = torch.tensor(1.0, dtype=torch.float64)
    for step, prober, coming in train(11, batch=batch):
        if step == 10:
            again = Prober(Diagonal(), loss_fn)
            again.load_state_dict(copy.deepcopy(prober.state_dict()), size=3)
            assert again.follow(coming) == prober.follow(coming)
            # Of a model of another size nothing is kept.
            other = Prober(nn.Linear(1, 1), loss_fn)
            other.load_state_dict(prober.state_dict(), size=2)
            assert other.measured is None


@pytest.mark.parametrize(
    "make",
    [
        lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.1),
        lambda p: optim.Adam(p, lr=0.01, amsgrad=True, weight_decay=0.1),
        lambda p: optim.SGD(p, lr=0.01, momentum=0.9),
        lambda p: optim.RMSprop(p, lr=0.01, centered=True),
        lambda p: optim.NAdam(p, lr=0.01),
        lambda p: optim.RAdam(p, lr=0.01),
        lambda p: optim.Adamax(p, lr=0.01),
        lambda p: optim.Adagrad(p, lr=0.01),
    ],
)
def test_the_step_of_some_coordinates_is_that_of_the_whole_at_them(make):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2)).double()
    optimizer = make(model.parameters())
    for _ in range(8):
        optimizer.zero_grad()
        model(torch.randn(9, 5).double()).square().mean().backward()
        whole = read_preconditioner(optimizer, gradient_scale=4.0)
        chosen = [torch.tensor([3, 17, 30]), None, torch.tensor([0, 13]), torch.tensor([1])]
        some = read_preconditioner_at(optimizer, chosen, gradient_scale=4.0)
        flat = torch.tensor([3, 17, 30, 42, 55, 57])
        for name in ("gradient", "scale_root", "descent"):
            assert torch.allclose(getattr(some, name)(), getattr(whole, name)()[flat], rtol=1e-12), name
        optimizer.step()


def test_steps_that_depend_on_other_coordinates_are_not_read_in_part():
    model = nn.Linear(4, 4)
    model(torch.ones(2, 4)).sum().backward()
    chosen = [torch.tensor([0]), torch.tensor([0])]
    assert read_preconditioner_at(optim.Adafactor(model.parameters()), chosen) is None
    assert read_preconditioner_at(optim.Muon([model.weight]), chosen[:1]) is None
    assert read_preconditioner_at(optim.Adam(model.parameters()), chosen[:1]) is None


def test_a_large_vector_is_followed_along_its_largest_coordinates():
    """Of 40,000 coordinates 4,096 carry most: as v changes they say what all of them would."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(40_000, dtype=torch.float64))
    optimizer = optim.Adam([weight], lr=1e-3)
    vector = (
        torch.randn(40_000, dtype=torch.float64) * torch.linspace(0, 1, 40_000, dtype=torch.float64) ** 20
    )
    vector /= torch.linalg.vector_norm(vector)
    followed = None
    for step in range(60):
        weight.grad = torch.randn(40_000, dtype=torch.float64) * (0.97**step)
        whole = read_preconditioner(optimizer)
        if step == 20:
            followed = FollowedRatio.start(step=20, ratio=0.5, vector=vector, preconditioner=whole)
            assert 0.5 < followed.share < 1
        if step > 20:
            some = read_preconditioner_at(optimizer, followed.coordinates)
            assert sum(one.numel() for one in some.parameters) == 4096
            assert followed.at(some) == pytest.approx(followed.at(whole), rel=0.02)
        optimizer.step()
