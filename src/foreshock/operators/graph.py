"""What the autograd graph of a loss shows about its second derivative."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

# Operations whose first derivative jumps somewhere: finite differences across the jump measure it, double
# backward does not. Squared ReLU and Huber's loss are not here: they jump in the second derivative only.
_KINKS = frozenset(
    [
        "Abs",
        "Amax",
        "Amin",
        "AdaptiveMaxPool",
        "Clamp",
        "ClampMax",
        "ClampMin",
        "FractionalMaxPool",
        "Hardshrink",
        "Hardsigmoid",
        "Hardtanh",
        "LeakyRelu",
        "Max",
        "Maximum",
        "MaxPool",
        "Median",
        "Min",
        "Minimum",
        "PreluKernel",
        "Relu",
        "RreluWithNoise",
        "Softshrink",
        "Sort",
        "Threshold",
        "Topk",
    ]
)
# torch's own backward whose derivative is wrong: gradgradcheck fails for weight norm in torch 2.13.
_WRONG = frozenset({"WeightNormInterface"})


@dataclass(frozen=True)
class GraphEvidence:
    """Properties of a graph that bear on the choice of a backend.

    Attributes:
        suspects: Names of the nodes that may make double backward silently wrong: those whose backward is not
            torch's own, and those of which torch computes a wrong second derivative.
        kinks: Names of the nodes with a kink, across which finite differences differ from the Hessian.
        precision: dtype of the coarsest arithmetic.
        compiled: Whether a part of the graph was made by ``torch.compile``.
    """

    suspects: tuple[str, ...]
    kinks: tuple[str, ...]
    precision: torch.dtype
    compiled: bool


def read_graph(loss: Tensor) -> GraphEvidence:
    """Return the evidence in the graph of `loss`; the inside of compiled or checkpointed parts is hidden.

    Args:
        loss: A scalar with a graph.
    """
    suspects, kinks, dtypes = set(), set(), {loss.dtype}
    compiled = False
    for node in _nodes(loss):
        name = type(node).__name__
        if name == "CompiledFunctionBackward":
            compiled = True
        # The backward of a custom function, in Python or C++, need not be made of differentiable operations.
        elif isinstance(node, BackwardCFunction) or "CppNode" in name or _plain(name) in _WRONG:
            suspects.add(_plain(name))
        elif _plain(name) in _KINKS:
            kinks.add(_plain(name))
        # The dtypes of a node's outputs show bfloat16 under autocast, where parameters and loss are float32.
        dtypes |= {entry.dtype for entry in node._input_metadata if entry.dtype.is_floating_point}
    precision = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
    return GraphEvidence(tuple(sorted(suspects)), tuple(sorted(kinks)), precision, compiled)


def leaves(loss: Tensor) -> Iterator[Tensor]:
    """Yield the tensors to whose ``.grad`` ``loss.backward()`` would add, each once.

    Those inside of reentrant checkpoints are not visible.

    Args:
        loss: A scalar with a graph.
    """
    for node in _nodes(loss):
        if type(node).__name__ == "AccumulateGrad":
            yield node.variable


def has_compiled_module(model: nn.Module | None) -> bool:
    """Return whether ``torch.compile`` was applied to the model or a part of it."""
    # Importing the compiler takes seconds. If it was not imported yet, nothing can have been compiled.
    frame = sys.modules.get("torch._dynamo.eval_frame")
    wrapper: Any = getattr(frame, "OptimizedModule", ())
    modules = [] if model is None else model.modules()
    return any(
        isinstance(module, wrapper) or getattr(module, "_compiled_call_impl", None) is not None
        for module in modules
    )


def _nodes(loss: Tensor) -> Iterator[Any]:
    # With a stack of its own: the graphs of recurrent networks are deeper than Python's recursion limit.
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [following for following, _ in node.next_functions]


def _plain(name: str) -> str:
    """Return the name of an operation: MaxPool for MaxPool2DWithIndicesBackward0."""
    stem = name.partition("Backward")[0]
    for family in ("FractionalMaxPool", "AdaptiveMaxPool", "MaxPool"):
        if stem.startswith(family):
            return family
    return stem
