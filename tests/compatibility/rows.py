"""What people train with, one row each: a case, the backend that must be chosen for it, and why.

`reference` is a loss that every oracle can differentiate, where that of the case can't be: the same function
of the parameters, written in another way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from cases import CASES, Case, TinyTransformer, cross_entropy, mean_squared_error
from compatibility.functions import HonestTanh, OnceTanh, OpaqueTanh
from compatibility.models import (
    Activation,
    Attention,
    Checkpointed,
    MultiHead,
    PartlyFrozen,
    Recurrent,
    Words,
    in_place,
)

EXACT, DIFFERENCES = "double backward", "central differences"


@dataclass(frozen=True)
class Row:
    """One row of the table of what works."""

    case: Case
    backend: str = EXACT
    reason: str = "agrees with differences"
    reference: Callable | None = None
    verified: bool = True


def regression(dtype):
    return torch.randn(8, 3, dtype=dtype), torch.randn(8, 2, dtype=dtype)


def sequences(dtype):
    return torch.randn(3, 5, 4, dtype=dtype), torch.randn(3, 5, 2, dtype=dtype)


def words(dtype):
    return torch.randint(7, (6, 3)), torch.randint(7, (6,))


def images(dtype):
    return torch.randn(6, 1, 6, 6, dtype=dtype), torch.randint(3, (6,))


def encoder(dropout):
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=dropout, activation="gelu", batch_first=True)
    return nn.Sequential(layer, nn.Linear(4, 2))


def convolutions():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.GELU(), nn.Flatten(), nn.Linear(48, 3)
    )


def wrapped_in(compiler):
    return lambda: compiler(nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)))


def compiled(model):
    return torch.compile(model, backend="aot_eager")


def compiled_in_place(model):
    model.compile(backend="aot_eager")
    return model


def with_function(function):
    return lambda model, batch: functional.mse_loss(
        model.layers[1](function(model.layers[0](batch[0]))), batch[1]
    )


def weight_normed(model, batch):
    length, direction = model.parametrizations.weight.original0, model.parametrizations.weight.original1
    weight = length * direction / torch.linalg.vector_norm(direction, dim=1, keepdim=True)
    return functional.mse_loss(functional.linear(batch[0], weight, model.bias), batch[1])


def mean_of_embeddings(model, batch):
    return functional.cross_entropy(model.out(model.table.weight[batch[0]].mean(1).tanh()), batch[1])


def _case(name, model, batch=regression, loss_fn=mean_squared_error, *, smooth=True):
    return Case(name, model, batch, loss_fn, smooth)


_COMPILED = "before torch.compile agrees with differences"
_HIDES = "hides a part of the Hessian from double backward"

ROWS = [
    *[Row(case) for case in CASES],
    Row(_case("attention-eager", lambda: Attention(fused=False), sequences)),
    Row(_case("attention-fused", lambda: Attention(fused=True), sequences)),
    Row(_case("multi-head-attention", MultiHead, sequences)),
    Row(_case("encoder-layer", lambda: encoder(0.0), sequences)),
    Row(_case("encoder-layer-dropout", lambda: encoder(0.2), sequences)),
    Row(_case("tied-weights", TinyTransformer, lambda _: (torch.randint(7, (2, 5)),) * 2, cross_entropy)),
    Row(_case("frozen-and-unused", PartlyFrozen)),
    Row(_case("in-place", lambda: Activation(in_place))),
    Row(_case("batch-norm", convolutions, images, cross_entropy)),
    Row(
        _case("dropout", lambda: nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 2)))
    ),
    Row(
        _case("weight-norm", lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))),
        DIFFERENCES,
        "WeightNormInterface hides a part",
        weight_normed,
    ),
    Row(_case("lstm", lambda: Recurrent(nn.LSTM), sequences)),
    Row(_case("gru", lambda: Recurrent(nn.GRU), sequences)),
    Row(_case("embedding", lambda: Words(nn.Embedding), words, cross_entropy)),
    Row(_case("embedding-sparse", lambda: Words(nn.Embedding, sparse=True), words, cross_entropy)),
    Row(
        _case("embedding-bag", lambda: Words(nn.EmbeddingBag, mode="mean"), words, cross_entropy),
        DIFFERENCES,
        "double backward failed: NotImplementedError",
        mean_of_embeddings,
    ),
    Row(_case("checkpoint", lambda: Checkpointed(reentrant=False))),
    Row(
        _case("checkpoint-reentrant", lambda: Checkpointed(reentrant=True)),
        DIFFERENCES,
        "double backward failed: RuntimeError",
        lambda model, batch: functional.mse_loss(model.plain(batch[0]), batch[1]),
    ),
    Row(_case("function-honest", lambda: Activation(HonestTanh.apply))),
    Row(
        _case("function-opaque", lambda: Activation(OpaqueTanh.apply)),
        DIFFERENCES,
        _HIDES,
        with_function(torch.tanh),
    ),
    Row(
        _case("function-once-differentiable", lambda: Activation(OnceTanh.apply)),
        DIFFERENCES,
        _HIDES,
        with_function(torch.tanh),
    ),
    Row(
        _case("compiled", wrapped_in(compiled)),
        reason=_COMPILED,
        reference=lambda model, batch: functional.mse_loss(model._orig_mod(batch[0]), batch[1]),
    ),
    Row(
        _case("compiled-in-place", wrapped_in(compiled_in_place)),
        reason=_COMPILED,
        reference=lambda model, batch: functional.mse_loss(model.forward(batch[0]), batch[1]),
    ),
]
