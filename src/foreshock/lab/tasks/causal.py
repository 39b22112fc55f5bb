"""A causal Transformer whose attention is written out, so that it can be differentiated twice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock.demo.options import check_choice, check_count

INITIAL_DEVIATION = 0.02


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
