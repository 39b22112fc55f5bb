"""Optimizers of torch with the guard built in: the same numbers as the plain ones until the guard acts."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import optim

from foreshock.guarding import Guard, Policy, guard

_KEY = "guard"


class _Guarded(optim.Optimizer):
    """What a guard adds to an optimizer, as the first base of a class whose second one steps."""

    guard: Guard

    def __init__(
        self, params: Any, *args: Any, policy: str | Policy = "auto", wait: bool = True, **options: Any
    ) -> None:
        super().__init__(params, *args, **options)
        self._attach(policy, wait=wait)

    def __repr__(self) -> str:
        """Return what the plain optimizer prints, and one line on the guard."""
        return f"{super().__repr__()}\n{self.guard!r}"

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state, and the guard's under ``"guard"``."""
        return {**super().state_dict(), _KEY: self.guard.state_dict()}

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs, the guard's policy and state included."""
        kept = {"policy": self._policy, "wait": self._wait, "state": self.guard.state_dict()}
        return {**super().__getstate__(), _KEY: kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become a copy with a guard of its own; ``load_state_dict`` calls it too, with none to give."""
        super().__setstate__(_without_guard(state))
        # Hooks of the original are not copied: the copy attaches its own.
        if _KEY in state:
            kept = state[_KEY]
            self._attach(kept["policy"], wait=kept.get("wait", True))  # earlier versions always waited
            self.guard.load_state_dict(kept["state"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict()`, or from that of the plain optimizer.

        Args:
            state_dict: What ``state_dict`` returned.
        """
        super().load_state_dict(_without_guard(state_dict))
        if _KEY in state_dict:
            self.guard.load_state_dict(state_dict[_KEY])

    def _attach(self, policy: str | Policy, *, wait: bool) -> None:
        # A copy gets the policy as it was before the first step: loading a state goes back to that.
        self._policy, self._wait = copy.deepcopy(policy), wait
        self.guard = guard(self, policy, wait=wait)


class GuardedAdamW(_Guarded, optim.AdamW):
    """AdamW that makes no loss spikes; all of ``torch.optim.AdamW``, and its ``guard``.

    The guard's state is in ``state_dict()["guard"]``, which a plain optimizer ignores; a state without it, of
    a plain optimizer, can be loaded too.

    Args:
        params: As of AdamW.
        *args: As of AdamW, the learning rate first.
        policy: Policy of the guard, as for `foreshock.guard`.
        wait: Whether the guard waits for ‖g‖ before each step, as for `foreshock.guard`.
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


class GuardedAdam(_Guarded, optim.Adam):
    """Adam that makes no loss spikes; all of ``torch.optim.Adam``, and its ``guard``. See `GuardedAdamW`.

    Args:
        params: As of Adam.
        *args: As of Adam, the learning rate first.
        policy: Policy of the guard, as for `foreshock.guard`.
        wait: Whether the guard waits for ‖g‖ before each step, as for `foreshock.guard`.
        **options: As of Adam.

    Attributes:
        guard: The guard.
    """


def _without_guard(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != _KEY}
