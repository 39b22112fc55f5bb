"""The experiments, one a file, in the order in which they are run and shown."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from foreshock.lab.reproduction.experiment import Experiment
from foreshock.lab.reproduction.experiments import (
    cause,
    cnn,
    criteria,
    fnn_1d,
    fnn_50d,
    interventions,
    llm,
    quadratic,
    transformer,
)
from foreshock.lab.reproduction.medium.experiments import MEDIUM

EXPERIMENTS: Mapping[str, Experiment] = MappingProxyType(
    {
        module.EXPERIMENT.name: module.EXPERIMENT
        for module in (quadratic, fnn_1d, fnn_50d, cnn, transformer, llm, interventions, cause, criteria)
    }
)


def experiments_at(scale: str) -> Mapping[str, Experiment]:
    """Return the experiments that a scale has, by name.

    Args:
        scale: "cpu", "medium" or "paper".
    """
    return MEDIUM if scale == "medium" else EXPERIMENTS


def find_experiment(name: str, scale: str = "cpu") -> Experiment:
    """Return an experiment by name.

    Args:
        name: Its name.
        scale: "cpu", "medium" or "paper".

    Raises:
        ValueError: If there is none of that name at that scale.

    Example:
        >>> find_experiment("cnn").title
        'A convolutional network on 50 images'
    """
    known = experiments_at(scale)
    if name not in known:
        where = "" if scale == "cpu" else f" at scale {scale}"
        raise ValueError(f"There is no experiment {name!r}{where}; there are {', '.join(known)}, and all.")
    return known[name]
