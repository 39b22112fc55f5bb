"""One line that guards an optimizer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer

from foreshock.guarding.guard import Guard
from foreshock.guarding.policies import Policy, make_policy, require_policy
from foreshock.guarding.record import GuardAction
from foreshock.preconditioner import as_optimizers, unwrap


def guard(
    optimizer: Optimizer | Sequence[Optimizer],
    policy: str | Policy = "auto",
    *,
    on_action: Callable[[GuardAction], None] | None = None,
    max_actions: int = 1000,
    group: Any = None,
    wait: bool = True,
) -> Guard:
    """Keep an optimizer from making loss spikes, by hooks on its ``step()``.

    Args:
        optimizer: Adam, AdamW, NAdam, RAdam, Adamax, RMSprop or Adafactor of ``torch.optim``, a subclass that
            doesn't override ``step`` or is registered as taking that of its base, a wrapper around one, or
            another one whose registered `foreshock.Reader` has a `raise_second_moment`.
        policy: ``"auto"``, the name of another policy (`foreshock.register_policy` adds to them), or a policy
            with options such as ``foreshock.guarding.Secant(threshold=0.85)``, which is copied.
        on_action: Called with each `GuardAction`. What it raises ends the training step.
        max_actions: How many of the last actions to keep, ≥ 1.
        group: Process group to add sums up over, where plain tensors are parts of parameters (FSDP1, ZeRO).
            FSDP2 and DistributedDataParallel need none.
        wait: False where waiting for the device before each step would cost more than it is worth: in
            mini-batches ‖g‖ is then known one step later on most steps, but for the eight after it doubled
            or v was raised along a direction. An outlier that comes on such a step is not clipped. Full
            batches are guarded as with True.

    Returns:
        The guard. It acts until `Guard.detach`.

    Raises:
        TypeError: If the optimizer can't be guarded or lacks the option that the policy changes, or if
            `policy` is no policy.
        ValueError: If there is no such policy, there are several optimizers, or the policy ``"outlier"``,
            which has to know a gradient before it is used, is not to wait for it.

    Example:
        >>> import torch
        >>> weight = torch.ones(1, requires_grad=True)
        >>> optimizer = torch.optim.Adam([weight])
        >>> with guard(optimizer, "secant") as watched:
        ...     for _ in range(20):
        ...         optimizer.zero_grad()
        ...         weight.square().sum().backward()
        ...         optimizer.step()
        >>> print(watched.summary())
        guard 'secant': acted on 0 of 20 steps (0.00%)
    """
    several = as_optimizers(optimizer)
    if len(several) > 1:
        raise ValueError(
            f"guard was given {len(several)} optimizers; it takes one, and judges by what that moves: "
            "pass the one whose v lags, foreshock.guard(adamw) of an AdamW beside a Muon"
        )
    if isinstance(policy, str):
        chosen = make_policy(policy)
    else:
        require_policy(policy)
        chosen = copy.deepcopy(policy)
    if chosen.name == "outlier" and not wait:
        raise ValueError(
            "the policy 'outlier' clips gradients, which it has to know before the step: leave out wait=False"
        )
    watched = Guard(several[0], chosen, on_action=on_action, max_actions=max_actions, group=group, wait=wait)
    _require_option(watched, chosen)
    return watched


def as_guard(guard_or_policy: Guard | Policy | str, optimizer: Optimizer | Sequence[Optimizer]) -> Guard:
    """Return the guard that was given, or a new one of the policy that was given.

    Args:
        guard_or_policy: A guard, a policy, or the name of one.
        optimizer: The optimizer, or several.

    Raises:
        ValueError: If the guard is one of another optimizer; else as `guard`.
    """
    if not isinstance(guard_or_policy, Guard):
        return guard(optimizer, guard_or_policy)
    if unwrap(guard_or_policy.optimizer) not in [unwrap(one) for one in as_optimizers(optimizer)]:
        raise ValueError("the guard is one of another optimizer: make it of the one that is monitored")
    return guard_or_policy


def _require_option(watched: Guard, policy: Policy) -> None:
    option = {"epsilon": "eps", "beta2": "betas"}.get(policy.name)
    group = unwrap(watched.optimizer).param_groups[0]
    if option is None or (option in group and not (option == "eps" and isinstance(group[option], tuple))):
        return
    watched.detach()  # a guard that is refused must not stay on the optimizer
    raise TypeError(
        f"the policy {policy.name!r} changes {option!r}, which {type(watched.optimizer).__name__} doesn't "
        "have: take 'secant'"
    )
