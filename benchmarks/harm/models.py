"""Small networks whose forward pass does more than to return its outputs: one for each way of doing so."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

INPUTS, OUTPUTS = 6, 3


class Perceptron(nn.Module):
    """Two layers, with or without BatchNorm and dropout."""

    def __init__(self, *, norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(INPUTS, 8), nn.Linear(8, OUTPUTS)
        self.norm = nn.BatchNorm1d(8) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.dropout(torch.tanh(self.norm(self.first(x)))))


class Convolution(nn.Module):
    """Convolution, GroupNorm, and a BatchNorm that stays in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv1d(1, 4, 3, padding=1), nn.BatchNorm1d(4, momentum=None)
        self.group, self.out = nn.GroupNorm(2, 4), nn.Linear(4 * INPUTS, OUTPUTS)

    def train(self, mode: bool = True) -> Convolution:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.norm(self.convolution(x.unsqueeze(1))))
        return self.out(self.group(hidden).flatten(1))


class Recurrent(nn.Module):
    """Two recurrent layers with dropout between them."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(2, 5, num_layers=2, dropout=0.2, batch_first=True)
        self.out = nn.Linear(5, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cell(x.view(len(x), 3, 2))[0][:, -1])


class Attention(nn.Module):
    """One transformer layer with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(2, 8), nn.Linear(8, OUTPUTS)
        self.layer = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(self.embed(x.view(len(x), 3, 2))).mean(1))


class KeyEncoder(nn.Module):
    """A frozen copy that follows the trained weights in forward, and a queue that is replaced, as in MoCo."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = Perceptron(norm=True), Perceptron(norm=True).requires_grad_(False)
        self.register_buffer("queue", torch.zeros(4, OUTPUTS))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            for one, other in zip(self.query.parameters(), self.key.parameters(), strict=True):
                other.data.mul_(0.9).add_(one, alpha=0.1)
            keys = self.key(x)
            self.queue = torch.cat([keys[:1], self.queue[:-1]])
        return self.query(x) - keys + self.queue.mean(0)


class Teacher(Perceptron):
    """An average of the weights that requires a gradient by mistake, moved in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Linear(INPUTS, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        self.teacher.weight.data.mul_(0.99)
        return super().forward(x) - self.teacher(x).detach()


class Renormalised(nn.Module):
    """An embedding whose rows are cut to a largest norm where they are used, with a row for padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 6, max_norm=0.3, padding_idx=0)
        self.out = nn.Linear(6, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.embedding((x[:, :2] * 2).long().abs().clamp(max=7)).mean(1))


class Codebook(nn.Module):
    """Buffers that forward writes into and replaces, one of which is another's alias."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(INPUTS, 4), nn.Linear(4, OUTPUTS)
        self.register_buffer("codes", torch.randn(5, 4))
        self.register_buffer("counts", torch.zeros(5))
        self.register_buffer("alias", self.counts)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inner(x)
        nearest = torch.cdist(hidden.detach(), self.codes.to(hidden.dtype)).argmin(1)
        chosen = self.codes[nearest].to(hidden.dtype)
        if self.training:
            self.counts.mul_(0.9).index_add_(0, nearest, torch.ones(len(x)))
            self.codes = self.codes * 0.99 + 0.01 * hidden.detach().mean(0).to(self.codes.dtype)
        return self.out(hidden + (chosen - hidden).detach())


class Diary(Perceptron):
    """Attributes: a number of calls, a list, a tensor that is no buffer, a generator, a switched mode."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.means, self.level = 0, [], torch.zeros(1)
        self.draws = torch.Generator().manual_seed(5)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.means = [*self.means[-2:], float(x.mean())]
        self.level.mul_(0.9).add_(float(x.mean()))
        self.first.training = not self.first.training
        self.last = x
        noise = torch.randn(INPUTS, generator=self.draws).to(x.dtype)
        return super().forward(x + 0.01 * noise) * (1 + 0.01 * self.calls)


class Drawing(Perceptron):
    """Random numbers of torch, numpy and Python in forward."""

    def forward(self, x: Tensor) -> Tensor:
        scale = 1 + 0.01 * (float(np.random.randn()) + random.random())
        return super().forward(x * scale + 0.01 * torch.randn_like(x))


class Checkpointed(Perceptron):
    """Activations that are computed again in backward, reentrant or not."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__(dropout=0.2)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        if self.reentrant:
            x = x.clone().requires_grad_()
        hidden = checkpoint(
            lambda one: torch.tanh(self.dropout(self.first(one))), x, use_reentrant=self.reentrant
        )
        return self.second(hidden)


class Hidden(torch.autograd.Function):
    """A cube whose second derivative is hidden from double backward."""

    @staticmethod
    def forward(ctx, x):  # noqa: ANN001, ANN205
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):  # noqa: ANN001, ANN205
        (x,) = ctx.saved_tensors
        return gradient * 3 * x.detach() ** 2


class Custom(Perceptron):
    """Differences of gradients instead of double backward."""

    def forward(self, x: Tensor) -> Tensor:
        return self.second(Hidden.apply(self.norm(self.first(x))))


def _tied() -> nn.Module:
    model = Perceptron()
    model.second = nn.Linear(INPUTS, OUTPUTS)
    model.norm = nn.Linear(8, INPUTS, bias=False)
    model.norm.weight = nn.Parameter(model.first.weight.detach().t().clone())
    return model


def _changed(change: Callable[[nn.Module], object]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = Perceptron(norm=True)
        change(model.first)
        return model

    return make


MODELS: dict[str, Callable[[], nn.Module]] = {
    "perceptron": Perceptron,
    "batch norm": lambda: Perceptron(norm=True),
    "dropout": lambda: Perceptron(norm=True, dropout=0.3),
    "convolution": Convolution,
    "recurrent": Recurrent,
    "attention": Attention,
    "key encoder": KeyEncoder,
    "teacher": Teacher,
    "largest norm": Renormalised,
    "codebook": Codebook,
    "attributes": Diary,
    "random numbers": Drawing,
    "checkpoint": lambda: Checkpointed(reentrant=False),
    "reentrant checkpoint": lambda: Checkpointed(reentrant=True),
    "custom function": Custom,
    "joined layers": _tied,
    "spectral norm": _changed(nn.utils.spectral_norm),
    "weight norm": _changed(nn.utils.weight_norm),
    "parametrised": _changed(parametrizations.spectral_norm),
    "frozen part": _changed(lambda layer: layer.requires_grad_(False)),  # type: ignore[attr-defined]
}
"""Networks by name, each made anew by a call."""
