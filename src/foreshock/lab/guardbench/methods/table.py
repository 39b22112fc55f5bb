"""All methods, in the order in which tables have them."""

from __future__ import annotations

from collections.abc import Collection

from foreshock.lab.guardbench.methods.adam_mini import ADAM_MINI
from foreshock.lab.guardbench.methods.adam_variants import ADAM_VARIANTS, PLAIN
from foreshock.lab.guardbench.methods.cdat import CDAT
from foreshock.lab.guardbench.methods.clipping import CLIPPING
from foreshock.lab.guardbench.methods.guards import GUARDS
from foreshock.lab.guardbench.methods.half_life import HALF_LIFE
from foreshock.lab.guardbench.methods.kourkoutas import KOURKOUTAS
from foreshock.lab.guardbench.methods.method import Method
from foreshock.lab.guardbench.methods.muon import MUON
from foreshock.lab.guardbench.methods.packages import PEERS
from foreshock.lab.guardbench.methods.qk_clip import QK_CLIP
from foreshock.lab.guardbench.methods.spectra import SPECTRA
from foreshock.lab.guardbench.methods.stabilizer import STABILIZER
from foreshock.lab.guardbench.methods.windows import WINDOWS

METHODS: tuple[Method, ...] = (
    *ADAM_VARIANTS,
    *PEERS,
    MUON,
    KOURKOUTAS,
    ADAM_MINI,
    HALF_LIFE,
    *CLIPPING,
    *WINDOWS,
    STABILIZER,
    SPECTRA,
    QK_CLIP,
    CDAT,
    *GUARDS,
)
"""Plain Adam comes first."""


def method(name: str) -> Method:
    """Return a method by its name.

    Raises:
        ValueError: If there is none.

    Example:
        >>> method("amsgrad").source
        'torch'
    """
    for one in METHODS:
        if one.name == name:
            return one
    raise ValueError(f"there is no method {name!r}; there are {', '.join(one.name for one in METHODS)}")


def chosen_methods(names: Collection[str]) -> tuple[Method, ...]:
    """Return methods by their names, in the order of tables, with plain Adam, which all are compared with.

    Args:
        names: Their names; none for all methods.

    Raises:
        ValueError: If there is no such method.

    Example:
        >>> [one.name for one in chosen_methods(["guard-auto"])]
        ['adam', 'guard-auto']
    """
    if not names:
        return METHODS
    wanted = {PLAIN, *(method(name).name for name in names)}
    return tuple(one for one in METHODS if one.name in wanted)
