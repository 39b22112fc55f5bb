"""Muon for the matrices between the first and the last layer, AdamW for all other parameters.

Jordan et al. 2024, *Muon: An optimizer for hidden layers in neural networks*; Liu et al. 2025, *Muon is
Scalable for LLM Training*, arXiv 2502.16982, whose scale .2·√max(rows, columns) makes Muon's steps as large
as AdamW's, so that both have one learning rate. The code of Muon is torch's, with its defaults: momentum .95,
Nesterov, five iterations of Newton and Schulz. It takes matrices only; kernels of convolutions go to AdamW.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.lab.guardbench.methods.method import Method, parameter_groups
from foreshock.lab.tasks import OptimizerConfig


class Together(Optimizer):
    """Several optimizers as one: their groups, so that a scheduler reaches all, and their steps.

    Args:
        parts: Optimizers of different parameters.
    """

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self.parts = tuple(parts)
        # An optimizer keeps the dictionaries that it is given: a rate set here is set in the part.
        super().__init__([group for part in parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step of each part; closures are not called."""
        del closure
        for part in self.parts:
            part.step()
            self.state.update(part.state)


def hidden_matrices(model: nn.Module) -> list[Tensor]:
    """Return the weights of linear and recurrent layers, all but the model's first and last weight.

    Embeddings, tables of positions, and what maps the input and to the output are AdamW's, as Muon's authors
    advise.

    Args:
        model: The model.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 8), nn.Linear(8, 4), nn.Linear(4, 1))
        >>> [tuple(weight.shape) for weight in hidden_matrices(model)]
        [(4, 8)]
    """
    weights = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    inner = {id(weight) for weight in weights[1:-1]}
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.RNNBase)]
    found = [
        parameter
        for layer in layers
        for parameter in layer.parameters(recurse=False)
        if parameter.ndim == 2 and id(parameter) in inner
    ]
    return list({id(one): one for one in found}.values())  # once each, where layers share a weight


def build_muon(model: nn.Module, config: OptimizerConfig) -> Together:
    """Return both optimizers with a task's learning rate and decay.

    Args:
        model: The model.
        config: Settings.

    Raises:
        ImportError: If torch has no Muon.
    """
    muon: Any = getattr(torch.optim, "Muon", None)
    if muon is None:
        raise ImportError(
            f"torch {torch.__version__} has no Muon; 2.9 and later have it: pip install 'torch>=2.9'"
        )
    chosen = {id(weight) for weight in hidden_matrices(model)}
    groups = parameter_groups(model, config)
    hidden, others = _part(groups, chosen, inside=True), _part(groups, chosen, inside=False)
    parts = [torch.optim.AdamW(others, lr=config.learning_rate, betas=config.betas, eps=config.eps)]
    if hidden:
        parts.append(muon(hidden, lr=config.learning_rate, adjust_lr_fn="match_rms_adamw"))
    return Together(parts)


def _part(groups: Sequence[dict[str, Any]], chosen: set[int], *, inside: bool) -> list[dict[str, Any]]:
    """Return the groups with only those parameters that are chosen, or only those that are not."""
    parts = [
        group | {"params": [one for one in group["params"] if (id(one) in chosen) is inside]}
        for group in groups
    ]
    return [part for part in parts if part["params"]]


MUON = Method(
    "muon",
    "torch",
    "Jordan et al. 2024",
    "hidden matrices, scaled to AdamW's steps (Liu et al. 2025); AdamW for all else",
    build=build_muon,
    code=(__name__,),
)
