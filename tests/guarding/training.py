"""What the tests of guards share: small problems and optimizers in all their ways of stepping."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn, optim

from foreshock.guarding import Decision

WAYS = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
ADAMS = {
    "adam": lambda p, **o: optim.Adam(p, lr=0.01, **o),
    "adamw": lambda p, **o: optim.AdamW(p, lr=0.01, weight_decay=0.1, **o),
    "amsgrad": lambda p, **o: optim.Adam(p, lr=0.01, amsgrad=True, **o),
    "adam-l2": lambda p, **o: optim.Adam(p, lr=0.01, weight_decay=0.1, **o),
    "adamw-max": lambda p, **o: optim.AdamW(p, lr=0.01, maximize=True, **o),
}
OTHERS = {
    "nadam": lambda p: optim.NAdam(p, lr=0.01),
    "radam": lambda p: optim.RAdam(p, lr=0.01),
    "adamax": lambda p: optim.Adamax(p, lr=0.01),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.01),
    "rmsprop-centered": lambda p: optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
    "adafactor": lambda p: optim.Adafactor(p, lr=0.1),
}


class Script:
    """A policy that does what it is told at given steps, and remembers what it saw."""

    name = "script"
    exact_above = -math.inf

    def __init__(self, decisions=None, needs=("secant", "preconditioned gradient"), scales_decay=False):
        self.decisions = decisions or {}
        self.needs = frozenset(needs)
        self.scales_decay = scales_decay
        self.seen = []

    def decide(self, seen):
        self.seen.append(seen)
        return self.decisions.get(seen.step, ())

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def asked(remedy: str, factor: float, **options: str) -> tuple[Decision, ...]:
    return (Decision(remedy, factor, "the test asked for it", 1.0, 0.9, **options),)


def network(seed: int = 0, *, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)


def data(*, dtype: torch.dtype = torch.float32, count: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(count, 3, generator=generator).to(dtype), torch.randn(
        count, 2, generator=generator
    ).to(dtype)


def squared(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def train(model, optimizer, batch, steps, *, before=None):
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = squared(model, batch)
        loss.backward()
        if before is not None:
            before()
        optimizer.step()
        losses.append(loss.item())
    return losses


def scaled_training(optimizer, model, batch, scaler, *, steps, overflow_at=()):
    for step in range(steps):
        optimizer.zero_grad()
        loss = squared(model, batch)
        scaler.scale(loss).backward()
        if step in overflow_at:
            next(model.parameters()).grad.fill_(math.inf)
        scaler.step(optimizer)
        scaler.update()


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]
