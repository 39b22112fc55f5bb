"""Models, data and training runs on which the curvature tools are compared.

Every case has the shape that all peers understand, ``criterion(model(inputs), targets)`` with a mean loss,
no dropout and no batch statistics: what happens beyond that is `limits`. The data are scikit-learn's digits
and the source of Python's standard library.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock.demo.data import load_digits, load_stdlib_text

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """One model, its data, and the training run along which it is probed.

    Attributes:
        name: Short identifier.
        model: Makes the model; random numbers are seeded by the caller.
        batch: Makes the full batch, inputs and targets.
        criterion: Mean loss of predictions and targets.
        learning_rate: η of Adam.
        burn_in: Steps before the first probe.
        interval: Steps between two probes.
        probes: Number of probes.
        settings_of: The case whose settings are taken over, where finding them would take too long.
    """

    name: str
    model: Callable[[], nn.Module]
    batch: Callable[[], Batch]
    criterion: nn.Module
    learning_rate: float
    burn_in: int
    interval: int = 10
    probes: int = 6
    settings_of: str | None = None


@dataclass(frozen=True)
class Problem:
    """A model at one point of its training, and the symmetric operator that is asked about.

    Attributes:
        model: The live model.
        criterion: Mean loss of predictions and targets.
        batch: Inputs and targets.
        optimizer: Its live optimizer; gradients of `batch` are in ``.grad``.
        preconditioned: Whether A^{1/2}HA^{1/2} is sought instead of H.
    """

    model: nn.Module
    criterion: nn.Module
    batch: Batch
    optimizer: torch.optim.Optimizer
    preconditioned: bool = False

    @property
    def parameters(self) -> list[Tensor]:
        """The trainable tensors."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @property
    def size(self) -> int:
        """Number of trainable parameters."""
        return sum(parameter.numel() for parameter in self.parameters)

    def loss(self) -> Tensor:
        """Return the mean loss of the batch."""
        loss: Tensor = self.criterion(self.model(self.batch[0]), self.batch[1])
        return loss


@dataclass(frozen=True)
class Snapshot:
    """Weights, optimizer state and gradients between ``backward()`` and ``step()``."""

    model: dict[str, Any]
    optimizer: dict[str, Any]
    gradients: list[Tensor]

    def restore(self, problem: Problem) -> None:
        """Put model and optimizer back to this point, in train mode."""
        problem.model.load_state_dict(self.model)
        problem.model.train()
        problem.optimizer.load_state_dict(copy.deepcopy(self.optimizer))
        for parameter, gradient in zip(problem.parameters, self.gradients, strict=True):
            parameter.grad = gradient.clone()


def start(case: Case) -> Problem:
    """Return a case before its first step."""
    torch.manual_seed(0)
    model = case.model()
    optimizer = torch.optim.Adam(model.parameters(), lr=case.learning_rate)
    return Problem(model, case.criterion, case.batch(), optimizer)


def train(problem: Problem, case: Case) -> list[Snapshot]:
    """Train and return the points to probe."""
    snapshots = []
    for step in range(case.burn_in + case.interval * (case.probes - 1) + 1):
        problem.optimizer.zero_grad()
        problem.loss().backward()  # type: ignore[no-untyped-call]
        if step >= case.burn_in and (step - case.burn_in) % case.interval == 0:
            gradients = [
                parameter.grad.clone() for parameter in problem.parameters if parameter.grad is not None
            ]
            snapshots.append(
                Snapshot(
                    copy.deepcopy(problem.model.state_dict()),
                    copy.deepcopy(problem.optimizer.state_dict()),
                    gradients,
                )
            )
        problem.optimizer.step()
    return snapshots


class Gpt(nn.Module):
    """A causal pre-norm Transformer on bytes; returns logits of shape (batch · length, 256)."""

    def __init__(self, *, width: int, layers: int, heads: int = 4, length: int = 64) -> None:
        super().__init__()
        self.token = nn.Embedding(256, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.02)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, 256, bias=False)
        for parameter in self.parameters():
            if parameter.ndim >= 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map bytes of shape (batch, length) to logits."""
        stream = self.blocks(self.token(tokens) + self.position)
        logits: Tensor = self.output(self.norm(stream))
        return logits.flatten(0, 1)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, stream: Tensor) -> Tensor:
        parts = self.qkv(self.norms[0](stream)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        stream = stream + self.mix(mixed.transpose(1, 2).flatten(2))
        output: Tensor = stream + self.mlp(self.norms[1](stream))
        return output


def text(sequences: int, length: int = 64) -> Batch:
    """Return bytes of Python's own source and the bytes that follow them, flattened."""
    rows = load_stdlib_text(sequences, length=length + 1)
    return rows[:, :-1].contiguous(), rows[:, 1:].flatten()


def digits(count: int, *, flat: bool) -> Batch:
    """Return images of digits and their classes as one-hot vectors."""
    images, labels = load_digits(count)
    return images.flatten(1) if flat else images, functional.one_hot(labels, 10).float()


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.GELU(),
        nn.AvgPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(64, 128, 3, padding=1),
        nn.GELU(),
        nn.AvgPool2d(4),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


_ENTROPY = nn.CrossEntropyLoss()
CASES = {
    case.name: case
    for case in (
        Case("mlp-9k", _mlp, lambda: digits(1024, flat=True), nn.MSELoss(), 2e-3, burn_in=200),
        Case("cnn-94k", _cnn, lambda: digits(64, flat=False), nn.MSELoss(), 2e-3, burn_in=100),
        Case("gpt-237k", lambda: Gpt(width=64, layers=4), lambda: text(4), _ENTROPY, 1e-3, burn_in=60),
        Case("gpt-1M", lambda: Gpt(width=128, layers=5), lambda: text(4), _ENTROPY, 1e-3, burn_in=40),
        Case(
            "gpt-11M",
            lambda: Gpt(width=384, layers=6),
            lambda: text(1),
            _ENTROPY,
            3e-4,
            burn_in=20,
            interval=5,
            probes=4,
            settings_of="gpt-237k",
        ),
    )
}
