"""Collectives of the model itself, inside of a probe: none begins before all processes have come to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

NAMESPACES = ("c10d", "_c10d_functional", "_c10d_functional_autograd", "_dtensor", "symm_mem")
_WAITS = ("wait_tensor", "monitored_barrier_")


class AgreedCollectives(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Have all processes agree before each collective: one that failed says so there, and none hangs in it.

    Args:
        agree: Called before each; raises where another process has failed.
    """

    def __init__(self, agree: Callable[[], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._agree = agree

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # What a distributed tensor does is seen one level below, where it calls collectives.
        if any(hasattr(one, "to_local") for one in types):
            return NotImplemented
        if func.namespace in NAMESPACES and not func._opname.startswith(_WAITS):
            self._agree()
        return func(*args, **(kwargs or {}))
