"""The families by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from foreshock.lab.tasks.addition import build_addition
from foreshock.lab.tasks.anchors import build_anchors
from foreshock.lab.tasks.autoencoder import build_autoencoder
from foreshock.lab.tasks.cnn import build_cnn
from foreshock.lab.tasks.contrastive import build_contrastive
from foreshock.lab.tasks.coordinates import build_coordinates
from foreshock.lab.tasks.experts import build_experts
from foreshock.lab.tasks.flow import build_flow
from foreshock.lab.tasks.graph import build_graph
from foreshock.lab.tasks.gru import build_gru
from foreshock.lab.tasks.language import build_language
from foreshock.lab.tasks.lstm import build_lstm
from foreshock.lab.tasks.mixer import build_mixer
from foreshock.lab.tasks.mlp import build_mlp
from foreshock.lab.tasks.pinn import build_pinn
from foreshock.lab.tasks.residual import build_residual
from foreshock.lab.tasks.statespace import build_statespace
from foreshock.lab.tasks.task import Task
from foreshock.lab.tasks.transformer import build_transformer
from foreshock.lab.tasks.value import build_value

FAMILIES: Mapping[str, Callable[..., Task]] = MappingProxyType(
    {
        "mlp": build_mlp,
        "cnn": build_cnn,
        "transformer": build_transformer,
        "language": build_language,
        "addition": build_addition,
        "anchors": build_anchors,
        "lstm": build_lstm,
        "pinn": build_pinn,
        "value": build_value,
        "autoencoder": build_autoencoder,
        "contrastive": build_contrastive,
        "coordinates": build_coordinates,
        "experts": build_experts,
        "flow": build_flow,
        "graph": build_graph,
        "mixer": build_mixer,
        "residual": build_residual,
        "gru": build_gru,
        "statespace": build_statespace,
    }
)
"""Builder of each family; its keyword arguments are the family's options."""


def build_task(family: str, *, batch_size: int | None, seed: int, **options: Any) -> Task:
    """Build a task of a family.

    Args:
        family: A name in `FAMILIES`.
        batch_size: Examples in a batch; None for the full batch.
        seed: Seed of the initial weights and of the batches; the training set stays the same.
        **options: Options of the family, see its builder.

    Returns:
        The untrained task.

    Raises:
        ValueError: If the family is unknown, has no such option, or refuses its value.

    Example:
        >>> task = build_task("mlp", batch_size=None, seed=0, points=50)
        >>> inputs, targets = next(task.batches)
        >>> inputs.shape, task.loss_fn(task.model, (inputs, targets)).ndim
        (torch.Size([50, 1]), 0)
    """
    if family not in FAMILIES:
        raise ValueError(f"There is no family {family!r}; the families are {', '.join(FAMILIES)}.")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0, got {seed!r}.")
    build = FAMILIES[family]
    allowed = [name for name in inspect.signature(build).parameters if name not in ("batch_size", "seed")]
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise ValueError(
            f"The family {family!r} has no option {', '.join(unknown)}; it has {', '.join(allowed)}."
        )
    return build(batch_size=batch_size, seed=seed, **options)
