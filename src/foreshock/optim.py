"""Optimizers of torch with the guard built in: the same numbers as the plain ones until the guard acts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import optim

from foreshock.guarding import Guard, Policy, guard

_KEY = "guard"


def _with_guard(state: dict[str, Any], watched: Guard) -> dict[str, Any]:
    return {**state, _KEY: {"policy": watched.policy, "state": watched.state_dict()}}


def _hang_on(optimizer: GuardedAdam | GuardedAdamW, state: Mapping[str, Any]) -> None:
    """Give a copy its guard. ``load_state_dict`` calls ``__setstate__`` too, and has none to give."""
    if _KEY in state:
        optimizer.guard = guard(optimizer, state[_KEY]["policy"])
        optimizer.guard.load_state_dict(state[_KEY]["state"])


class GuardedAdamW(optim.AdamW):
    """AdamW that makes no loss spikes; all of ``torch.optim.AdamW``, and its ``guard``.

    The guard's state is in ``state_dict()["guard"]``, which a plain optimizer ignores; a state without it, of
    a plain optimizer, can be loaded too.

    Args:
        params: As of AdamW.
        policy: Policy of the guard, as for `foreshock.guard`.
        **options: As of AdamW.

    Attributes:
        guard: The guard.

    Example:
        >>> import torch
        >>> weight = torch.ones(1, requires_grad=True)
        >>> optimizer = GuardedAdamW([weight], lr=0.01, policy="secant")
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> optimizer.guard.step
        1
    """

    def __init__(self, params: Any, *, policy: str | Policy = "auto", **options: Any) -> None:
        super().__init__(params, **options)
        self.guard: Guard = guard(self, policy)

    def state_dict(self) -> dict[str, Any]:
        """Return AdamW's state, and the guard's under ``"guard"``."""
        return {**super().state_dict(), _KEY: self.guard.state_dict()}

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs, the guard's policy and state included."""
        return _with_guard(super().__getstate__(), self.guard)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become a copy with a guard of its own."""
        super().__setstate__({key: value for key, value in state.items() if key != _KEY})  # type: ignore[no-untyped-call]
        _hang_on(self, state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict()`, or from that of a plain AdamW.

        Args:
            state_dict: What ``state_dict`` returned.
        """
        super().load_state_dict({key: value for key, value in state_dict.items() if key != _KEY})
        if _KEY in state_dict:
            self.guard.load_state_dict(state_dict[_KEY])


class GuardedAdam(optim.Adam):
    """Adam that makes no loss spikes; all of ``torch.optim.Adam``, and its ``guard``. See `GuardedAdamW`.

    Args:
        params: As of Adam.
        policy: Policy of the guard, as for `foreshock.guard`.
        **options: As of Adam.

    Attributes:
        guard: The guard.
    """

    def __init__(self, params: Any, *, policy: str | Policy = "auto", **options: Any) -> None:
        super().__init__(params, **options)
        self.guard: Guard = guard(self, policy)

    def state_dict(self) -> dict[str, Any]:
        """Return Adam's state, and the guard's under ``"guard"``."""
        return {**super().state_dict(), _KEY: self.guard.state_dict()}

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs, the guard's policy and state included."""
        return _with_guard(super().__getstate__(), self.guard)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become a copy with a guard of its own."""
        super().__setstate__({key: value for key, value in state.items() if key != _KEY})  # type: ignore[no-untyped-call]
        _hang_on(self, state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict()`, or from that of a plain Adam.

        Args:
            state_dict: What ``state_dict`` returned.
        """
        super().load_state_dict({key: value for key, value in state_dict.items() if key != _KEY})
        if _KEY in state_dict:
            self.guard.load_state_dict(state_dict[_KEY])
