"""See what passes through a method of one object, and put the method back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class WatchedMethods:
    """Replace methods of single objects, never of their classes, until `restore`.

    Example:
        >>> class Trainer:
        ...     def step(self, size):
        ...         return size + 1
        >>> trainer, seen = Trainer(), []
        >>> watched = WatchedMethods()
        >>> def around(original):
        ...     return lambda size: seen.append(size) or original(size)
        >>> watched.replace(trainer, "step", around)
        >>> trainer.step(3), seen
        (4, [3])
        >>> watched.restore()
        >>> "step" in vars(trainer), trainer.step(3), seen
        (False, 4, [3])
    """

    def __init__(self) -> None:
        self._replaced: list[tuple[Any, str, Any]] = []

    def replace(self, owner: Any, name: str, around: Callable[[Any], Callable[..., Any]]) -> None:
        """Replace a method of an object.

        Args:
            owner: The object.
            name: Name of the method; nothing happens if the object has none of that name.
            around: Gets the method, and returns what takes its place.
        """
        original = getattr(owner, name, None)
        if original is None:
            return
        self._replaced.append((owner, name, vars(owner).get(name)))
        replacement = around(original)
        # Trainers look at the signature of what they call.
        replacement.__wrapped__ = getattr(original, "__func__", original)  # type: ignore[attr-defined]
        setattr(owner, name, replacement)

    def restore(self) -> None:
        """Put all methods back, the last one first."""
        while self._replaced:
            owner, name, before = self._replaced.pop()
            if before is None:
                vars(owner).pop(name, None)
            else:
                setattr(owner, name, before)
