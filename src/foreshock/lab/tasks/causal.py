"""Two causal Transformers whose attention is written out, so that it can be differentiated twice.

`CausalTransformer` is like GPT, `LlamaTransformer` like LLaMA: RMSNorm, rotary positions, SwiGLU, no biases.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock.demo.options import check_choice, check_count

ROTARY_BASE = 10_000.0
# SwiGLU has three matrices instead of two: 8/3 of the width keeps the number of parameters.
_HIDDEN_MULTIPLE = 8 / 3
_ROUNDED_TO = 32

INITIAL_DEVIATION = 0.02  # as GPT-2


@dataclass(frozen=True)
class CausalSizes:
    """Sizes of a causal Transformer.

    Attributes:
        vocabulary: Number of symbols.
        length: Greatest length of a sequence.
        layers: Number of blocks.
        width: Width of the residual stream, a multiple of `heads`.
        heads: Attention heads.
        norm: Where LayerNorm sits: "pre", "post" or "none".
    """

    vocabulary: int
    length: int
    layers: int = 2
    width: int = 64
    heads: int = 4
    norm: str = "pre"

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            ValueError: If one is out of range.
        """
        for name in ("vocabulary", "length", "layers", "width", "heads"):
            check_count(name, getattr(self, name))
        check_choice("norm", self.norm, ("pre", "post", "none"))
        if self.width % self.heads:
            raise ValueError(f"width is {self.width}; it must be a multiple of heads, {self.heads}.")


class Block(nn.Module):
    """Apply causal self-attention, then a GELU layer of four times the width."""

    def __init__(self, sizes: CausalSizes) -> None:
        """Create the layers.

        Args:
            sizes: Sizes of the Transformer.
        """
        super().__init__()
        width = sizes.width
        self.heads = sizes.heads
        self.norm = sizes.norm
        make_norm = nn.Identity if sizes.norm == "none" else nn.LayerNorm
        self.attention_norm = make_norm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.hidden_norm = make_norm(width)
        self.hidden = nn.Linear(width, 4 * width)
        self.hidden_output = nn.Linear(4 * width, width)

    def forward(self, stream: Tensor) -> Tensor:
        """Map a residual stream of shape (batch, length, width) to the next one."""
        if self.norm == "post":
            stream = self.attention_norm(stream + self._attend(stream))
            post: Tensor = self.hidden_norm(stream + self._transform(stream))
            return post
        stream = stream + self._attend(self.attention_norm(stream))
        return stream + self._transform(self.hidden_norm(stream))

    def _attend(self, stream: Tensor) -> Tensor:
        split = self.query_key_value(stream).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        length = stream.shape[1]
        future = torch.ones(length, length, dtype=torch.bool, device=stream.device).triu(1)
        weights = scores.masked_fill(future, -math.inf).softmax(dim=-1)
        output: Tensor = self.attention_output((weights @ value).transpose(1, 2).flatten(2))
        return output

    def _transform(self, stream: Tensor) -> Tensor:
        output: Tensor = self.hidden_output(functional.gelu(self.hidden(stream)))
        return output


class CausalTransformer(nn.Module):
    """Predict the next symbol at every position (learned positions, untied output)."""

    def __init__(self, sizes: CausalSizes, *, last_only: bool = False) -> None:
        """Create the layers; matrices are drawn from N(0, .02²), biases are zero.

        Args:
            sizes: Sizes of the Transformer.
            last_only: Whether only the last position is predicted.
        """
        super().__init__()
        self.last_only = last_only
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.width)
        self.position = nn.Parameter(torch.empty(sizes.length, sizes.width))
        self.blocks = nn.Sequential(*(Block(sizes) for _ in range(sizes.layers)))
        # Post-norm blocks end in a norm of their own.
        self.norm = nn.LayerNorm(sizes.width) if sizes.norm == "pre" else nn.Identity()
        self.output = nn.Linear(sizes.width, sizes.vocabulary, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim >= 2:
                nn.init.normal_(parameter, std=INITIAL_DEVIATION)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, symbols: Tensor) -> Tensor:
        """Map symbols (batch, length) to logits (batch, length, vocabulary), or (batch, vocabulary)."""
        stream = self.blocks(self.embedding(symbols) + self.position[: symbols.shape[1]])
        if self.last_only:
            stream = stream[:, -1]
        logits: Tensor = self.output(self.norm(stream))
        return logits


