"""A language model whose last layer is a mixture of experts with top-1 routing, cross-entropy."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock.demo.options import check_count
from foreshock.lab.tasks.causal import Block, CausalSizes
from foreshock.lab.tasks.corpus import BYTES, byte_pairs
from foreshock.lab.tasks.streams import stream_batches
from foreshock.lab.tasks.task import Task, build_seeded, cross_entropy


def build_experts(
    *,
    batch_size: int | None,
    seed: int,
    sequences: int = 32,
    length: int = 16,
    context: int = 8,
    width: int = 32,
    experts: int = 4,
) -> Task:
    """Build a causal block, then a switch layer (Fedus et al. 2021), on bytes of Python's source.

    Every position goes through the expert that its router prefers, times the router's probability: where
    two experts are equally good the loss is discontinuous. All experts are computed, as is usual for few.

    Args:
        batch_size: Sequences in a batch; None for all.
        seed: Seed of the initial weights and of the batches.
        sequences: Number of sequences.
        length: Bytes that are read in each.
        context: Bytes that are read before the first prediction that counts, in addition to one.
        width: Width of the residual stream, a multiple of the two heads.
        experts: Number of experts.

    Raises:
        ValueError: If an option is out of range.
    """
    check_count("experts", experts)
    sizes = CausalSizes(BYTES, length, width=width, heads=2)
    pair, held_out = byte_pairs(None, sequences, length=length, context=context)
    model = build_seeded(lambda: ExpertsReader(sizes, experts), seed=seed)
    batches = stream_batches(pair, batch_size=batch_size, seed=seed)
    return Task("experts", model, cross_entropy, batches, batch_size, sequences, held_out)


class Switch(nn.Module):
    """Add, at every position, the output of one of several GELU layers to a normalised stream."""

    def __init__(self, width: int, experts: int) -> None:
        """Create the layers.

        Args:
            width: Width of the stream.
            experts: Number of experts.
        """
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.router = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(experts)
        )

    def forward(self, stream: Tensor) -> Tensor:
        """Map a stream of shape (N, length, width) to the next one."""
        inputs = self.norm(stream)
        shares = self.router(inputs).softmax(dim=-1)
        chosen = functional.one_hot(shares.argmax(dim=-1), shares.shape[-1]).to(shares.dtype)
        outputs = torch.stack([expert(inputs) for expert in self.experts], dim=-1)
        added: Tensor = (outputs * (shares * chosen).unsqueeze(-2)).sum(dim=-1)
        return stream + added


class ExpertsReader(nn.Module):
    """Read bytes and score the next one at every position."""

    def __init__(self, sizes: CausalSizes, experts: int) -> None:
        """Create the layers.

        Args:
            sizes: Sizes of the causal block.
            experts: Number of experts.
        """
        super().__init__()
        width = sizes.width
        self.embedding = nn.Embedding(BYTES, width)
        self.position = nn.Parameter(0.02 * torch.randn(sizes.length, width))
        self.layers = nn.Sequential(Block(sizes), Switch(width, experts), nn.LayerNorm(width))
        self.output = nn.Linear(width, BYTES)

    def forward(self, symbols: Tensor) -> Tensor:
        """Map bytes of shape (N, length) to scores of shape (N, length, 256)."""
        stream = self.embedding(symbols) + self.position[: symbols.shape[1]]
        scores: Tensor = self.output(self.layers(stream))
        return scores
