"""Addition modulo a prime, of which a Transformer sees one half of the table."""

from __future__ import annotations

import torch
from torch import Tensor

from foreshock.demo.options import check_count
from foreshock.lab.tasks.causal import CausalSizes, CausalTransformer
from foreshock.lab.tasks.streams import stream_batches
from foreshock.lab.tasks.task import Task, build_seeded, cross_entropy

DATA_SEED = 0  # which half of the table is trained on stays the same for every seed


def build_addition(
    *,
    batch_size: int | None,
    seed: int,
    modulus: int = 59,
    share: float = 0.5,
    layers: int = 1,
    width: int = 64,
    heads: int = 4,
) -> Task:
    """Build a pre-norm Transformer that reads "a b =" and predicts a + b modulo `modulus`, cross-entropy.

    Args:
        batch_size: Sums in a batch; None for all.
        seed: Seed of the initial weights and of the batches; the half of the table stays the same.
        modulus: Number of residues, at least 2.
        share: Share of the table that is the training set, in (0, 1].
        layers: Number of blocks.
        width: Width of the residual stream, a multiple of `heads`.
        heads: Attention heads.

    Raises:
        ValueError: If an option is out of range.
    """
    check_count("modulus", modulus, least=2)
    if not 0 < share <= 1:
        raise ValueError(f"share is {share!r}; it must be above 0 and at most 1.")
    sizes = CausalSizes(modulus + 1, 3, layers=layers, width=width, heads=heads)
    data, held_out = _table(modulus, share)
    return Task(
        name="addition",
        model=build_seeded(lambda: CausalTransformer(sizes, last_only=True), seed=seed),
        loss_fn=cross_entropy,
        batches=stream_batches(data, batch_size=batch_size, seed=seed),
        batch_size=batch_size,
        examples=len(data[0]),
        validation=held_out if len(held_out[0]) else None,
    )


def _table(modulus: int, share: float) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the chosen sums and the others; the symbol after the residues is the equals sign."""
    pairs = torch.cartesian_prod(torch.arange(modulus), torch.arange(modulus))
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(DATA_SEED))
    symbols = torch.cat([pairs, torch.full((len(pairs), 1), modulus)], dim=1)
    sums = pairs.sum(dim=1) % modulus
    chosen, others = order.tensor_split([max(1, round(share * len(pairs)))])
    return (symbols[chosen], sums[chosen]), (symbols[others], sums[others])
