"""Python values ↔ plain JSON and named tensors, without pickle: what comes back is equal, or it was refused.

What JSON has is itself. Anything else is a mapping whose first key begins with ``$``::

    tensor      {"$tensor": NAME}            its content lies beside, under that name
    tuple       {"$tuple": […]}
    dict        {"$dict": [[KEY, VALUE], …]}  keys keep their type; an OrderedDict comes back as a dict
    NaN, ∞      {"$float": "nan"}
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreshock.isolation.bits import is_plain
from foreshock.recorder.spread import Layout, is_partial, is_spread, layout_of, own_part

_PLAIN = (bool, int, str, type(None))
_DICTS = (dict, OrderedDict, defaultdict)
_DEPTH = 50


class NamedTensors(dict[str, Tensor]):
    """Live tensors by name; one that two places have is there once, so that they share it again.

    Attributes:
        layouts: Of those that are spread over processes how they are; what is here is the own part.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layouts: dict[str, Layout] = {}
        self._names: dict[tuple[Any, ...], str] = {}

    def keep(self, tensor: Tensor, place: str) -> str:
        """Put a tensor in, detached and not copied; return its name.

        Args:
            tensor: The tensor.
            place: The name that it gets unless it has one.
        """
        layout, part = layout_of(tensor), own_part(tensor)
        key = (part.data_ptr(), part.dtype, part.shape, part.stride())
        if part.numel() and key in self._names:
            return self._names[key]
        name = self.free_name(place)
        if part.numel():
            self._names[key] = name
        self.put(name, part, layout)
        return name

    def put(self, name: str, part: Tensor, layout: Layout | None) -> None:
        """Put the own part of a tensor in under a name.

        Args:
            name: The name.
            part: Of `own_part`.
            layout: Of `layout_of`.
        """
        self[name] = part
        if layout is not None:
            self.layouts[name] = layout

    def free_name(self, place: str) -> str:
        """Return a name that no tensor has yet: keys 1 and "1" of a dict are the same place.

        Args:
            place: What to call it unless that is taken.
        """
        while place in self:
            place += "'"
        return place


class UnsupportedStateError(ValueError):
    """Something that can't be put into a snapshot, or a snapshot that fits no training like this one."""


def encode(value: Any, place: str, tensors: NamedTensors, *, depth: int = _DEPTH) -> Any:
    """Return a value as plain JSON; its tensors are put into a mapping, and not copied.

    Args:
        value: Numbers, text, None, tensors, numpy arrays, and lists, tuples and dicts of them.
        place: What to call it, and what its tensors are called after.
        tensors: Where tensors are put.
        depth: How many containers may lie inside each other.

    Raises:
        UnsupportedStateError: If it holds something else.

    Example:
        >>> tensors = NamedTensors()
        >>> encode((1, {2: torch.ones(2)}), "state", tensors)
        {'$tuple': [1, {'$dict': [[2, {'$tensor': 'state/1/2'}]]}]}
        >>> decode(encode((1, math.inf), "state", tensors), tensors)
        (1, inf)
    """
    kind = type(value)
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind in _PLAIN:
        return value
    if isinstance(value, Tensor):
        refuse_unusual(value, place)
        return {"$tensor": tensors.keep(value, place)}
    if depth == 0:
        raise UnsupportedStateError(
            f"{place} nests more than {_DEPTH} deep, or holds itself: keep flat values in the state"
        )
    if kind in _DICTS:
        pairs = [
            [
                _encode_key(key, place),
                encode(item, f"{place}/{key}", tensors, depth=depth - 1),
            ]
            for key, item in value.items()
        ]
        return {"$dict": pairs}
    if kind in (list, tuple, torch.Size):
        parts = [
            encode(part, f"{place}/{index}", tensors, depth=depth - 1) for index, part in enumerate(value)
        ]
        return parts if kind is list else {"$tuple" if kind is tuple else "$size": parts}
    return _encode_rare(value, place, tensors)


def _encode_key(key: Any, place: str) -> Any:
    if type(key) in _PLAIN:  # nearly all
        return key
    # A tensor is found by its identity, which no snapshot can give back.
    found = NamedTensors()
    encoded = encode(key, f"{place} (a key)", found)
    if found:
        raise UnsupportedStateError(
            f"{place} is a dict with a {type(key).__name__} as a key, which can't be found again by its "
            "content: use names or numbers"
        )
    return encoded


