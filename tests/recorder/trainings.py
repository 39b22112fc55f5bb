"""Small trainings, each with a source of state that a snapshot has to hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn, optim
from torch.nn import functional

from foreshock import Monitor
from foreshock.recorder import Recorder


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTM(4, 8, num_layers=2, dropout=0.2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.cell(x.view(len(x), -1, 4))[0][:, -1])


class Attention(nn.Module):
    """Tied: the head has the weights of the embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.head, self.mirror = nn.Linear(8, 3), nn.Linear(8, 3)
        self.mirror.weight = self.head.weight

    def forward(self, x):
        hidden = self.block(self.embed(x.view(len(x), -1, 4))).mean(1)
        return self.head(hidden) + self.mirror(hidden)


class Counting(nn.Module):
    """Buffers of no dimension, of integers, of complex numbers, of none; a counter that is a plain number."""

    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(16, 3), 0
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("phase", torch.ones(2, dtype=torch.complex64))
        self.register_buffer("wide", torch.ones(2, dtype=torch.complex128), persistent=False)
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("narrow", torch.ones(3, dtype=torch.bfloat16))

    def forward(self, x):
        self.calls += 1
        self.seen += 1
        self.phase.mul_(1j)
        self.wide.mul_(1.01j)
        self.narrow.mul_(1.1)
        return self.layer(x) * (1 + 0.01 * self.calls) * self.phase.real.mean().add(2) + self.narrow.float()


def mlp():
    return nn.Sequential(nn.Linear(16, 12), nn.Tanh(), nn.Dropout(0.2), nn.Linear(12, 3))


def cnn():
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3),
        nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


def halved():
    return mlp().to(torch.bfloat16)


@dataclass(frozen=True)
class Case:
    """One training: how it is made, and what of its loop is unusual."""

    model: Callable[[], nn.Module] = mlp
    optimizer: Callable[[nn.Module], Any] = lambda model: optim.Adam(model.parameters(), lr=0.01)
    scheduler: Callable[[Any], Any] | None = None
    scaled: bool = False
    parts: int = 1
    dtype: torch.dtype = torch.float32
    every: int = 4
    unscaled: bool = False
    watched: bool = True


class Master(optim.Optimizer):
    """A user's: float32 copies of half-precision weights, a counter of its own, one step count for all."""

    def __init__(self, params, lr=0.01):
        super().__init__(params, {"lr": lr})
        self.rounds = 0
        self.shared = torch.zeros(())

    @torch.no_grad()
    def step(self, closure=None):
        self.rounds += 1
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state.update(
                        master=p.float().clone(), count=self.shared, note=None, nested={"a": [1.5, 2]}
                    )
                state["nested"]["a"][0] += 0.25
                state["count"] += 1
                rate = group["lr"] / (1 + 0.01 * self.rounds + 0.001 * float(state["count"]))
                state["master"].add_(p.grad.float().sign(), alpha=-rate * state["nested"]["a"][0])
                p.copy_(state["master"])


def _adam(**options):
    return lambda model: optim.Adam(model.parameters(), **({"lr": 0.01} | options))


def _two_groups(model):
    weights = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim < 2]
    return optim.AdamW(
        [{"params": weights, "weight_decay": 0.1, "betas": (0.8, 0.95)}, {"params": rest, "eps": 1e-6}]
    )


CASES = {
    "mlp": Case(),
    "cnn": Case(cnn),
    "lstm": Case(Recurrent, _adam(foreach=True)),
    "transformer": Case(Attention, lambda model: optim.AdamW(model.parameters(), lr=0.01)),
    "counters and odd buffers": Case(Counting),
    "accumulation": Case(cnn, parts=3),
    "gradient scaler": Case(scaled=True),
    "gradients that are unscaled and clipped": Case(scaled=True, unscaled=True),
    "scaler and schedule": Case(
        scaled=True, scheduler=lambda o: optim.lr_scheduler.OneCycleLR(o, 0.05, total_steps=60)
    ),
    "milestones": Case(scheduler=lambda o: optim.lr_scheduler.MultiStepLR(o, [5, 9, 20])),
    "plateau": Case(scheduler=lambda o: optim.lr_scheduler.ReduceLROnPlateau(o, patience=1)),
    "schedules in turn": Case(
        scheduler=lambda o: optim.lr_scheduler.SequentialLR(
            o,
            [optim.lr_scheduler.LinearLR(o, 0.1, total_iters=8), optim.lr_scheduler.CosineAnnealingLR(o, 20)],
            [8],
        )
    ),
    "groups": Case(optimizer=_two_groups),
    "amsgrad": Case(optimizer=_adam(amsgrad=True, weight_decay=0.01)),
    "capturable, rate in a tensor": Case(optimizer=_adam(lr=torch.tensor(0.01), foreach=False)),
    "fused": Case(optimizer=_adam(fused=True)),
    "sgd without momentum": Case(optimizer=lambda m: optim.SGD(m.parameters(), lr=0.05)),
    "sgd": Case(optimizer=lambda m: optim.SGD(m.parameters(), lr=0.05, momentum=0.9, nesterov=True)),
    "nadam": Case(optimizer=lambda m: optim.NAdam(m.parameters())),
    "adafactor": Case(optimizer=lambda m: optim.Adafactor(m.parameters())),
    "rmsprop": Case(optimizer=lambda m: optim.RMSprop(m.parameters(), centered=True, momentum=0.5)),
    "bfloat16": Case(halved, dtype=torch.bfloat16),
    "a user's optimizer": Case(halved, lambda m: Master(m.parameters()), dtype=torch.bfloat16, watched=False),
    "two optimizers": Case(
        optimizer=lambda m: [
            optim.Muon([p for p in m.parameters() if p.ndim == 2]),
            optim.AdamW([p for p in m.parameters() if p.ndim != 2]),
        ]
    ),
}


