"""The models of the rows: small, and each with one thing that people train with."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class Attention(nn.Module):
    """Self-attention over a short sequence, eager or fused."""

    def __init__(self, fused, backends=None):
        super().__init__()
        self.fused, self.backends = fused, backends
        self.qkv = nn.Linear(4, 12)
        self.out = nn.Linear(4, 2)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 2)).transpose(1, 3).unbind(2)
        if self.fused:
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = (q @ k.transpose(-1, -2) / 2**0.5).masked_fill(
                torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1), -torch.inf
            )
            mixed = scores.softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


class MultiHead(nn.Module):
    """nn.MultiheadAttention."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.out = nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.attention(x, x, x, need_weights=False)[0])


class Recurrent(nn.Module):
    """An LSTM or a GRU with a read-out."""

    def __init__(self, kind):
        super().__init__()
        self.cell = kind(4, 5, batch_first=True)
        self.out = nn.Linear(5, 2)

    def forward(self, x):
        return self.out(self.cell(x)[0])


class Words(nn.Module):
    """A mean of embeddings, with a read-out."""

    def __init__(self, kind, **options):
        super().__init__()
        self.table = kind(7, 4, **options)
        self.out = nn.Linear(4, 7)

    def forward(self, tokens):
        found = self.table(tokens)
        return self.out((found if found.dim() == 2 else found.mean(1)).tanh())


class Checkpointed(nn.Module):
    """An MLP whose middle is recomputed in backward."""

    def __init__(self, *, reentrant):
        super().__init__()
        self.reentrant = reentrant
        self.first, self.out = nn.Linear(3, 6), nn.Linear(6, 2)
        self.middle = nn.Sequential(nn.Linear(6, 6), nn.Tanh())

    def forward(self, x):
        return self.out(checkpoint(self.middle, self.first(x), use_reentrant=self.reentrant))

    def plain(self, x):
        return self.out(self.middle(self.first(x)))


class Activation(nn.Module):
    """An MLP with any function between its layers."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2))

    def forward(self, x):
        return self.layers[1](self.function(self.layers[0](x)))


class PartlyFrozen(nn.Module):
    """A frozen layer in the middle, and a layer that nothing uses."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2))
        self.layers[2].requires_grad_(requires_grad=False)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        return self.layers(x)


def in_place(x):
    """Return sigmoid(x + 1)·2 − x, most of it in place."""
    y = x.clone().add_(1).sigmoid_()
    return y.mul(2).sub_(x)
