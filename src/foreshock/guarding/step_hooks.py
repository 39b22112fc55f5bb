"""The hooks of a guard on an optimizer: around its steps, and where its state is read or replaced.

In their order: *before* a step, once its gradients are known, the guard measures and may write into v; then
torch's own update runs; *after* it, options that were changed for the step are put back. A step that raises
skips the second hook, so that options are also put back before the next step and before the state is saved;
where a later hook raises, at once.

torch calls the hooks of an optimizer once for each class of it whose ``step`` it has wrapped: where a
subclass calls ``super().step()``, that may be twice a step. The guard then acts around the outermost.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from foreshock.preconditioner import unwrap


class StepHooks:
    """Call a guard around the steps of one optimizer.

    Args:
        optimizer: The optimizer, or a wrapper around it.
        before: Called when the gradients of a step are known and nothing has moved yet.
        after: Called after a step that was completed.
        reading: Called before the optimizer's state is read: also after a step that raised.
        replaced: Called after another state was loaded.

    Raises:
        ValueError: If the optimizer has a guard already.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        before: Callable[[], None],
        after: Callable[[], None],
        reading: Callable[[], None],
        replaced: Callable[[], None],
    ) -> None:
        inner = unwrap(optimizer)
        if _is_guarded(inner):
            raise ValueError(
                f"this {type(inner).__name__} has a guard already, and two would undo each other's changes: "
                "detach() that one first, or pass it on (as guard=… of a Monitor; of an optimizer of "
                "foreshock.optim it is its .guard)"
            )
        # Where step() is compiled, tracing the guard would take minutes, and again at each new number.
        untraced: Any = torch.compiler.disable
        self._before, self._after, self._reading = untraced(before), untraced(after), reading
        self._pre_hooks, self._watching = inner._optimizer_step_pre_hooks, False
        self._nests = _steps_nest(inner)
        # torch calls hooks in the order of their registration: what one that is registered later does to the
        # gradients, the guard does not see.
        self._handles: list[Any] = [
            inner.register_step_pre_hook(self._before_step),
            inner.register_step_post_hook(self._after_step),
            inner.register_state_dict_pre_hook(lambda _: reading()),
            inner.register_load_state_dict_post_hook(lambda _: replaced()),
        ]

    @property
    def attached(self) -> bool:
        """Whether the hooks are still there."""
        return bool(self._handles)

    def remove(self) -> None:
        """Remove the hooks; doing so twice is harmless."""
        self._release_later_hooks()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _before_step(
        self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Call `before`; of a step with a closure, once that has computed the gradients."""
        if self._nests and _is_nested():
            return None
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._before()
            self._watch_later_hooks()
            return None

        # Before the closure runs, ``.grad`` is that of the last step. LBFGS, which calls it several times a
        # step, can't be guarded.
        def with_guard() -> Any:
            loss = closure()
            self._before()
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": with_guard}
        return (args[0], with_guard, *args[2:]), kwargs

    def _after_step(self, *_: Any) -> None:
        if self._nests and _is_nested():
            return
        self._release_later_hooks()
        self._after()

    def _watch_later_hooks(self) -> None:
        """Have options put back where a hook raises that runs after the guard: the step is not made then."""
        own = self._handles[0].id
        if next(reversed(self._pre_hooks)) == own:
            return
        keys = list(self._pre_hooks)
        for key in keys[keys.index(own) + 1 :]:
            # torch looks each hook up when it is its turn, so that it finds the watched one.
            if not isinstance(self._pre_hooks[key], _Watched):
                self._pre_hooks[key] = _Watched(self._pre_hooks[key], self._broken_off)
        self._watching = True

    def _release_later_hooks(self) -> None:
        if not self._watching:
            return
        self._watching = False
        for key, hook in list(self._pre_hooks.items()):
            if isinstance(hook, _Watched):
                self._pre_hooks[key] = hook.hook

    def _broken_off(self) -> None:
        self._release_later_hooks()
        self._reading()


class _Watched:
    """A hook of somebody else, during one step.

    Args:
        hook: The hook.
        failed: Called if it raises.
    """

    def __init__(self, hook: Callable[..., Any], failed: Callable[[], None]) -> None:
        self.hook, self._failed = hook, failed

    def __call__(self, *args: Any) -> Any:
        """Call the hook."""
        try:
            return self.hook(*args)
        except BaseException:
            self._failed()
            raise


def _steps_nest(optimizer: Optimizer) -> bool:
    """Return whether a step of an optimizer may be made of another one: a class and a base both have one."""
    steps = [vars(base)["step"] for base in type(optimizer).__mro__ if "step" in vars(base)]
    return len({inspect.unwrap(step) for step in steps} - {Optimizer.step}) > 1


def _is_nested() -> bool:
    """Return whether a hook was called for a step inside another step of the same optimizer.

    What tells is the stack, which an exception leaves as it should be, and a counter would not.
    """
    torch_step = sys._getframe(2)  # the frame of torch that called the hook
    optimizer = torch_step.f_locals.get("self")
    frame = torch_step.f_back
    while frame is not None:
        if frame.f_code is torch_step.f_code and frame.f_locals.get("self") is optimizer:
            return True
        frame = frame.f_back
    return False


def is_captured() -> bool:
    """Return whether the step is being captured in a CUDA graph, where reading a number is an error."""
    started: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return started and torch.cuda.is_current_stream_capturing()


def _is_guarded(optimizer: Optimizer) -> bool:
    hooks = getattr(optimizer, "_optimizer_step_pre_hooks", {}).values()
    return any(isinstance(getattr(hook, "__self__", None), StepHooks) for hook in hooks)
