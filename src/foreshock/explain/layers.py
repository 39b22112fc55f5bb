"""Layers by a name that says what they are: ``layer 2 (Conv2d)`` instead of ``2``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from foreshock.representation import short_line

if TYPE_CHECKING:
    from foreshock.runlog import Run


def layer_types(run: Run) -> Mapping[str, str]:
    """Return the class names of a run's modules by their names, as its log's header has them.

    Args:
        run: A run as read from its log; of an older version, the header has none.
    """
    return types_in(run.meta)


def types_in(meta: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the class names of modules by their names, as a log's header has them.

    Args:
        meta: What the header says of the run.
    """
    layers: Any = meta.get("layers")
    if not isinstance(layers, Mapping):
        return {}
    return {str(name): short_line(str(kind)) for name, kind in layers.items()}


def layer_name(name: str, types: Mapping[str, str]) -> str:
    """Return a module's name with its type, if that is known.

    Args:
        name: Name of a module as in ``model.named_modules()``, or of a parameter that the model itself owns.
        types: Class names by names; in a name that stands for many, ``*`` takes the place of a number.

    Example:
        >>> layer_name("2", {"2": "Conv2d"}), layer_name("blocks.11.qkv", {"blocks.*.qkv": "Linear"})
        ('layer 2 (Conv2d)', 'blocks.11.qkv (Linear)')
    """
    kind = types.get(name) or types.get(numberless(name)) or ""
    shown = f"layer {name}" if name.isdecimal() else name
    return f"{shown} ({kind})" if kind else shown


def numberless(name: str) -> str:
    """Return the name that stands for all modules whose names differ in numbers alone.

    Args:
        name: Name of a module.

    Example:
        >>> numberless("blocks.11.mlp.0")
        'blocks.*.mlp.*'
    """
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)
