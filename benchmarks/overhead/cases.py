"""The trainings that are timed with and without somebody watching.

Two steps are small, of some milliseconds, where any fixed cost shows; two take 20 ms or more, as those of
people who have a reason to watch. The data are scikit-learn's digits and the source of Python's standard
library. Attention is torch's own, fused kernel included, as a user would write it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from benchmarks.curvature.cases import CASES as CURVATURE_CASES
from benchmarks.curvature.cases import Gpt
from torch import Tensor, nn
from torch.nn import functional

from foreshock.demo.data import load_digits
from foreshock.lab.tasks.corpus import cut_sequences, encode_bytes, read_text

Batch = tuple[Tensor, Tensor]
_LENGTH = 64  # bytes of a sequence
_MINI_BATCHES = 64  # different ones, seen in turn
_DIGITS = 1797


@dataclass(frozen=True)
class Case:
    """One training, and how long it is timed.

    Attributes:
        name: Short identifier.
        model: Makes the model; random numbers are seeded by the caller.
        examples: Makes that many examples, inputs and targets.
        pool: Examples from which mini-batches are drawn.
        size: Examples of a batch.
        loss_fn: ``loss_fn(model, batch)`` → mean loss.
        learning_rate: η of AdamW.
        steps: Watched steps of the full suite.
        quick_steps: Those of the quick one; 0 leaves the case out.
        block: Consecutive watched steps; a multiple of eight, since an idle guard measures every eighth step.
        plain_block: Consecutive steps of the copy that nobody watches, between two such blocks.
    """

    name: str
    model: Callable[[], nn.Module]
    examples: Callable[[int], Batch]
    pool: int
    size: int
    loss_fn: Callable[[nn.Module, Batch], Tensor]
    learning_rate: float
    steps: int
    quick_steps: int
    block: int
    plain_block: int


@dataclass(frozen=True)
class Training:
    """A model, its optimizer and its loss: what one side of a comparison trains."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss_fn: Callable[[nn.Module, Batch], Tensor]


def two_copies(case: Case) -> tuple[Training, Training]:
    """Return two trainings that begin in the same place.

    Args:
        case: What is trained.
    """
    torch.manual_seed(0)
    first = case.model()
    models = (first, copy.deepcopy(first))
    plain, watched = (
        Training(model, torch.optim.AdamW(model.parameters(), lr=case.learning_rate), case.loss_fn)
        for model in models
    )
    return plain, watched


def batches(case: Case, *, full_batch: bool) -> list[Batch]:
    """Return the batches that are seen in turn: one, or many that were drawn from a larger set.

    Args:
        case: What is trained.
        full_batch: Whether every step sees the same data.
    """
    if full_batch:
        return [case.examples(case.size)]
    inputs, targets = case.examples(case.pool)
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randperm(len(inputs), generator=generator)[: case.size] for _ in range(_MINI_BATCHES)]
    return [(inputs[chosen], targets[chosen]) for chosen in drawn]


def _flat_digits(count: int) -> Batch:
    images, labels = load_digits(count)
    return images.flatten(1), labels


def _sequences(count: int) -> Batch:
    rows = cut_sequences(encode_bytes(read_text()), count, length=_LENGTH + 1)
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def _cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    # Of bytes every position counts as one example: the targets have a second dimension.
    return functional.cross_entropy(model(batch[0]), batch[1].flatten())


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 128), nn.Tanh(), nn.Linear(128, 10))


CASES = {
    case.name: case
    for case in (
        Case(
            "mlp-51k", _mlp, _flat_digits, _DIGITS, 512, _cross_entropy, 1e-3,
            steps=2000, quick_steps=208, block=16, plain_block=16,
        ),
        Case(
            "cnn-94k", CURVATURE_CASES["cnn-94k"].model, load_digits, _DIGITS, 64, _cross_entropy, 1e-3,
            steps=1008, quick_steps=112, block=16, plain_block=8,
        ),
        Case(
            "gpt-1M", lambda: Gpt(width=128, layers=5), _sequences, 512, 4, _cross_entropy, 1e-3,
            steps=600, quick_steps=40, block=8, plain_block=6,
        ),
        Case(
            "gpt-11M", lambda: Gpt(width=384, layers=6), _sequences, 512, 2, _cross_entropy, 3e-4,
            steps=152, quick_steps=0, block=8, plain_block=6,
        ),
    )
}  # fmt: skip
