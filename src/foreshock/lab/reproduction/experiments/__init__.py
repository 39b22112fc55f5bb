"""The experiments, one a file, in the order in which they are run and shown."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from foreshock.lab.reproduction.experiment import Experiment
from foreshock.lab.reproduction.experiments import (
    cause,
    cnn,
    fnn_1d,
    fnn_50d,
    interventions,
    llm,
    quadratic,
    transformer,
)

EXPERIMENTS: Mapping[str, Experiment] = MappingProxyType(
    {
        module.EXPERIMENT.name: module.EXPERIMENT
        for module in (quadratic, fnn_1d, fnn_50d, cnn, transformer, llm, interventions, cause)
    }
)


def find_experiment(name: str) -> Experiment:
    """Return an experiment by name.

    Args:
        name: Its name.

    Raises:
        ValueError: If there is none of that name.

    Example:
        >>> find_experiment("cnn").title
        'A convolutional network on 50 images'
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"There is no experiment {name!r}; there are {', '.join(EXPERIMENTS)}, and all.")
    return EXPERIMENTS[name]
