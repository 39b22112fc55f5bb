"""A fully connected tanh network with one output."""

from __future__ import annotations

import itertools

from torch import nn


def perceptron(inputs: int, *, width: int, layers: int) -> nn.Module:
    """Return a tanh network with torch's default initial weights.

    Args:
        inputs: Number of inputs.
        width: Units in each hidden layer.
        layers: Number of hidden layers.

    Returns:
        A module that maps (N, inputs) to (N, 1).
    """
    modules: list[nn.Module] = []
    for size, following in itertools.pairwise([inputs] + [width] * layers):
        modules += [nn.Linear(size, following), nn.Tanh()]
    return nn.Sequential(*modules, nn.Linear(width, 1))
