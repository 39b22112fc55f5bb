"""What can't be called with a model and a batch is refused before a training begins, with what to write."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

import foreshock
from foreshock.curvature import check_loss_function


def of_both(model, batch):
    return model(batch).mean()


class Callable:
    def loss(self, model, batch, *, weight=1.0):
        return weight * of_both(model, batch)

    __call__ = loss


@functools.wraps(lambda model, inputs, targets: None)
def wrapping(model, batch):
    return of_both(model, batch)


REFUSED = [
    (lambda batch: batch.mean(), r"<lambda>\(batch\) can't be: .* evaluates the model itself"),
    (lambda: 0.0, r"<lambda>\(\) can't be: .* evaluates the model itself"),
    (lambda model, x, y: 0.0, r"<lambda>\(model, x, y\) can't be: .* pack all .*…\(model, \*batch\)"),
    (lambda model, batch, *, k: 0.0, r"can't be: give its keyword arguments defaults"),
    ("mse", r"loss_fn is 'mse'; pass a function loss_fn\(model, batch\)"),
]


@pytest.mark.parametrize(("loss_fn", "says"), REFUSED)
def test_a_wrong_number_of_arguments_is_refused_at_once(loss_fn, says):
    model, batch = nn.Linear(2, 1), torch.ones(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(TypeError, match=says):
        foreshock.Monitor(model, optimizer, loss_fn)
    with pytest.raises(TypeError, match=says):
        foreshock.sharpness(model, loss_fn, batch)
    with pytest.raises(TypeError, match=says):
        foreshock.mean_square_stability(model, optimizer, loss_fn, [batch, batch])


@pytest.mark.parametrize(
    "loss_fn",
    [
        of_both,
        Callable(),
        Callable().loss,
        wrapping,
        functools.partial(lambda weight, model, batch: weight * of_both(model, batch), 2.0),
        lambda *arguments: of_both(*arguments),
        lambda model, batch, reduction="mean": of_both(model, batch),
        nn.MSELoss(),  # takes two as well: what is wrong with it is said where it fails
        torch.add,  # without a signature
    ],
)
def test_what_takes_both_is_let_through(loss_fn):
    check_loss_function(loss_fn)
