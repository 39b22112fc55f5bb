"""What the training sets contain, checked by arithmetic that the builders do not share."""

import math

import pytest
import torch
from torch import nn

from foreshock.demo.data import load_digits, load_stdlib_text
from foreshock.lab.tasks import build_task
from foreshock.lab.tasks.cnn import build_cnn
from foreshock.lab.tasks.pinn import EQUATIONS


def training_set(family, **options):
    return next(build_task(family, batch_size=None, seed=0, **options).batches)


def test_sines():
    x, y = training_set("mlp", points=9)
    assert x.flatten().tolist() == pytest.approx([math.pi * (i - 4) / 4 for i in range(9)])
    assert y.flatten().tolist() == pytest.approx(
        [math.sin(v) + math.sin(4 * v) for v in x.flatten().tolist()], abs=1e-6
    )


def test_quadratic_is_even_in_nothing_but_its_squares():
    x, y = training_set("mlp", target="quadratic", points=200)
    assert x.shape == (200, 50)
    features = torch.cat([x, x**2], dim=1).double()
    fit = torch.linalg.lstsq(features, y.double()).solution
    # 100 features explain 200 values exactly, up to float32 rounding of sums of order 10.
    assert (features @ fit - y).abs().max() < 1e-4


def test_addition_has_half_the_table_and_right_sums():
    symbols, sums = training_set("addition", modulus=7, width=8)
    assert len({tuple(row) for row in symbols.tolist()}) == len(symbols) == round(49 / 2)
    assert all(
        (a + b) % 7 == total and equals == 7
        for (a, b, equals), total in zip(symbols.tolist(), sums, strict=True)
    )


def test_each_synthetic_sequence_follows_one_rule():
    symbols, targets = training_set("transformer", sequences=5, length=6, vocabulary=5, width=8)
    sequences = torch.cat([symbols, targets[:, -1:]], dim=1)
    assert torch.equal(targets, sequences[:, 2:])
    for x in sequences.tolist():
        rules = [
            (a, b, c)
            for a in range(5)
            for b in range(5)
            for c in range(5)
            if all(x[t] == (a * x[t - 1] + b * x[t - 2] + c) % 5 for t in range(2, len(x)))
        ]
        assert rules


def test_images_are_resized():
    images, labels = training_set("cnn", images=12, side=16)
    small, expected = load_digits(12)
    assert images.shape == (12, 1, 16, 16)
    assert torch.equal(labels, expected)
    assert images.mean().item() == pytest.approx(small.mean().item(), rel=0.05)


def test_batch_norm_is_an_option():
    kinds = {type(m) for m in build_cnn(batch_size=None, seed=0, images=4, batch_norm=True).model.modules()}
    assert nn.BatchNorm2d in kinds


class Solution(nn.Module):
    """Make the ansatz of Poisson's equation equal to its solution."""

    def forward(self, x):
        return (torch.sin(math.pi * x) + torch.sin(4 * math.pi * x) / 4) / (1 - x**2)


def test_the_residual_of_poisson_vanishes_at_its_solution():
    _, residual = EQUATIONS["poisson"]
    x = (torch.rand(20, 1, dtype=torch.float64) * 1.8 - 0.9).requires_grad_()
    assert residual(Solution(), x).abs().max() < 1e-10


class Linear(nn.Module):
    """Make the ansatz of Burgers' equation u = −sin πx + t(1 − x²)."""

    def forward(self, points):
        return points[:, :1] * 0 + 1


def test_the_residual_of_burgers_by_hand():
    _, residual = EQUATIONS["burgers"]
    points = torch.rand(20, 2, dtype=torch.float64).requires_grad_()
    x, t = points.detach().unbind(1)
    u = -torch.sin(math.pi * x) + t * (1 - x**2)
    u_x = -math.pi * torch.cos(math.pi * x) - 2 * t * x
    u_xx = math.pi**2 * torch.sin(math.pi * x) - 2 * t
    expected = (1 - x**2) + u * u_x - 0.01 / math.pi * u_xx
    assert torch.allclose(residual(Linear(), points).flatten(), expected, rtol=0, atol=1e-12)


def test_collocation_points_lie_in_the_domain():
    task = build_task("pinn", batch_size=500, seed=0, equation="burgers", points=None)
    (points,) = next(task.batches)
    x, t = points.unbind(1)
    assert -1 <= x.min() < -0.9
    assert 0.9 < x.max() <= 1
    assert 0 <= t.min() < 0.1
    assert 0.9 < t.max() <= 1


def test_digits_are_a_fixed_subset():
    images, labels = load_digits(30)
    again, _ = load_digits(30)
    assert torch.equal(images, again)
    assert images.shape == (30, 1, 8, 8)
    assert images.min() >= 0
    assert images.max() == 1
    assert set(labels.tolist()) <= set(range(10))
    with pytest.raises(ValueError, match="count must lie between 1 and 1797, got 0"):
        load_digits(0)


def test_stdlib_text_is_ascii_without_runs_of_blanks():
    text = load_stdlib_text(10, length=20)
    assert text.shape == (10, 20)
    assert b"  " not in b"|".join(bytes(row) for row in text.tolist())
    with pytest.raises(ValueError, match="count and length must be at least 1"):
        load_stdlib_text(0, length=20)
