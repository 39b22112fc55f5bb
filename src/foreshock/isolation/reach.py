"""What a loss function can reach besides its arguments: found by looking at it, without calling it.

A loss function is more than a function of model and batch: it may run a second network, draw from a generator
of its own, take its batch from an iterator, or step an optimizer. What it can get at lies in its closure, in
the global names of its code, in its defaults, and in the object whose method it is.
"""

from __future__ import annotations

import functools
import gc
import inspect
import itertools
import operator
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import CodeType, FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.isolation.random_numbers import GENERATORS

_MOST = 500  # objects to look at
_LONGEST = 100  # entries of a container to look at
_NESTED = 4  # iterators inside each other
_LIBRARIES = frozenset(["torch", "numpy", "foreshock", *sys.stdlib_module_names]) - {"__main__"}


@dataclass
class Reach:
    """What a loss function can reach.

    Attributes:
        modules: Networks.
        generators: Random number generators.
        optimizers: Optimizers.
        iterators: Iterators, each with a name and where it stood.
    """

    modules: list[nn.Module] = field(default_factory=list)
    generators: list[Any] = field(default_factory=list)
    optimizers: list[Optimizer] = field(default_factory=list)
    iterators: list[tuple[str, Iterator[Any], object]] = field(default_factory=list)

    @classmethod
    def of(cls, function: Any) -> Reach:
        """Return what a function can reach.

        Args:
            function: A function, a method, a partial, or an object that can be called; None reaches nothing.

        Example:
            >>> network = nn.Linear(1, 1)
            >>> Reach.of(functools.partial(print, network)).modules == [network]
            True
        """
        found = cls()
        search = _Search()
        for name, value in search.values(function):
            if isinstance(value, nn.Module):
                found.modules.append(value)
            elif isinstance(value, GENERATORS):
                found.generators.append(value)
            elif isinstance(value, Optimizer):
                found.optimizers.append(value)
            elif isinstance(value, Iterator):
                found.iterators.append((name, value, _position(value)))
        return found

    def advanced(self) -> list[str]:
        """Return the names of the iterators that do not stand where they stood."""
        return [name for name, iterator, stood in self.iterators if _position(iterator) != stood]


_UNINTERESTING = (type(None), bool, int, float, complex, str, bytes, Tensor, ModuleType, type, CodeType)
_ENDS = (Optimizer, *GENERATORS, Iterator)  # nothing is looked for inside of them


class _Search:
    """One walk through what a function can reach.

    Of an object only the attributes are looked at whose names occur in code that was found: a trainer holds
    far more than its loss function uses.
    """

    def __init__(self) -> None:
        self._mentioned: set[str] = set()
        self._objects: list[tuple[str, Any]] = []
        self._waiting: deque[tuple[str, Any]] = deque()

    def values(self, start: Any) -> Iterator[tuple[str, Any]]:
        """Yield each object once, with a name."""
        seen: dict[int, Any] = {}  # holds them: the ids of freed objects are used again
        known = -1
        self._waiting.append(("loss_fn", start))
        while self._waiting and len(seen) < _MOST:
            name, value = self._waiting.popleft()
            if id(value) not in seen and not isinstance(value, _UNINTERESTING):
                seen[id(value)] = value
                yield name, value
                if not isinstance(value, _ENDS):
                    self._waiting.extend(self._inside(name, value))
            if not self._waiting and len(self._mentioned) > known:
                # Code that was found late may name attributes of what was found early.
                known = len(self._mentioned)
                for name, value in self._objects:
                    self._waiting.extend(self._attributes(name, value))

    def _inside(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, MethodType):
            yield from ((name, value.__func__), ("self", value.__self__))
        elif isinstance(value, FunctionType):
            if _is_of_the_user(value):
                self._mentioned.update(_names(value.__code__))
                yield from _variables(value)
        elif isinstance(value, functools.partial):
            yield from ((name, one) for one in (value.func, *value.args, *value.keywords.values()))
        elif isinstance(value, dict):
            yield from ((f"{name}[{key!r}]", one) for key, one in list(value.items())[:_LONGEST])
        elif isinstance(value, list | tuple | set | frozenset | deque):
            yield from ((name, one) for one in list(value)[:_LONGEST])
        elif isinstance(getattr(value, "__dict__", None), dict):
            self._objects.append((name, value))
            call = getattr(type(value), "__call__", None)  # noqa: B004 - its code is looked at
            if isinstance(call, FunctionType):
                yield name, call

    def _attributes(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        own = vars(value)
        for attribute in self._mentioned & own.keys():
            yield f"{name}.{attribute}", own[attribute]
        for kind in filter(_is_of_the_user, type(value).__mro__):
            shared = vars(kind)
            for attribute in self._mentioned & shared.keys():
                found = shared[attribute]
                yield f"{name}.{attribute}", found.fget if isinstance(found, property) else found


def _is_of_the_user(what: Any) -> bool:
    """Return whether a function or class may know of a training run: that of a library does not."""
    return str(getattr(what, "__module__", None)).partition(".")[0] not in _LIBRARIES


def _variables(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not bound yet
            continue
    for name in sorted(_names(function.__code__) & function.__globals__.keys()):
        yield name, function.__globals__[name]
    yield from ((function.__name__, one) for one in function.__defaults__ or ())
    yield from (function.__kwdefaults__ or {}).items()
    if hasattr(function, "__wrapped__"):
        yield function.__name__, function.__wrapped__


def _names(code: CodeType) -> set[str]:
    """Return the names of globals and attributes in code, that of inner functions included."""
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)


def _position(iterator: Any, depth: int = _NESTED) -> object:
    """Return something that differs once an iterator was advanced, as far as that can be seen from outside.

    Nothing is taken from the iterator.
    """
    if isinstance(iterator, GeneratorType):
        frame = iterator.gi_frame
        # The objects themselves, not their ids, which are used again.
        local = [] if frame is None else [_Same(one) for one in inspect.getgeneratorlocals(iterator).values()]
        inner = iterator.gi_yieldfrom
        return (
            frame and frame.f_lasti,
            local,
            isinstance(inner, Iterator) and depth and _position(inner, depth - 1),
        )
    seen: list[object] = [getattr(iterator, "_num_yielded", None)]  # of a DataLoader's
    if hasattr(iterator, "__length_hint__"):
        seen.append(operator.length_hint(iterator, -1))
    if isinstance(iterator, itertools.count | itertools.repeat):
        seen.append(repr(iterator))
    if isinstance(vars(iterator) if hasattr(iterator, "__dict__") else None, dict):
        seen += [(name, one) for name, one in vars(iterator).items() if type(one) in (int, float, str)]
    if depth:
        # What zip, cycle and their like go through; and what cycle has kept of it.
        held = gc.get_referents(iterator)
        held += [one for group in held if type(group) is tuple for one in group]
        seen += [len(one) for one in held if type(one) is list]
        seen += [_position(one, depth - 1) for one in held if isinstance(one, Iterator)]
    return seen


class _Same:
    """An object that equals itself only."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._value is other._value

    __hash__ = None  # type: ignore[assignment]
