"""A loss that is evaluated twice shows whether it is random, by its draws or by its values."""

from __future__ import annotations

import pytest
import torch
from torch import optim

from cases import mean_squared_error
from foreshock.monitor.second_opinion import evaluate_again
from foreshock.monitor.subject import Subject
from monitor.loops import Remembering, augmented, mlp, regression

OWN = torch.Generator()


def with_a_generator_of_its_own(model, batch):
    return mean_squared_error(model, batch) * torch.rand((), generator=OWN)


@pytest.mark.parametrize(
    ("make", "loss_fn", "random"),
    [
        (mlp, mean_squared_error, False),
        (mlp, augmented, True),
        (mlp, with_a_generator_of_its_own, True),
        (Remembering, mean_squared_error, True),
    ],
)
def test_a_random_loss_is_recognised(make, loss_fn, random):
    torch.manual_seed(0)
    model = make()
    parameters, batch = list(model.parameters()), regression(torch.Generator())
    evaluation, found = evaluate_again(Subject(model, [optim.Adam(parameters)], loss_fn), parameters, batch)
    assert found is random
    if not random:
        loss_fn(model, batch).backward()
        torch.testing.assert_close(evaluation.gradient, torch.cat([p.grad.flatten() for p in parameters]))