def _encode_rare(value: Any, place: str, tensors: NamedTensors) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        array = np.array(value)  # a copy: the tensor shares its memory
        if array.dtype.hasobject or not array.dtype.isnative:
            raise UnsupportedStateError(f"{place} is a numpy array of {array.dtype}; use one of numbers")
        shape, scalar = list(array.shape), isinstance(value, np.generic)
        place = tensors.free_name(place)
        tensors[place] = torch.from_numpy(np.frombuffer(array.tobytes(), dtype=np.uint8).copy())
        return {"$numpy": place, "dtype": array.dtype.str, "shape": shape, "scalar": scalar}
    kind = type(value)
    if kind is complex:
        return {
            "$complex": [encode(value.real, place, NamedTensors()), encode(value.imag, place, NamedTensors())]
        }
    if kind is Counter:
        return {
            "$counter": [
                [_encode_key(key, place), encode(count, place, NamedTensors())]
                for key, count in value.items()
            ]
        }
    if kind in (torch.dtype, torch.device):
        return {f"${kind.__name__}": str(value)}
    if kind is bytes:
        return {"$bytes": value.hex()}
    raise UnsupportedStateError(
        f"{place} is a {kind.__module__}.{kind.__qualname__}, which can't be written exactly without pickle; "
        "a snapshot holds tensors, numpy arrays, numbers, text, None, and lists, tuples and dicts of them"
    )


def refuse_unusual(value: Tensor, place: str) -> None:
    """Refuse a tensor that is not memory in strides: its content could not be put back exactly.

    Args:
        value: The tensor.
        place: What to call it.

    Raises:
        UnsupportedStateError: If it waits for a sum over processes, is sparse, quantized, on no device, or of
            a subclass.
    """
    if is_spread(value):
        if not is_partial(value):
            refuse_unusual(own_part(value), place)
            return
        what = "a distributed tensor whose sum over processes is still due: let it be reduced before observe"
        raise UnsupportedStateError(f"{place} is {what}")
    if is_plain(value):
        return
    if hasattr(value, "to_local"):
        what = "a distributed tensor of a sort that is not known: use a Monitor without a recorder"
    elif value.layout != torch.strided:
        what = f"a sparse tensor ({value.layout}): use dense gradients, as of nn.Embedding(sparse=False)"
    elif value.is_meta or type(value).__name__.startswith("Uninitialized"):
        what = "a tensor without content: run one forward pass first, and materialise what is on 'meta'"
    else:
        what = f"a {type(value).__name__}, whose content is not plain memory"
    raise UnsupportedStateError(f"{place} is {what}")


def decode(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the value that `encode` was given; tensors are those of the mapping.

    Args:
        tree: What `encode` returned.
        tensors: Tensors by name.

    Raises:
        UnsupportedStateError: If it is nothing that `encode` returns, or a tensor is missing.
    """
    if isinstance(tree, list):
        return [decode(part, tensors) for part in tree]
    if not isinstance(tree, dict):
        return tree
    tag, content = next(iter(tree.items()), ("", None))
    try:
        return _decode_tagged(tag, content, tree, tensors)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, RuntimeError) as error:
        if isinstance(error, UnsupportedStateError):
            raise
        raise UnsupportedStateError(f"a snapshot's state has {str(tree)[:80]}, which is damaged") from error


def _decode_tagged(tag: str, content: Any, tree: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    match tag:
        case "$tensor":
            return tensors[content]
        case "$dict":
            return {decode(key, tensors): decode(value, tensors) for key, value in content}
        case "$tuple":
            return tuple([decode(part, tensors) for part in content])
        case "$size":
            return torch.Size(content)
        case "$float":
            return float(content)
        case "$complex":
            return complex(*[decode(part, tensors) for part in content])
        case "$counter":
            return Counter({decode(key, tensors): decode(count, tensors) for key, count in content})
        case "$dtype":
            return dtype_of(content)
        case "$device":
            return torch.device(content)
        case "$bytes":
            return bytes.fromhex(content)
        case "$numpy":
            flat = np.frombuffer(tensors[content].numpy().tobytes(), dtype=np.dtype(tree["dtype"]))
            array = flat.reshape(tree["shape"]).copy()
            return array[()] if tree["scalar"] else array
    raise ValueError(tag)


def dtype_of(name: str) -> torch.dtype:
    """Return the type of tensors that a name such as ``torch.int8`` stands for.

    Args:
        name: The name.

    Raises:
        ValueError: If there is no such type.
    """
    found = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{name!r} is no type of tensors")
    return found


class Copies(Mapping[str, Tensor]):
    """Copies of tensors, made when they are asked for: nothing restored shares memory with a snapshot."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        """Return a copy of a tensor."""
        return self._tensors[name].clone()

    def __iter__(self) -> Iterator[str]:
        """Return the names."""
        return iter(self._tensors)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._tensors)


def written(saved: Tensor, present: Any, device: torch.device | None) -> Tensor:
    """Return a tensor with what was saved: the present one, written in place, if it fits, or a copy.

    Args:
        saved: What was saved; of one that is spread over processes the own part.
        present: What there is now.
        device: Where the tensor has to be; None: where it is.
    """
    part = own_part(present) if isinstance(present, Tensor) else None
    fits = part is not None and part.shape == saved.shape and part.dtype == saved.dtype
    if part is not None and fits and (device is None or part.device == device):
        part.copy_(saved)
        result: Tensor = present
        return result
    return saved.clone() if device is None else saved.to(device, copy=True)
