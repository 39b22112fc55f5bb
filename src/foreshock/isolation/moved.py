"""What a loss function was seen to move in earlier probes, so that later ones copy that and little else."""

from __future__ import annotations

import functools
import weakref
from typing import Any

from torch import Tensor, nn

_FIRST = 3  # probes in which a parameter has to stand still, copied, before it is watched only
_EVERY = 50  # probes from one that copies everything to the next
_MOVES = -1


class MovedMemory:
    """Remember which parameters stand still while a loss function is evaluated.

    A forward pass hardly ever writes into parameters, and a copy of all takes memory, and time: on a small
    batch, up to that of a forward and backward pass. So the first three probes copy everything, and every
    fiftieth; a parameter that stood still so far is watched in between, by its version counter and some of
    its values. One that has moved is copied in every later probe.

    It is learned anew for another model, mode of the model or loss function. A copy or pickle of this object
    remembers nothing.

    Example:
        >>> model, memory = nn.Linear(1, 1), MovedMemory()
        >>> stood_still = []
        >>> for _ in range(4):
        ...     memory.begin(model, None)
        ...     stood_still.append(memory.stood_still(model.weight))
        ...     memory.learn(model.weight, moved=False)
        >>> stood_still
        [False, False, False, True]
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._of: tuple[Any, ...] = ()
        self._probes = 0

    def begin(self, model: nn.Module, loss_fn: Any) -> None:
        """Begin a probe.

        Args:
            model: The model that is evaluated.
            loss_fn: The loss function; of several, a tuple. One that is made anew from the same code, as a
                lambda in the training loop, is the same.
        """
        of = (weakref.ref(model), model.training, _code(loss_fn))
        if of != self._of:
            self._known, self._of, self._probes = {}, of, 0
        self._probes += 1

    @property
    def turn(self) -> int:
        """The number of this probe, from one."""
        return self._probes

    def stood_still(self, tensor: Tensor) -> bool:
        """Return whether a tensor needs no copy in this probe.

        Args:
            tensor: A parameter.
        """
        known = self._known.get(id(tensor))
        if known is None or known[0]() is not tensor or self._probes % _EVERY == 0:
            return False
        return known[1] >= _FIRST

    def learn(self, tensor: Tensor, *, moved: bool) -> None:
        """Remember whether a tensor was written to in this probe.

        Args:
            tensor: A parameter that was copied, or watched.
            moved: Whether its content or its version counter changed.
        """
        known = self._known.get(id(tensor))
        count = known[1] if known is not None and known[0]() is tensor else 0
        count = _MOVES if moved or count == _MOVES else count + 1
        self._known[id(tensor)] = weakref.ref(tensor), count

    def __reduce__(self) -> tuple[type[MovedMemory], tuple[()]]:
        """Copy and pickle without content: it is of the tensors of this process."""
        return MovedMemory, ()


def _code(function: Any) -> Any:
    """Return what stays the same of a function that is defined anew at each step."""
    if isinstance(function, tuple):
        return tuple(map(_code, function))
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "__func__", function)
    return getattr(function, "__code__", type(function))
