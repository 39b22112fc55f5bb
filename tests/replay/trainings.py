"""Trainings that a replay has to come to bit by bit, each with a source of chance or state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn, optim
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from foreshock import MicroBatches
from foreshock.recorder import Recorder
from foreshock.replay import Loop


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTM(4, 8, num_layers=2, dropout=0.2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.cell(x.view(len(x), -1, 4))[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.block(self.embed(x.view(len(x), -1, 4))).mean(1))


def mlp():
    return nn.Sequential(nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3))


def cnn():
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3),
        nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


def loss_fn(model, batch):
    x, y = batch
    return functional.cross_entropy(model(x), y)


@dataclass(frozen=True)
class Case:
    model: Any
    scaled: bool = False
    scheduled: bool = False
    clip: float | None = None
    parts: int = 1
    workers: int = 0


CASES = {
    "mlp": Case(mlp),
    "cnn with batch normalisation and dropout": Case(cnn),
    "lstm": Case(Recurrent, scheduled=True),
    "transformer": Case(Attention, scheduled=True, clip=0.5),
    "workers in the loader": Case(cnn, workers=2),
    "accumulation": Case(cnn, parts=3),
    "gradient scaler": Case(mlp, scaled=True, clip=0.3),
}


def build(case: Case, seed: int = 0) -> Loop:
    torch.manual_seed(seed)
    model = case.model()
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    return Loop(
        model,
        loss_fn,
        optimizer,
        scheduler=optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=60) if case.scheduled else None,
        scaler=torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=7) if case.scaled else None,
        clip=case.clip,
    )


def batches(case: Case):
    """Yield the batches of several epochs, shuffled by a generator of their own."""
    generator = torch.Generator().manual_seed(7)
    x, y = torch.randn(60, 16, generator=generator), torch.randint(0, 3, (60,), generator=generator)
    loader = DataLoader(
        TensorDataset(x, y), 12, shuffle=True, generator=generator, num_workers=case.workers,
        multiprocessing_context="fork" if case.workers else None,
    )  # fmt: skip
    for _ in range(12):
        for inputs, labels in loader:
            parts = [(inputs[i :: case.parts], labels[i :: case.parts]) for i in range(case.parts)]
            yield MicroBatches(parts) if case.parts > 1 else parts[0]


def train(case: Case, steps: int, *, snapshot_at: int):
    """Train from the start; return the snapshot, and steps and losses."""
    loop = build(case)
    recorder = Recorder(every=1, scheduler=loop.scheduler, scaler=loop.scaler)
    recorder.attach(loop.model, [loop.optimizer])
    losses, snapshot = [], None
    for step, batch in zip(range(steps), batches(case), strict=False):
        loss = loop.backward(batch)
        losses.append((step, float(loss)))
        if step == snapshot_at:
            recorder.take(step, loss=loss)
            snapshot = recorder.newest()
        loop.update()
    return snapshot, losses
