"""Models × losses × data on which the engine is checked; small enough for dense Hessians.

Each case is built in any dtype from its own seed. `smooth` cases have a continuous Hessian, so that finite
differences are a second oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Batch = Any


@dataclass(frozen=True)
class Case:
    """One model with its loss and a batch.

    Attributes:
        name: Name in test ids.
        model: Makes the model; random numbers are seeded by the caller.
        batch: Makes the batch in a dtype.
        loss_fn: (model, batch) → mean loss.
        smooth: Whether the Hessian is continuous.
    """

    name: str
    model: Callable[[], nn.Module]
    batch: Callable[[torch.dtype], Batch]
    loss_fn: Callable[[nn.Module, Batch], Tensor]
    smooth: bool = True

    def build(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[nn.Module, Batch]:
        """Return the model and its batch."""
        torch.manual_seed(seed)
        return self.model().to(dtype), self.batch(dtype)


def mean_squared_error(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean squared error of (inputs, targets)."""
    return functional.mse_loss(model(batch[0]), batch[1])


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of (inputs, classes), over all positions."""
    logits = model(batch[0])
    return functional.cross_entropy(logits.flatten(0, -2), batch[1].flatten())


class TinyTransformer(nn.Module):
    """A causal pre-norm Transformer of one block, with fused attention and a tied output."""

    def __init__(self, vocabulary: int = 7, width: int = 8, heads: int = 2, length: int = 5) -> None:
        super().__init__()
        self.heads = heads
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.randn(length, width) / 4)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits of shape (batch, length, vocabulary)."""
        x = self.token(tokens) + self.position
        batch, length, width = x.shape
        parts = self.qkv(self.norms[0](x)).view(batch, length, 3, self.heads, -1).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in parts)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mix(attended.transpose(1, 2).reshape(batch, length, width))
        x = x + self.mlp(self.norms[1](x))
        logits: Tensor = self.norms[2](x) @ self.token.weight.T
        return logits


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 10), nn.Tanh(), nn.Linear(10, 10), nn.Tanh(), nn.Linear(10, 2))


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.GELU(),
        nn.AvgPool2d(2),
        nn.Conv2d(3, 4, 3, padding=1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(4 * 3 * 3, 4),
    )


def _cnn_with_batch_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(27, 4),
    )


def _regression(dtype: torch.dtype) -> Batch:
    return torch.randn(12, 3, dtype=dtype), torch.randn(12, 2, dtype=dtype)


def _images(dtype: torch.dtype) -> Batch:
    return torch.randn(10, 1, 6, 6, dtype=dtype), torch.randint(4, (10,))


def _text(dtype: torch.dtype) -> Batch:
    return torch.randint(7, (6, 5)), torch.randint(7, (6, 5))


CASES = [
    Case("mlp", _mlp, _regression, mean_squared_error),
    Case("cnn", _cnn, _images, cross_entropy),
    Case("cnn-batch-norm", _cnn_with_batch_norm, _images, cross_entropy, smooth=False),
    # Narrower than by default: the dense Hessian has a row for each parameter.
    Case("transformer", partial(TinyTransformer, width=4), _text, cross_entropy),
]
DETERMINISTIC = [case for case in CASES if case.name != "cnn-batch-norm"]
