"""GradientStabilizer on given gradients, against its formula with the sums written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from foreshock.lab.guardbench.methods import Subject, method
from foreshock.lab.tasks import OptimizerConfig, build_optimizer


def helped():
    model = nn.Linear(2, 1, dtype=torch.float64)
    subject = Subject(model, build_optimizer(model, OptimizerConfig()), lambda model, batch: None)
    return model, method("gradient-stabilizer").intervene(subject)


def seen(model, helper, weight, bias=1.0):
    """Return the gradients that the optimizer gets."""
    model.weight.grad = torch.tensor([weight], dtype=torch.float64)
    model.bias.grad = torch.tensor([bias], dtype=torch.float64)
    helper.before_step(None, 1.0)
    assert helper.after_step()
    return model.weight.grad.flatten(), model.bias.grad


def weighted(values, decay):
    """Return the running mean of a list, its bias corrected, as a weighted sum."""
    weights = [decay ** (len(values) - 1 - index) for index in range(len(values))]
    return sum(w * x for w, x in zip(weights, values, strict=True)) / sum(weights)


def test_each_tensor_keeps_its_direction_and_gets_the_mean_norm_over_its_root_mean_square():
    model, helper = helped()
    norms = []
    for scale in (1.0, 3.0, 0.2, 500.0, 2.0):
        norms.append(5 * scale)
        weight, bias = seen(model, helper, [3 * scale, -4 * scale])
        expected = weighted(norms, 0.6) / math.sqrt(weighted([norm**2 for norm in norms], 0.999))
        assert weight.tolist() == pytest.approx([0.6 * expected, -0.8 * expected], rel=1e-8)
        assert bias.tolist() == pytest.approx([1.0])  # its norm never changed


def test_an_outlier_may_be_as_large_as_it_likes():
    """After n equal norms one of R → ∞ has mean .4·R/(1 − .6ⁿ⁺¹) and mean square .001·R²/(1 − .999ⁿ⁺¹)."""
    expected = 0.4 / (1 - 0.6**31) / math.sqrt(0.001 / (1 - 0.999**31))
    for outlier in (1e6, 1e12):
        model, helper = helped()
        for _ in range(30):
            seen(model, helper, [1.0, 0.0])
        assert seen(model, helper, [outlier, 0.0])[0].norm().item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("odd", [0.0, math.inf, math.nan])
def test_a_norm_of_zero_or_one_that_is_not_finite_is_left_alone_and_forgotten(odd):
    model, helper = helped()
    seen(model, helper, [2.0, 0.0])
    weight, _ = seen(model, helper, [odd, 0.0])
    assert weight[0].item() == pytest.approx(odd, nan_ok=True)
    weight, _ = seen(model, helper, [6.0, 0.0])
    expected = weighted([2.0, 6.0], 0.6) / math.sqrt(weighted([4.0, 36.0], 0.999))
    assert weight[0].item() == pytest.approx(expected, rel=1e-8)


def test_a_parameter_without_a_gradient_is_left_out():
    model, helper = helped()
    model.bias.grad = torch.tensor([2.0], dtype=torch.float64)
    helper.before_step(None, 1.0)
    assert model.weight.grad is None
    assert model.bias.grad.item() == pytest.approx(1.0)
