"""Regression with a residual perceptron: LayerNorm, GELU, and the Huber loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock.demo.options import check_count
from foreshock.lab.tasks.streams import stream_batches
from foreshock.lab.tasks.task import Batch, Task, build_seeded

DIMENSION = 6
HELD_OUT = 200
DATA_SEED = 0  # the points stay the same for every seed of the weights
TAIL = 0.1  # where the Huber loss goes from quadratic to linear; targets are of order one


def build_residual(
    *, batch_size: int | None, seed: int, points: int = 200, width: int = 48, blocks: int = 3
) -> Task:
    """Build pre-norm residual blocks that fit f(x) = sin 3x₁ · cos 2x₂ + x₃|x₄| − tanh(4x₅x₆).

    Args:
        batch_size: Points in a batch; None for all.
        seed: Seed of the initial weights and of the batches.
        points: Number of points, standard normal in six dimensions.
        width: Width of the residual stream; a block's hidden layer has twice as many units.
        blocks: Number of blocks.

    Raises:
        ValueError: If an option is out of range.
    """
    for name, value in (("points", points), ("width", width), ("blocks", blocks)):
        check_count(name, value)
    generator = torch.Generator().manual_seed(DATA_SEED)
    x = torch.randn(points + HELD_OUT, DIMENSION, generator=generator)
    y = torch.sin(3 * x[:, 0]) * torch.cos(2 * x[:, 1]) + x[:, 2] * x[:, 3].abs()
    y = (y - torch.tanh(4 * x[:, 4] * x[:, 5])).unsqueeze(1)
    return Task(
        name="residual",
        model=build_seeded(lambda: _network(width, blocks), seed=seed),
        loss_fn=huber_loss,
        batches=stream_batches((x[:points], y[:points]), batch_size=batch_size, seed=seed),
        batch_size=batch_size,
        examples=points,
        validation=(x[points:], y[points:]),
    )


class ResidualBlock(nn.Module):
    """Add a GELU layer of twice the width to a normalised stream."""

    def __init__(self, width: int) -> None:
        """Create the layers.

        Args:
            width: Width of the stream.
        """
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, 2 * width)
        self.output = nn.Linear(2 * width, width)

    def forward(self, stream: Tensor) -> Tensor:
        """Map a stream of shape (N, width) to the next one."""
        added: Tensor = self.output(functional.gelu(self.hidden(self.norm(stream))))
        return stream + added


def huber_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean Huber loss, quadratic up to an error of .1, over its square scale .1².

    Args:
        model: Maps inputs to predictions of the targets' shape.
        batch: Inputs (N, 6) and targets (N, 1).
    """
    inputs, targets = batch
    return functional.huber_loss(model(inputs), targets, delta=TAIL) / TAIL**2


def _network(width: int, blocks: int) -> nn.Module:
    middle = [ResidualBlock(width) for _ in range(blocks)]
    return nn.Sequential(nn.Linear(DIMENSION, width), *middle, nn.LayerNorm(width), nn.Linear(width, 1))