class Loop:
    """A training that goes on, step by step.

    Args:
        case: What is trained.
        recorder: Of a monitor; None for none.
        run: Folder of its log.
    """

    def __init__(self, case: Case, *, recorder: dict[str, Any] | None = None, run=None, seed=0):
        torch.manual_seed(seed)
        self.case, self.model = case, case.model()
        made = case.optimizer(self.model)
        self.optimizers = made if isinstance(made, list) else [made]
        self.scheduler = case.scheduler(self.optimizers[0]) if case.scheduler else None
        self.scaler = (
            torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=7) if case.scaled else None
        )
        self.losses: list[torch.Tensor] = []
        self.others = {"scheduler": self.scheduler, "scaler": self.scaler}
        self.monitor = self.recorder = None
        if recorder is not None:
            self.recorder = Recorder(**({"every": case.every} | self.others | recorder))
            if case.watched:
                self.monitor = Monitor(
                    self.model, self.optimizers, run=run, recorder=self.recorder, full_batch=False
                )
            else:
                self.recorder.attach(self.model, self.optimizers)

    def batch(self, step):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(12, 16, generator=generator).to(self.case.dtype)
        return x, torch.randint(0, 3, (12,), generator=generator)

    def train(self, first, last):
        """Take the steps from one to another, both included."""
        for step in range(first, last + 1):
            for one in self.optimizers:
                one.zero_grad()
            batch, total = self.batch(step), 0.0
            for part in range(self.case.parts):
                x, y = (one[part :: self.case.parts] for one in batch)
                loss = functional.cross_entropy(self.model(x).float(), y) / self.case.parts
                (loss if self.scaler is None else self.scaler.scale(loss)).backward()
                total = total + loss.detach()
            self.losses.append(total)
            if self.case.unscaled:
                self.scaler.unscale_(self.optimizers[0])
                nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)
            if self.monitor is not None:
                scale = self.scaler.get_scale() if self.case.scaled and not self.case.unscaled else 1.0
                self.monitor.observe(batch, total, gradient_scale=scale)
            elif self.recorder is not None:
                self.recorder.take(step, loss=total)
            self.finish(total)
        return self

    def finish(self, loss):
        """Take what comes after `observe` in a step."""
        for one in self.optimizers:
            if self.scaler is None:
                one.step()
            else:
                self.scaler.step(one)
        if self.scaler is not None:
            self.scaler.update()
        if isinstance(self.scheduler, optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(loss)
        elif self.scheduler is not None:
            self.scheduler.step()

    def bits(self):
        """Return all that the rest of the training depends on, in bytes."""
        parts = {f"model {k}": v for k, v in [*self.model.named_parameters(), *self.model.named_buffers()]}
        for index, one in enumerate(self.optimizers):
            state = one.state_dict()
            parts |= {f"{index} {p} {k}": v for p, kept in state["state"].items() for k, v in kept.items()}
            parts |= {
                f"{index} group {n} {k}": v for n, g in enumerate(state["param_groups"]) for k, v in g.items()
            }
        parts["random"] = torch.get_rng_state()
        if self.scaler is not None:
            parts["scaler"] = self.scaler.state_dict()
        if self.scheduler is not None:
            parts["schedule"] = {k: v for k, v in self.scheduler.state_dict().items() if k != "_schedulers"}
        return {name: _bits(value) for name, value in parts.items()}


def _bits(value):
    if isinstance(value, torch.Tensor):
        return (
            str(value.dtype),
            tuple(value.shape),
            value.detach().contiguous().reshape(-1).view(torch.uint8).tolist(),
        )
    return repr(value)
