"""Gated diagonal state spaces that read text byte by byte, cross-entropy."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock.demo.options import check_count
from foreshock.lab.tasks.corpus import BYTES, byte_pairs
from foreshock.lab.tasks.streams import stream_batches
from foreshock.lab.tasks.task import Task, build_seeded, cross_entropy

LONGEST = 0.99  # decay a step of the slowest state; the fastest forgets half


def build_statespace(
    *,
    batch_size: int | None,
    seed: int,
    sequences: int = 32,
    length: int = 16,
    context: int = 8,
    hidden: int = 48,
) -> Task:
    """Build two layers of gated diagonal state spaces that predict the next byte, cross-entropy.

    Args:
        batch_size: Sequences in a batch; None for all.
        seed: Seed of the initial weights and of the batches.
        sequences: Number of sequences.
        length: Bytes that are read in each.
        context: Bytes that are read before the first prediction that counts, in addition to one.
        hidden: Width of the residual stream and of the states.

    Raises:
        ValueError: If an option is out of range.
    """
    check_count("hidden", hidden)
    pair, held_out = byte_pairs(None, sequences, length=length, context=context)
    model = build_seeded(lambda: StateSpaceReader(hidden), seed=seed)
    batches = stream_batches(pair, batch_size=batch_size, seed=seed)
    return Task("statespace", model, cross_entropy, batches, batch_size, sequences, held_out)


class StateSpace(nn.Module):
    """Add gated states h_t = a·h_{t−1} + (1 − a)·x_t to a normalised stream; a is learnt, in (0, 1)."""

    def __init__(self, width: int) -> None:
        """Create the layers.

        Args:
            width: Width of the stream and number of states.
        """
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.input_and_gate = nn.Linear(width, 2 * width)
        self.decay = nn.Parameter(torch.linspace(0.5, LONGEST, width).logit())
        self.output = nn.Linear(width, width)

    def forward(self, stream: Tensor) -> Tensor:
        """Map a stream of shape (N, length, width) to the next one."""
        inputs, gate = self.input_and_gate(self.norm(stream)).chunk(2, dim=-1)
        decay = self.decay.sigmoid()
        state = torch.zeros_like(inputs[:, 0])
        states = []
        for x in inputs.unbind(dim=1):
            state = decay * state + (1 - decay) * x
            states.append(state)
        added: Tensor = self.output(torch.stack(states, dim=1) * functional.silu(gate))
        return stream + added


class StateSpaceReader(nn.Module):
    """Read bytes with two state-space layers and score the next one at every position."""

    def __init__(self, hidden: int) -> None:
        """Create the layers.

        Args:
            hidden: Width of the stream.
        """
        super().__init__()
        self.embedding = nn.Embedding(BYTES, hidden)
        self.layers = nn.Sequential(StateSpace(hidden), StateSpace(hidden), nn.RMSNorm(hidden, eps=1e-6))
        self.output = nn.Linear(hidden, BYTES)

    def forward(self, symbols: Tensor) -> Tensor:
        """Map bytes of shape (N, length) to scores of shape (N, length, 256)."""
        scores: Tensor = self.output(self.layers(self.embedding(symbols)))
        return scores
