"""β₂ by the share of a batch: the half-life in examples is that of the full batch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from foreshock.lab.guardbench.methods import Subject, method
from foreshock.lab.guardbench.training import train
from foreshock.lab.spikebench.suite import DEVELOPMENT, adam, configure
from foreshock.lab.tasks import OptimizerConfig, build_optimizer


def betas(examples, batch, *, full_batch=False):
    """Return β₁ and β₂ after two steps."""
    model = nn.Linear(2, 1)
    optimizer = build_optimizer(model, OptimizerConfig(betas=(0.8, 0.99)))
    subject = Subject(model, optimizer, lambda model, batch: None, examples, full_batch)
    helper = method("beta2-half-life").intervene(subject)
    for _ in range(2):
        helper.before_step((torch.ones(batch, 2), torch.ones(batch)), 1.0)
        assert not helper.after_step()
    return optimizer.param_groups[0]["betas"]


def half_life(beta2, batch):
    """Return the examples after which an average has half of its weight."""
    return batch * math.log(0.5) / math.log(beta2)


@pytest.mark.parametrize("batch", [1, 10, 40])
def test_the_half_life_in_examples_is_that_of_the_full_batch(batch):
    beta1, beta2 = betas(40, batch)
    assert beta1 == 0.8
    assert half_life(beta2, batch) == pytest.approx(half_life(0.99, 40), rel=1e-8)


def test_a_full_batch_and_endless_data_are_left_as_they_are():
    assert betas(40, 40, full_batch=True) == (0.8, 0.99)
    assert betas(None, 10) == (0.8, 0.99)


def test_a_training_with_the_full_batch_is_adams():
    options = {"points": 20, "width": 4}
    losses = {
        (batch, name): train(
            configure(DEVELOPMENT, "mlp", adam(0.01), batch, 30, **options), 0, method(name)
        ).mean_loss
        for batch in (None, 5)
        for name in ("adam", "beta2-half-life")
    }
    assert losses[None, "adam"] == losses[None, "beta2-half-life"]
    assert losses[5, "adam"] != losses[5, "beta2-half-life"]
