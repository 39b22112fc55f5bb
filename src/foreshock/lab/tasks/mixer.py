"""A masked-byte model: an MLP-Mixer that fills gaps in text, cross-entropy at the gaps."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock.demo.options import check_count
from foreshock.lab.tasks.corpus import BYTES, byte_pairs
from foreshock.lab.tasks.streams import stream_batches
from foreshock.lab.tasks.task import Batch, Task, build_seeded

MASK = BYTES  # the symbol of a gap
DATA_SEED = 0  # the gaps stay the same for every seed of the weights

Gaps: TypeAlias = tuple[Tensor, Tensor, Tensor]


def build_mixer(
    *,
    batch_size: int | None,
    seed: int,
    sequences: int = 64,
    length: int = 24,
    gaps: int = 4,
    width: int = 32,
    layers: int = 2,
) -> Task:
    """Build an MLP-Mixer (Tolstikhin et al. 2021) that reads bytes on both sides of each gap.

    Args:
        batch_size: Sequences in a batch; None for all.
        seed: Seed of the initial weights and of the batches.
        sequences: Number of sequences of Python's source.
        length: Bytes in each.
        gaps: Bytes of each that are hidden, at most `length`.
        width: Width of the residual stream.
        layers: Number of blocks.

    Raises:
        ValueError: If an option is out of range.
    """
    for name, value in (("gaps", gaps), ("width", width), ("layers", layers)):
        check_count(name, value)
    if not gaps <= length:
        raise ValueError(f"gaps is {gaps}; it must be at most length, {length}.")
    pair, between = byte_pairs(None, sequences, length=length, context=0)
    return Task(
        name="mixer",
        model=build_seeded(lambda: Mixer(length, width, layers), seed=seed),
        loss_fn=gap_cross_entropy,
        batches=stream_batches(_hide(pair[0], gaps), batch_size=batch_size, seed=seed),
        batch_size=batch_size,
        examples=sequences,
        validation=None if between is None else _hide(between[0], gaps),
    )


class MixerBlock(nn.Module):
    """Mix positions, then features, each by a GELU layer on a normalised stream."""

    def __init__(self, length: int, width: int) -> None:
        """Create the layers.

        Args:
            length: Number of positions.
            width: Width of the stream.
        """
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.mix, self.transform = (
            nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))
            for size in (length, width)
        )

    def forward(self, stream: Tensor) -> Tensor:
        """Map a stream of shape (N, length, width) to the next one."""
        stream = stream + self.mix(self.norms[0](stream).transpose(1, 2)).transpose(1, 2)
        added: Tensor = self.transform(self.norms[1](stream))
        return stream + added


class Mixer(nn.Module):
    """Score the byte at every position from all others."""

    def __init__(self, length: int, width: int, layers: int) -> None:
        """Create the layers.

        Args:
            length: Number of positions.
            width: Width of the stream.
            layers: Number of blocks.
        """
        super().__init__()
        self.embedding = nn.Embedding(BYTES + 1, width)
        self.layers = nn.Sequential(*(MixerBlock(length, width) for _ in range(layers)), nn.LayerNorm(width))
        self.output = nn.Linear(width, BYTES)

    def forward(self, symbols: Tensor, places: Tensor) -> Tensor:
        """Map symbols (N, length) and places of gaps (N, gaps) to scores (N, gaps, 256)."""
        stream = self.layers(self.embedding(symbols))
        chosen = stream.gather(1, places.unsqueeze(-1).expand(-1, -1, stream.shape[-1]))
        scores: Tensor = self.output(chosen)
        return scores


def gap_cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean cross-entropy over the gaps, in nats.

    Args:
        model: Maps symbols and places to scores (N, gaps, 256).
        batch: Symbols (N, length), places of the gaps and the bytes there, both (N, gaps).
    """
    symbols, places, hidden = batch
    return functional.cross_entropy(model(symbols, places).flatten(0, 1), hidden.flatten())


def _hide(text: Tensor, gaps: int) -> Gaps:
    order = torch.rand(text.shape, generator=torch.Generator().manual_seed(DATA_SEED)).argsort(dim=1)
    places = order[:, :gaps]
    return text.scatter(1, places, MASK), places, text.gather(1, places)
