"""Loss functions and models with side effects, and the whole state of a training run to compare."""

from __future__ import annotations

import itertools
import random

import numpy as np
import torch
from torch import nn


class KeyEncoder(nn.Module):
    """As in MoCo: a frozen copy follows the trained weights at each forward pass."""

    def __init__(self):
        super().__init__()
        self.query, self.key = nn.Linear(4, 4), nn.Linear(4, 4).requires_grad_(False)
        self.register_buffer("queue", torch.zeros(2, 4))

    def forward(self, x):
        with torch.no_grad():
            for one, other in zip(self.query.parameters(), self.key.parameters(), strict=True):
                other.mul_(0.9).add_(one, alpha=0.1)
        key = self.key(x)
        self.queue = torch.cat([key.detach()[:1], self.queue[:1]])
        return self.query(x) - key + self.queue.mean(0)


class Renormalised(nn.Module):
    """An embedding whose rows are cut to a largest norm where they are used."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 4, max_norm=0.5)
        self.out = nn.Linear(4, 4)

    def forward(self, x):
        return self.out(self.embedding(x[:, 0].abs().long().clamp(max=9)))


class Counting(nn.Module):
    """Attributes that forward sets: a number, a list, a tensor that is no buffer, the mode of a part."""

    def __init__(self):
        super().__init__()
        self.inner, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.calls, self.losses, self.mean = 0, [], torch.zeros(4)
        self.draws = torch.Generator().manual_seed(1)

    def forward(self, x):
        self.calls += 1
        self.losses.append(x.mean())
        self.mean.mul_(0.9).add_(x.mean(0))
        self.inner.training = not self.inner.training
        self.extra = x
        return self.norm(self.inner(x + 0.01 * torch.randn(4, generator=self.draws))) + 0.01 * self.calls


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 4)

    def forward(self, x):
        return self.second(torch.tanh(self.norm(self.first(x))))


MODELS = {"key encoder": KeyEncoder, "largest norm": Renormalised, "attributes": Counting, "plain": Plain}


def state_of(*owners):
    """Return all that models, optimizers, batches and generators hold, as plain values."""
    numpy_state = np.random.get_state()
    return [
        *map(_values, owners),
        torch.get_rng_state().tolist(),
        random.getstate(),
        numpy_state[1].tolist(),
        numpy_state[2],
        torch.is_grad_enabled(),
    ]


def _values(owner):
    if isinstance(owner, torch.Tensor):
        return _tensor(owner)
    if isinstance(owner, dict):
        return [(key, _values(value)) for key, value in owner.items()]
    if isinstance(owner, list | tuple):
        return [_values(value) for value in owner]
    if isinstance(owner, torch.optim.Optimizer):
        groups = [{k: v for k, v in group.items() if k != "params"} for group in owner.param_groups]
        return _values([groups, list(owner.state.values())])
    if isinstance(owner, torch.Generator):
        return owner.get_state().tolist()
    if isinstance(owner, np.random.Generator):
        return owner.bit_generator.state
    if isinstance(owner, random.Random):
        return owner.getstate()
    if isinstance(owner, nn.Module):
        return [_module(module) for module in owner.modules()]
    return owner


def _module(module):
    hidden = {"_parameters", "_buffers", "_modules"}
    attributes = {k: _values(v) for k, v in vars(module).items() if k not in hidden and "hook" not in k}
    parameters = [
        (name, id(one), one.requires_grad, None if one.grad is None else (id(one.grad), _tensor(one.grad)))
        for name, one in module.named_parameters(recurse=False)
    ]
    tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return attributes, parameters, [(name, id(one), _tensor(one)) for name, one in tensors]


def _tensor(tensor):
    # The version too: a graph that the user keeps compares it.
    return tensor._version, tuple(tensor.shape), tensor.dtype, tensor.detach().numpy().tobytes()


def mean_square(model, batch):
    return (model(batch["x"]) - batch["y"]).square().mean()


class Loop:
    """What a training loop has around its model: a second network, generators, an optimizer, an iterator."""

    def __init__(self, model):
        self.model, self.other = model, nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        self.draws, self.numbers, self.pick = (
            torch.Generator().manual_seed(2),
            np.random.default_rng(3),
            random.Random(4),
        )
        self.iterator = itertools.cycle(range(5))

    def everything(self):
        return [self.model, self.other, self.optimizer, self.draws, self.numbers, self.pick]


def clamps(loop, model, batch):
    for parameter in model.parameters():
        parameter.data.clamp_(-0.1, 0.1)


def pops(loop, model, batch):
    batch["z"] = batch.pop("z") + 1


def normalises(loop, model, batch):
    batch["x"].mul_(0.5)


def runs_another(loop, model, batch):
    loop.other(batch["x"]).sum().backward()


def draws(loop, model, batch):
    torch.rand(2, generator=loop.draws), loop.numbers.random(), loop.pick.random()
    torch.rand(2), np.random.rand(), random.random()


def freezes(loop, model, batch):
    next(model.parameters()).requires_grad_(False)


def replaces(loop, model, batch):
    part = next(m for m in model.modules() if isinstance(m, nn.Linear | nn.Embedding))
    part.weight = nn.Parameter(part.weight.detach() + 1)
    part.register_buffer("fresh", torch.ones(2))


def schedules(loop, model, batch):
    loop.optimizer.param_groups[0]["lr"] *= 0.5


def writes_gradients(loop, model, batch):
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)


def turns_off(loop, model, batch):
    model.eval()
    batch["x"] = batch["x"].requires_grad_()


EFFECTS = (
    clamps,
    pops,
    normalises,
    runs_another,
    draws,
    freezes,
    replaces,
    schedules,
    writes_gradients,
    turns_off,
)
