"""A gated recurrent unit that reads text byte by byte, cross-entropy."""

from __future__ import annotations

from torch import Tensor, nn

from foreshock.demo.options import check_count
from foreshock.lab.tasks.corpus import BYTES, byte_pairs
from foreshock.lab.tasks.streams import stream_batches
from foreshock.lab.tasks.task import Task, build_seeded, cross_entropy


def build_gru(
    *,
    batch_size: int | None,
    seed: int,
    sequences: int = 32,
    length: int = 16,
    context: int = 8,
    hidden: int = 48,
) -> Task:
    """Build a gated recurrent unit that predicts the next byte of Python's source, cross-entropy.

    Args:
        batch_size: Sequences in a batch; None for all.
        seed: Seed of the initial weights and of the batches.
        sequences: Number of sequences.
        length: Bytes that are read in each.
        context: Bytes that are read before the first prediction that counts, in addition to one.
        hidden: Width of the embedding and of the hidden state.

    Raises:
        ValueError: If an option is out of range.
    """
    check_count("hidden", hidden)
    pair, held_out = byte_pairs(None, sequences, length=length, context=context)
    model = build_seeded(lambda: GatedReader(hidden), seed=seed)
    batches = stream_batches(pair, batch_size=batch_size, seed=seed)
    return Task("gru", model, cross_entropy, batches, batch_size, sequences, held_out)


class GatedReader(nn.Module):
    """Read bytes with a gated recurrent unit and score the next one at every position."""

    def __init__(self, hidden: int) -> None:
        """Create the layers.

        Args:
            hidden: Width of the embedding and of the hidden state.
        """
        super().__init__()
        self.embedding = nn.Embedding(BYTES, hidden)
        self.gru = nn.GRU(hidden, hidden, batch_first=True)
        self.output = nn.Linear(hidden, BYTES)

    def forward(self, symbols: Tensor) -> Tensor:
        """Map bytes of shape (N, length) to scores of shape (N, length, 256)."""
        states, _ = self.gru(self.embedding(symbols))
        scores: Tensor = self.output(states)
        return scores
