"""A small causal Transformer on Python's own source, which spikes by itself under stock AdamW."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock.demo.data import load_stdlib_text
from foreshock.demo.options import check_count
from foreshock.demo.workload import (
    Batch,
    Workload,
    check_adam_settings,
)

WIDTH = 32
HEADS = 2
INITIAL_DEVIATION = 0.02


@dataclass(frozen=True)
class TransformerConfig:
    """Settings of the Transformer run; the defaults spike repeatedly for seeds 0, 1 and 2.

    Attributes:
        steps: Number of optimizer steps.
        sequences: Number of byte sequences in the full batch.
        context: Bytes read before the first prediction that counts; as many predictions follow.
        layers: Number of Transformer blocks.
        learning_rate: Constant learning rate of AdamW, η.
        weight_decay: Decoupled decay of the matrices; biases and norms have none.
        betas: AdamW's (β₁, β₂).
        seed: Seed of the initial weights; the text stays the same.
    """

    steps: int = 1200
    sequences: int = 16
    context: int = 8
    layers: int = 1
    learning_rate: float = 0.005
    weight_decay: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: If a setting lies outside its range.
        """
        for name in ("steps", "sequences", "context", "layers"):
            check_count(name, getattr(self, name))
        check_adam_settings(learning_rate=self.learning_rate, betas=self.betas)
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be finite and not negative, got {self.weight_decay!r}.")

    @classmethod
    def quick(cls, *, seed: int = 0) -> TransformerConfig:
        """Return a run of a few seconds that still spikes."""
        return cls(steps=450, seed=seed)


class Block(nn.Module):
    """Apply causal self-attention, then a GELU layer, each on a normalised residual stream."""

    def __init__(self) -> None:
        """Create the layers at the module's width and number of heads."""
        super().__init__()
        self.attention_norm = nn.LayerNorm(WIDTH)
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
        self.attention_output = nn.Linear(WIDTH, WIDTH)
        self.hidden_norm = nn.LayerNorm(WIDTH)
        self.hidden = nn.Linear(WIDTH, 4 * WIDTH)
        self.hidden_output = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, stream: Tensor) -> Tensor:
        """Map a residual stream of shape (batch, length, width) to the next one."""
        split = self.query_key_value(self.attention_norm(stream)).unflatten(-1, (3, HEADS, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        stream = stream + self.attention_output(mixed.transpose(1, 2).flatten(2))
        hidden = functional.gelu(self.hidden(self.hidden_norm(stream)))
        output: Tensor = stream + self.hidden_output(hidden)
        return output


class CausalTransformer(nn.Module):
    """Predict the next symbol at every position of a sequence (pre-norm, learned positions)."""

    def __init__(self, *, vocabulary: int, length: int, layers: int) -> None:
        """Create the layers and draw the weights from the global random state.

        Args:
            vocabulary: Number of symbols.
            length: Length of the sequences.
            layers: Number of blocks.
        """
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.position = nn.Parameter(torch.empty(length, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(layers)))
        self.norm = nn.LayerNorm(WIDTH)
        self.output = nn.Linear(WIDTH, vocabulary, bias=False)
        for parameter in self.parameters():
            if parameter.ndim >= 2:
                nn.init.normal_(parameter, std=INITIAL_DEVIATION)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, symbols: Tensor) -> Tensor:
        """Map symbols of shape (batch, length) to logits of shape (batch, length, vocabulary)."""
        stream = self.blocks(self.embedding(symbols) + self.position)
        logits: Tensor = self.output(self.norm(stream))
        return logits


def next_byte_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of the predictions made with enough context.

    Only the last positions count, as many as there are targets: after one or two bytes several
    continuations are right, and the entropy of that choice would hide spikes under a loss floor.

    Args:
        model: Maps symbols to logits.
        batch: Inputs of shape (N, T) and the targets of the last positions, of shape (N, S).
    """
    inputs, targets = batch
    logits = model(inputs)[:, -targets.shape[1] :]
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def build(config: TransformerConfig) -> Workload:
    """Return the untrained model, its optimizer, loss and full batch.

    Args:
        config: Settings of the run.

    Returns:
        The workload, ready for a plain training loop.

    Raises:
        FileNotFoundError: If this Python has no standard-library source on disk.
    """
    length = 2 * config.context
    text = load_stdlib_text(config.sequences, length=length + 1)
    alphabet, symbols = torch.unique(text, return_inverse=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = CausalTransformer(vocabulary=len(alphabet), length=length, layers=config.layers)
    return Workload(
        name="transformer",
        description=(
            f"Transformer on {config.sequences} byte sequences of Python's standard library, "
            "cross-entropy, AdamW, full batch"
        ),
        model=model,
        optimizer=_build_optimizer(model, config),
        loss_fn=next_byte_loss,
        batch=(symbols[:, :-1], symbols[:, config.context + 1 :]),
        steps=config.steps,
    )


def _build_optimizer(model: nn.Module, config: TransformerConfig) -> torch.optim.Optimizer:
    parameters = list(model.parameters())
    groups = [
        {
            "params": [parameter for parameter in parameters if parameter.ndim >= 2],
            "weight_decay": config.weight_decay,
        },
        {
            "params": [parameter for parameter in parameters if parameter.ndim < 2],
            "weight_decay": 0.0,
        },
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)
