"""SPECTRA on given updates, against singular values cut by their formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foreshock.lab.guardbench.methods import Subject, method
from foreshock.lab.guardbench.methods.spectra import clipped
from foreshock.lab.tasks import OptimizerConfig, build_optimizer, build_scheduler


def by_singular_values(update, limit):
    """Return α·U·diag(σ/√(1 + σ²/c²))·Vᵀ."""
    left, values, right = torch.linalg.svd(update.flatten(1), full_matrices=False)
    rows, columns = update.flatten(1).shape
    cut = left @ torch.diag(values / (1 + (values / limit) ** 2).sqrt()) @ right
    return max(1, rows / columns) ** 0.5 * cut.reshape(update.shape)


@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (6, 2, 3, 3), (1, 4), (4, 1)])
@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
def test_singular_values_are_cut_softly(shape, scale):
    generator = torch.Generator().manual_seed(2)
    update = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    expected = by_singular_values(update, 5.0)
    assert torch.allclose(clipped(update, 5.0), expected, rtol=0, atol=1e-8 * scale)
    assert torch.linalg.matrix_norm(expected.flatten(1), 2) <= 5 * max(1, len(update.flatten(1))) ** 0.5


def test_a_vector_is_cut_only_above_the_limit():
    below, above = torch.tensor([3.0, 4.0]), torch.tensor([6.0, 8.0])
    assert clipped(below, 5.0) is below
    assert clipped(above, 5.0).norm().item() == pytest.approx(10 / 5**0.5)  # 10/√(1 + 10²/5²)


def trained(config, steps, *, helped):
    """Return the weights after each step of a network with given gradients, and their rates."""
    generator = torch.Generator().manual_seed(4)
    model = nn.Linear(40, 30, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.randn(30, 40, generator=generator, dtype=torch.float64))
    optimizer = build_optimizer(model, config)
    scheduler = build_scheduler(optimizer, config, steps)
    helper = method("spectra").intervene(Subject(model, optimizer, lambda model, batch: None))
    states = []
    for _ in range(steps):
        before = model.weight.detach().clone()
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        helper.before_step(None, 1.0)
        optimizer.step()
        if helped:
            assert helper.after_step()
        states.append((before, model.weight.detach().clone(), optimizer.param_groups[0]["lr"]))
        if scheduler is not None:
            scheduler.step()
    return states


def test_the_updates_of_adamw_are_clipped_and_its_decay_is_not():
    """The first update of AdamW is the gradient's sign, whatever the weights: spectral norm above √30."""
    config = OptimizerConfig("adamw", 0.01, weight_decay=0.5)
    [(before, plain, _)] = trained(config, 1, helped=False)
    [(same, ours, _)] = trained(config, 1, helped=True)
    assert torch.equal(before, same)
    kept = (1 - 0.01 * 0.5) * before
    update = (kept - plain) / 0.01
    assert torch.linalg.matrix_norm(update, 2) > 10
    assert torch.allclose((kept - ours) / 0.01, by_singular_values(update, 10.0), rtol=0, atol=1e-8)


def test_decay_of_adam_is_part_of_its_update():
    config = OptimizerConfig("adam", 0.01, weight_decay=0.5)
    [(before, plain, _)] = trained(config, 1, helped=False)
    [(_, ours, _)] = trained(config, 1, helped=True)
    expected = by_singular_values((before - plain) / 0.01, 10.0)
    assert torch.allclose((before - ours) / 0.01, expected, rtol=0, atol=1e-8)


def test_during_warm_up_the_limit_of_the_step_is_that_of_the_highest_rate():
    """c·η is constant until the highest rate was reached; as the rate falls again c is constant."""
    config = OptimizerConfig("adamw", 0.01, schedule="warmup-cosine", warmup_steps=4)
    plain, ours = (trained(config, 8, helped=helped) for helped in (False, True))
    rates = [rate for *_, rate in ours]
    assert rates[0] == pytest.approx(0.0025)
    assert max(rates) == rates[3] > rates[7]
    for index, (one, other) in enumerate(zip(plain, ours, strict=True)):
        # Adam's moments do not depend on the weights here: the gradients are given.
        update = (one[0] - one[1]) / rates[index]
        limit = 10 * 0.01 / rates[index] if index < 4 else 10.0
        expected = by_singular_values(update, limit)
        assert torch.allclose((other[0] - other[1]) / rates[index], expected, rtol=0, atol=1e-8)


def test_a_rate_of_zero_is_no_step():
    model = nn.Linear(2, 1, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    helper = method("spectra").intervene(Subject(model, optimizer, lambda model, batch: None))
    before = model.weight.detach().clone()
    model.weight.grad = torch.ones_like(before)
    helper.before_step(None, 1.0)
    optimizer.step()
    assert helper.after_step()
    assert torch.equal(model.weight, before)
    assert len(helper.buffers()) == 1
