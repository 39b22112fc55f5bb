r"""Adam-mini: one second moment for a block of entries, the mean of their squared gradients.

.. math:: v_b ← β_2 v_b + (1-β_2)\,\overline{g^2}_b, \qquad u = \hat m / (\sqrt{\hat v_b} + ε)

Zhang et al. 2024, *Adam-mini: Use Fewer Learning Rates To Gain More*, arXiv 2406.16793, with the blocks of
its authors' package, adam-mini 1.1.1: of queries and keys a block is a head; of values, of the projection
after attention, of a Transformer's MLPs, of embeddings and output layers it is a row; of biases an entry,
as in Adam; any other tensor is one block. As in the package, names tell them apart; that itself takes no
matrix that maps to queries, keys and values at once, as these networks have it. v has the shape of the
parameter, though it is the same all over a block: what is compared is the training, not the memory saved.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from foreshock.lab.guardbench.methods.method import Method, RuleOptimizer, parameter_groups
from foreshock.lab.tasks import OptimizerConfig
from foreshock.lab.tasks.causal import Block, LlamaBlock

ROWS = ("embed", "output", "hidden", "gate")
"""Parts of the names of matrices that have a block a row: embeddings, output layers, projections, MLPs."""

Share = Callable[[Tensor], Tensor]
"""Maps squared gradients to the mean of each block, in a shape that broadcasts to that of the parameter."""


def by_entry(squares: Tensor) -> Tensor:
    """Return the squares: a block an entry."""
    return squares


def by_row(squares: Tensor) -> Tensor:
    """Return the mean of each row."""
    return squares.flatten(1).mean(dim=1).reshape(-1, *[1] * (squares.ndim - 1))


def by_tensor(squares: Tensor) -> Tensor:
    """Return the mean of all."""
    return squares.mean()


def by_head(squares: Tensor, heads: int) -> Tensor:
    """Return the mean of each head of the queries and of the keys, and of each row of the values.

    Args:
        squares: Of the matrix that maps to queries, keys and values, shape (3·width, width).
        heads: Attention heads.
    """
    rows, both = by_row(squares), 2 * len(squares) // 3
    means = rows[:both].reshape(2 * heads, -1).mean(dim=1)
    return torch.cat([means.repeat_interleave(both // (2 * heads))[:, None], rows[both:]])


def shares(model: nn.Module) -> dict[Tensor, Share]:
    """Return how the entries of each parameter are put into blocks.

    Args:
        model: The model.

    Example:
        >>> [share.__name__ for share in shares(nn.Linear(2, 1)).values()]
        ['by_tensor', 'by_entry']
    """
    found: dict[Tensor, Share] = {}
    for name, parameter in model.named_parameters():
        rows = parameter.ndim >= 2 and any(part in name for part in ROWS)
        found[parameter] = by_entry if "bias" in name else by_row if rows else by_tensor
    for module in model.modules():
        if isinstance(module, Block | LlamaBlock):
            found[module.query_key_value.weight] = partial(by_head, heads=module.heads)
    return found


def _direction(gradient: Tensor, first: Tensor, second: Tensor, step: int, group: dict[str, Any]) -> Tensor:
    """Return m̂/(√v̂ + ε)."""
    beta1, beta2 = group["betas"]
    first.lerp_(gradient, 1 - beta1)
    second.mul_(beta2).add_((1 - beta2) * group["share"](gradient.square()))
    direction: Tensor = first / (1 - beta1**step) / ((second / (1 - beta2**step)).sqrt() + group["eps"])
    return direction


def build_adam_mini(model: nn.Module, config: OptimizerConfig) -> RuleOptimizer:
    """Return the optimizer with a task's settings.

    Args:
        model: The model.
        config: Settings.
    """
    share = shares(model)
    groups = [
        group | {"params": [parameter], "share": share[parameter]}
        for group in parameter_groups(model, config)
        for parameter in group["params"]
    ]
    return RuleOptimizer(groups, _direction, lr=config.learning_rate, betas=config.betas, eps=config.eps)


ADAM_MINI = Method(
    "adam-mini",
    "own",
    "Zhang et al. 2024",
    "blocks of its authors' package, version 1.1.1",
    build=build_adam_mini,
    code=(__name__,),
)
