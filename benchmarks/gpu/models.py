"""The language models that are trained in the check, and their batches.

GPT with learned positions and a tied output, trained as people train it: float32 weights under bfloat16
autocast, torch's fused attention, fused AdamW. The text is the source of Python's standard library, cut into
words, so that nothing has to be downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from benchmarks.curvature.cases import Gpt
from benchmarks.gpu.setting import Setting
from torch import Tensor, nn
from torch.nn import functional

from foreshock.lab.tasks.corpus import encode_words, read_text

Batch = tuple[Tensor, Tensor]
_BATCHES = 64  # different ones, seen in turn


@dataclass(frozen=True)
class Size:
    """Sizes of a GPT and of its batches.

    Attributes:
        width: Of the residual stream.
        layers: Blocks.
        heads: Attention heads.
        length: Tokens of a sequence.
        sequences: Of a batch.
        vocabulary: Tokens that there are.
    """

    width: int
    layers: int
    heads: int
    length: int
    sequences: int
    vocabulary: int


GPT_124M = Size(width=768, layers=12, heads=12, length=1024, sequences=16, vocabulary=50_304)
TINY = Size(width=32, layers=2, heads=2, length=16, sequences=4, vocabulary=300)


def make_model(size: Size, setting: Setting, *, seed: int = 0) -> nn.Module:
    """Return an untrained GPT on the device, the same for the same seed.

    Args:
        size: Its sizes.
        setting: Where.
        seed: Of its weights.
    """
    torch.manual_seed(seed)
    with torch.device(setting.device):
        model = Gpt(width=size.width, layers=size.layers, heads=size.heads, length=size.length)
        model.token = nn.Embedding(size.vocabulary, size.width)
        model.output = nn.Linear(size.width, size.vocabulary, bias=False)
    nn.init.normal_(model.token.weight, std=0.02)
    model.output.weight = model.token.weight
    return model


def make_batches(size: Size, setting: Setting, *, count: int = _BATCHES) -> list[Batch]:
    """Return batches of text on the device: tokens, and the tokens that follow them.

    Args:
        size: Sizes of the model.
        setting: Where.
        count: How many.
    """
    symbols = _symbols(size.vocabulary).to(setting.device)
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(count):
        starts = torch.randint(len(symbols) - size.length - 1, (size.sequences, 1), generator=generator)
        places = (starts + torch.arange(size.length + 1)).to(setting.device)
        rows = symbols[places]
        batches.append((rows[:, :-1].contiguous(), rows[:, 1:].contiguous()))
    return batches


def bfloat16_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of a batch, the model under bfloat16 autocast."""
    with torch.autocast(batch[0].device.type, dtype=torch.bfloat16):
        logits = model(batch[0])
    return functional.cross_entropy(logits.float(), batch[1].flatten())


def make_optimizer(model: nn.Module, *, rate: float = 3e-4, **options: bool) -> torch.optim.Optimizer:
    """Return AdamW with weight decay on matrices only, in two parameter groups.

    Args:
        model: The model.
        rate: η.
        options: Of the optimizer: fused, capturable, foreach.
    """
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), **options)


def count_parameters(model: nn.Module) -> int:
    """Return how many parameters a model has."""
    return sum(parameter.numel() for parameter in model.parameters())


@cache
def _symbols(vocabulary: int) -> Tensor:
    return encode_words(read_text(), vocabulary=vocabulary)
