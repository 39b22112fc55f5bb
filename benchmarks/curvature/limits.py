"""What each tool does with a model that is not a textbook one: the value, or the exception, as it comes.

Every situation is tiny, in float32, and has a reference: the largest eigenvalue of the loss that training
sees, in train mode, with the dropout mask that the seed draws. A tool is called as its documentation shows,
without further care; only the seed is set before.
"""

from __future__ import annotations

import importlib
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import torch
from benchmarks.curvature import cases, ours
from benchmarks.curvature.measure import TOLERANCE, Row
from benchmarks.curvature.reference import largest_pair
from benchmarks.curvature.selection import relative_error
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

SEED = 3
PRODUCTS = 60
Batch = tuple[Any, Tensor]


@dataclass(frozen=True)
class Situation:
    """A model that curvature tools may trip over.

    Attributes:
        name: What is special.
        model: Makes the model, left in train mode.
        batch: Makes inputs and targets.
        criterion: Mean loss of predictions and targets.
        resampled: Whether the data loader draws another sub-batch at each pass.
    """

    name: str
    model: Callable[[], nn.Module]
    batch: Callable[[], Batch]
    criterion: nn.Module
    resampled: bool = False

    def build(self) -> tuple[nn.Module, Batch]:
        """Return a fresh model and its batch."""
        torch.manual_seed(0)
        return self.model(), self.batch()


class _Loader:
    """Draws a random half of the data at each pass, as a shuffling loader that is cut short does."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.generator = torch.Generator().manual_seed(SEED)

    def __iter__(self) -> Iterator[Batch]:
        count = len(self.batch[1])
        chosen = torch.randperm(count, generator=self.generator)[: count // 2]
        yield self.batch[0][chosen], self.batch[1][chosen]


class _Saddle(nn.Module):
    """Quadratic loss with the eigenvalues 3 and −4."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.tensor([0.3, 0.2]))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.point**2


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(256, 16)
        self.hidden = nn.Linear(16, 16)
        self.output = nn.Linear(16, 256, bias=False)
        self.output.weight = self.token.weight

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.output(torch.tanh(self.hidden(self.token(tokens))))
        return logits.flatten(0, 1)


class _LogitsLoss(nn.Module):
    """Cross-entropy of what Hugging Face's causal models return."""

    reduction = "mean"

    def forward(self, output: Any, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output.logits.flatten(0, 1), targets)


class _Mean(nn.Module):
    reduction = "mean"

    def forward(self, output: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        return output.sum(-1).mean()


def _gpt2() -> nn.Module:
    transformers = importlib.import_module("transformers")
    config = transformers.GPT2Config(
        vocab_size=256, n_positions=32, n_embd=32, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=None
    )
    model: nn.Module = transformers.GPT2LMHeadModel(config).train()
    return model


def _network(*extra: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), *extra, nn.GELU(), nn.Linear(32, 10))


def _digits() -> Batch:
    return cases.digits(256, flat=True)


SITUATIONS = (
    Situation("dropout in train mode", lambda: _network(nn.Dropout(0.3)), _digits, nn.MSELoss()),
    Situation("BatchNorm in train mode", lambda: _network(nn.BatchNorm1d(32)), _digits, nn.MSELoss()),
    Situation("data loader that samples", _network, _digits, nn.MSELoss(), resampled=True),
    Situation(
        "fused attention (SDPA)",
        lambda: cases.Gpt(width=32, layers=1, length=32),
        lambda: cases.text(4, 32),
        nn.CrossEntropyLoss(),
    ),
    Situation("tied weights", _Tied, lambda: cases.text(4, 32), nn.CrossEntropyLoss()),
    Situation("Hugging Face GPT-2, dropout 0.1", _gpt2, lambda: cases.text(4, 32), _LogitsLoss()),
    Situation(
        "quadratic with eigenvalues 3 and −4",
        _Saddle,
        lambda: (torch.tensor([[1.5, -2.0]]), torch.zeros(1)),
        _Mean(),
    ),
)


def measure_limits() -> list[Row]:
    """Return one row for each situation and tool."""
    rows = []
    for situation in SITUATIONS:
        try:
            model, batch = situation.build()
        except ImportError as error:
            rows.append({"situation": situation.name, "tool": "", "failure": str(error), "error": None})
            continue
        reference = _reference(situation, model, batch)
        rows += [_row(situation, tool, call, reference) for tool, call in _CALLS.items()]
    return rows


