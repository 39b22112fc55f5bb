"""Next-symbol prediction on real text: a few sequences over and over, or fresh text at every step."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from foreshock.demo.options import check_choice, check_count
from foreshock.lab.tasks.causal import CausalSizes, CausalTransformer, LlamaTransformer
from foreshock.lab.tasks.corpus import (
    BYTES,
    check_context,
    cut_between,
    cut_sequences,
    encode_bytes,
    encode_words,
    read_text,
    split_text,
)
from foreshock.lab.tasks.streams import check_batch_size, draw_batches, stream_batches
from foreshock.lab.tasks.task import Task, build_seeded, cross_entropy

HELD_OUT = 64
"""Sequences held out of fresh text; a random batch can come across one of them."""

ARCHITECTURES: dict[str, Callable[[CausalSizes], nn.Module]] = {
    "gpt": CausalTransformer,
    "llama": LlamaTransformer,
}


def build_language(
    *,
    batch_size: int | None,
    seed: int,
    unit: str = "byte",
    path: str | Path | None = None,
    sequences: int | None = 64,
    length: int = 32,
    context: int = 0,
    vocabulary: int = 2000,
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    norm: str = "pre",
    architecture: str = "gpt",
) -> Task:
    """Build a causal Transformer on text, cross-entropy.

    Args:
        batch_size: Sequences in a batch; None for all, not with fresh text.
        seed: Seed of the initial weights and of the batches.
        unit: "byte" or "word".
        path: Text file; by default the source of Python's standard library, see `read_text`.
        sequences: Number of fixed sequences; None for fresh text, cut at random places at every step.
        length: Symbols that are read in each sequence.
        context: Symbols that are read before the first prediction that counts, in addition to one.
        vocabulary: Number of words; bytes always have 256.
        layers: Number of blocks.
        width: Width of the residual stream, a multiple of `heads`.
        heads: Attention heads.
        norm: Where LayerNorm sits: "pre", "post" or "none".
        architecture: "gpt", with learned positions; or "llama", with RMSNorm, rotary positions and SwiGLU.

    Raises:
        ValueError: If an option is out of range, or the text is too short.
        FileNotFoundError: If there is no such text.
    """
    check_choice("unit", unit, ("byte", "word"))
    check_choice("architecture", architecture, ARCHITECTURES)
    check_count("vocabulary", vocabulary, least=2)
    check_context(context, length=length)
    sizes = CausalSizes(
        BYTES if unit == "byte" else vocabulary, length, layers=layers, width=width, heads=heads, norm=norm
    )
    symbols = _encode(unit, None if path is None else str(path), vocabulary)
    model = build_seeded(lambda: ARCHITECTURES[architecture](sizes), seed=seed)
    if sequences is None:
        if batch_size is None:
            raise ValueError("batch_size is None, but fresh text has no full batch; pass an integer.")
        check_batch_size(batch_size, examples=None)
        batches = draw_batches(
            lambda generator: split_text(
                _draw(symbols, batch_size, length + 1, generator=generator), context=context
            ),
            seed=seed,
        )
    else:
        check_count("sequences", sequences)
        cut = cut_sequences(symbols, sequences, length=length + 1)
        batches = stream_batches(split_text(cut, context=context), batch_size=batch_size, seed=seed)
    between = cut_between(symbols, sequences or HELD_OUT, length=length + 1)
    held_out = None if between is None else split_text(between, context=context)
    return Task("language", model, cross_entropy, batches, batch_size, sequences, held_out)


@lru_cache(maxsize=4)
def _encode(unit: str, path: str | None, vocabulary: int) -> Tensor:
    """Return the symbols of a text; three seeds of one configuration read it once."""
    text = read_text(path)
    return encode_bytes(text) if unit == "byte" else encode_words(text, vocabulary=vocabulary)


def _draw(symbols: Tensor, count: int, length: int, *, generator: torch.Generator) -> Tensor:
    if len(symbols) < length:
        raise ValueError(f"A text of {len(symbols)} symbols is too short for sequences of {length}.")
    starts = torch.randint(len(symbols) - length + 1, (count, 1), generator=generator)
    return symbols[starts + torch.arange(length)]