def hidden_width(width: int) -> int:
    """Return the width of the gated layer, 8/3 of the stream's, rounded up to a multiple of 32.

    Example:
        >>> hidden_width(1024)
        2752
    """
    return -(-int(_HIDDEN_MULTIPLE * width) // _ROUNDED_TO) * _ROUNDED_TO


def rotate(values: Tensor) -> Tensor:
    """Turn pairs of coordinates by angles proportional to the position (Su et al. 2021).

    Args:
        values: Queries or keys, shape (…, length, even width).

    Example:
        >>> torch.equal(rotate(torch.ones(1, 2))[0], torch.ones(2))  # position 0 is left alone
        True
    """
    length, width = values.shape[-2:]
    rates = ROTARY_BASE ** (-torch.arange(0, width, 2, device=values.device) / width)
    angles = torch.arange(length, device=values.device)[:, None] * rates
    left, right = values.chunk(2, dim=-1)
    cosine, sine = angles.cos().to(values.dtype), angles.sin().to(values.dtype)
    return torch.cat([left * cosine - right * sine, left * sine + right * cosine], dim=-1)


class LlamaBlock(nn.Module):
    """Apply causal self-attention with rotary positions, then a gated layer; attention is written out."""

    def __init__(self, sizes: CausalSizes) -> None:
        """Create the layers.

        Args:
            sizes: Sizes of the Transformer.
        """
        super().__init__()
        width, hidden = sizes.width, hidden_width(sizes.width)
        self.heads = sizes.heads
        self.attention_norm = nn.RMSNorm(width, eps=1e-6)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attention_output = nn.Linear(width, width, bias=False)
        self.hidden_norm = nn.RMSNorm(width, eps=1e-6)
        self.gate_and_value = nn.Linear(width, 2 * hidden, bias=False)
        self.hidden_output = nn.Linear(hidden, width, bias=False)

    def forward(self, stream: Tensor) -> Tensor:
        """Map a residual stream of shape (batch, length, width) to the next one."""
        stream = stream + self._attend(self.attention_norm(stream))
        gate, value = self.gate_and_value(self.hidden_norm(stream)).chunk(2, dim=-1)
        output: Tensor = stream + self.hidden_output(functional.silu(gate) * value)
        return output

    def _attend(self, stream: Tensor) -> Tensor:
        split = self.query_key_value(stream).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        scores = rotate(query) @ rotate(key).transpose(-1, -2) / query.shape[-1] ** 0.5
        length = stream.shape[1]
        future = torch.ones(length, length, dtype=torch.bool, device=stream.device).triu(1)
        weights = scores.masked_fill(future, float("-inf")).softmax(dim=-1)
        output: Tensor = self.attention_output((weights @ value).transpose(1, 2).flatten(2))
        return output


class LlamaTransformer(nn.Module):
    """Predict the next symbol at every position (untied output)."""

    def __init__(self, sizes: CausalSizes) -> None:
        """Create the layers; matrices are drawn from N(0, .02²).

        Args:
            sizes: Sizes of the Transformer; `norm` must be "pre".

        Raises:
            ValueError: If a head has an odd width, or `norm` is not "pre".
        """
        super().__init__()
        if sizes.width // sizes.heads % 2:
            raise ValueError(
                f"a head is {sizes.width // sizes.heads} wide; rotary positions turn pairs: choose width and "
                "heads so that width/heads is even."
            )
        if sizes.norm != "pre":
            raise ValueError(f"norm is {sizes.norm!r}; this architecture has it before each layer: 'pre'.")
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.width)
        self.blocks = nn.Sequential(*(LlamaBlock(sizes) for _ in range(sizes.layers)))
        self.norm = nn.RMSNorm(sizes.width, eps=1e-6)
        self.output = nn.Linear(sizes.width, sizes.vocabulary, bias=False)
        for parameter in self.parameters():
            if parameter.ndim >= 2:
                nn.init.normal_(parameter, std=INITIAL_DEVIATION)

    def forward(self, symbols: Tensor) -> Tensor:
        """Map symbols (batch, length) to logits (batch, length, vocabulary)."""
        logits: Tensor = self.output(self.norm(self.blocks(self.embedding(symbols))))
        return logits