def _reference(situation: Situation, model: nn.Module, batch: Batch) -> float:
    torch.manual_seed(SEED)
    with sdpa_kernel(SDPBackend.MATH):
        if situation.resampled:
            batch = next(iter(_Loader(batch)))
        loss = situation.criterion(model(batch[0]), batch[1])
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if sum(parameter.numel() for parameter in parameters) == 2:
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)[0]
        rows = [torch.autograd.grad(part, parameters, retain_graph=True)[0] for part in gradients]
        return float(torch.linalg.eigvalsh(torch.stack(rows))[-1])
    return largest_pair(loss, model)[0]


def _row(
    situation: Situation, tool: str, call: Callable[[Situation, nn.Module, Batch], float], reference: float
) -> Row:
    model, batch = situation.build()
    _give_gradients(model, situation, batch)
    before = _state(model)
    torch.manual_seed(SEED)
    row: Row = {"situation": situation.name, "tool": tool, "failure": "", "error": None, "changed": []}
    generators = _generators()
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            value = call(situation, model, batch)
        row["value"], row["reference"] = float(f"{value:.6g}"), float(f"{reference:.6g}")
        row["error"] = float(f"{relative_error(value, reference):.3g}")
        row["accurate"] = row["error"] <= TOLERANCE
    except Exception as error:  # noqa: BLE001 - the exception is what is shown
        row["failure"] = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    after = _state(model)
    row["changed"] = [name for name in before if not _same(before[name], after[name])]
    if not _same(generators, _generators()):
        row["changed"].append("random numbers")
    return row


def _give_gradients(model: nn.Module, situation: Situation, batch: Batch) -> None:
    torch.manual_seed(SEED)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    situation.criterion(model(batch[0]), batch[1]).backward()
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])


def _state(model: nn.Module) -> dict[str, list[Any]]:
    return {
        "weights": [parameter.detach().clone() for parameter in model.parameters()],
        ".grad": [None if p.grad is None else p.grad.detach().clone() for p in model.parameters()],
        "buffers": [buffer.clone() for buffer in model.buffers()],
        "train mode": [torch.tensor(module.training) for module in model.modules()],
    }


def _generators() -> list[Any]:
    return [torch.get_rng_state(), torch.tensor(random.getstate()[1])]


def _same(before: list[Any], after: list[Any]) -> bool:
    return all(
        (old is None) == (new is None) and (old is None or torch.equal(old, new))
        for old, new in zip(before, after, strict=True)
    )


def _foreshock(situation: Situation, model: nn.Module, batch: Batch) -> float:
    if situation.resampled:
        batch = next(iter(_Loader(batch)))
    return ours.sharpness(model, lambda model, data: situation.criterion(model(data[0]), data[1]), batch)


def _pyhessian(situation: Situation, model: nn.Module, batch: Batch) -> float:
    from pyhessian import hessian

    data: dict[str, Any] = {"dataloader": _Loader(batch)} if situation.resampled else {"data": batch}
    values, _ = hessian(model, situation.criterion, cuda=False, **data).eigenvalues(maxIter=300, tol=1e-5)
    return float(values[0])


def _eigenthings(situation: Situation, model: nn.Module, batch: Batch) -> float:
    from hessian_eigenthings import HessianOperator, lanczos, supervised_loss

    data = _Loader(batch) if situation.resampled else [batch]
    operator = HessianOperator(model, data, supervised_loss(situation.criterion))
    return float(lanczos(operator, k=1, max_iter=min(PRODUCTS, operator.size), seed=0).eigenvalues[0])


def _curvlinops(situation: Situation, model: nn.Module, batch: Batch) -> float:
    import numpy as np
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import eigsh

    data = _Loader(batch) if situation.resampled else [batch]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    operator = HessianLinearOperator(model, situation.criterion, parameters, data)
    values = eigsh(operator.to_scipy(dtype=np.float32), k=1, which="LA", return_eigenvectors=False)
    return float(values[0])


_CALLS: dict[str, Callable[[Situation, nn.Module, Batch], float]] = {
    "foreshock": _foreshock,
    "pyhessian": _pyhessian,
    "hessian_eigenthings": _eigenthings,
    "curvlinops": _curvlinops,
}
