"""Composed anchor functions: a key, then two anchors, each of which stands for a shift of the key.

After Zhang et al. 2024, "Anchor function: a type of benchmark functions for studying language models"
(arXiv 2401.08309): what follows is the key moved by the shifts of both anchors, among symbols that say
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foreshock.demo.options import check_count
from foreshock.lab.tasks.causal import CausalSizes, CausalTransformer
from foreshock.lab.tasks.streams import stream_batches
from foreshock.lab.tasks.task import Task, build_seeded, cross_entropy

DATA_SEED = 0  # the sequences stay the same for every seed; the held-out ones have the next seed
ANCHORS = 4
PHRASE = 3  # a key and two anchors
ALL = tuple((one, other) for one in range(ANCHORS) for other in range(ANCHORS))
MASKED = ((2, 3), (3, 2))
SEEN = tuple(pair for pair in ALL if pair not in MASKED)


def build_anchors(
    *,
    batch_size: int | None,
    seed: int,
    sequences: int = 500,
    length: int = 9,
    keys: int = 100,
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    norm: str = "pre",
    masked: bool = False,
) -> Task:
    """Build a causal Transformer that predicts a key moved by the shifts of two anchors, cross-entropy.

    The authors' code (github.com/xuzhiqin1990/anchor_function_pub) has sequences of nine symbols, these four
    anchors and shifts, keys from 20 to 99, and keeps the pairs of the third and the fourth anchor out of the
    training set. There the anchors precede the key, and sums are not taken modulo the number of keys.

    Args:
        batch_size: Sequences in a batch; None for all.
        seed: Seed of the initial weights and of the batches; the sequences stay the same.
        sequences: Number of sequences.
        length: Symbols in each, at least 3: the phrase lies anywhere, the others are other keys.
        keys: Number of keys; results are taken modulo it.
        layers: Number of blocks.
        width: Width of the residual stream, a multiple of `heads`.
        heads: Attention heads.
        norm: Where LayerNorm sits: "pre", "post" or "none".
        masked: Whether the pairs of the third and the fourth anchor, in either order, are kept out of the
            training set; the held-out sequences then have no others.

    Raises:
        ValueError: If an option is out of range.
    """
    check_count("sequences", sequences)
    check_count("length", length, least=PHRASE)
    check_count("keys", keys, least=2)
    sizes = CausalSizes(ANCHORS + keys, length, layers=layers, width=width, heads=heads, norm=norm)
    pairs = (SEEN, MASKED) if masked else (ALL, ALL)
    data, held_out = (
        compose(sequences, length=length, keys=keys, seed=DATA_SEED + i, pairs=pairs[i]) for i in range(2)
    )
    return Task(
        name="anchors",
        model=build_seeded(lambda: CausalTransformer(sizes, last_only=True), seed=seed),
        loss_fn=cross_entropy,
        batches=stream_batches(data, batch_size=batch_size, seed=seed),
        batch_size=batch_size,
        examples=sequences,
        validation=held_out,
    )


def compose(
    sequences: int,
    *,
    length: int,
    keys: int,
    seed: int = DATA_SEED,
    pairs: Sequence[tuple[int, int]] = ALL,
) -> tuple[Tensor, Tensor]:
    """Return sequences and their answers.

    Args:
        sequences: How many.
        length: Symbols in each.
        keys: Number of keys, which are the symbols from 4 on; 0 to 3 are the anchors.
        seed: Seed of the sequences.
        pairs: The pairs of anchors that occur.

    Returns:
        int64 tensors of shape (sequences, length) and (sequences,).

    Example:
        >>> symbols, answers = compose(5, length=3, keys=50)
        >>> shifts = torch.tensor([5, 1, -2, -8])
        >>> torch.equal(answers, 4 + (symbols[:, 0] - 4 + shifts[symbols[:, 1:]].sum(dim=1)) % 50)
        True
    """
    generator = torch.Generator().manual_seed(seed)
    symbols = torch.randint(ANCHORS, ANCHORS + keys, (sequences, length), generator=generator)
    # With all sixteen pairs the numbers are those of two independent draws.
    drawn = torch.randint(ANCHORS, (sequences, 2), generator=generator)
    if tuple(pairs) != ALL:
        drawn = torch.tensor(pairs)[torch.randint(len(pairs), (sequences,), generator=generator)]
    start = torch.randint(length - PHRASE + 1, (sequences, 1), generator=generator)
    symbols.scatter_(1, start + torch.tensor([1, 2]), drawn)
    shifts = torch.tensor([5, 1, -2, -8])
    key = symbols.gather(1, start)[:, 0] - ANCHORS
    return symbols, ANCHORS + (key + shifts[drawn].sum(dim=1)) % keys
