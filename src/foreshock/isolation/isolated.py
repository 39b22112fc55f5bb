"""A block inside of which a probe may do what it likes, and one that starts from the same state each time."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from foreshock.failures import ProbeRefusedError
from foreshock.isolation.modules import ModuleState
from foreshock.isolation.moved import MovedMemory
from foreshock.isolation.random_numbers import RandomState
from foreshock.isolation.reach import Reach


@contextmanager
def isolated(model: nn.Module, loss_fn: Any = None, moved: MovedMemory | None = None) -> Iterator[None]:
    """Run a block, then restore the model, what else its loss function runs, and random number generators.

    Restored bit by bit, also if the block fails: parameters and buffers (content, identity and version
    counter, so that a graph that the user keeps stays valid), ``requires_grad``, ``.grad`` (its content is
    never written to, because it is None inside the block), train mode and attributes of the model and of all
    modules that the loss function can reach or runs; the generators of torch (CPU and the CUDA devices of
    the model), numpy and Python, and those that the loss function or a module holds; the options of
    optimizers that it can reach. A step of any optimizer is refused inside the block.

    Not restored are iterators that the loss function advances, and content of frozen parameters that take
    more than four times the memory of the trained ones. Both are noticed, and end in an error.

    Args:
        model: The model that is evaluated inside the block.
        loss_fn: The loss function that evaluates it; of several functions, a tuple.
        moved: What the loss function was seen to move in earlier blocks, for one who probes again and again:
            parameters that stood still are watched, and not copied. None to copy all.

    Raises:
        TypeError: If the model is no module.
        ProbeRefusedError: If the block changed what can't be restored, or stepped an optimizer.
        RuntimeError: If a parameter moved that stood still in earlier blocks; later ones copy it.

    Example:
        >>> layer = nn.BatchNorm1d(1)
        >>> with isolated(layer):
        ...     _ = layer(torch.tensor([[1.0], [3.0]]))
        >>> layer.running_mean.item()
        0.0
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"the model is {type(model).__name__}; it must be a torch.nn.Module: the arguments are "
            "(model, loss_fn, batch), or (model, optimizer, loss_fn, batch) where the optimizer counts"
        )
    reach = Reach.of(loss_fn)
    if moved is not None:
        moved.begin(model, loss_fn)
    state = ModuleState(model, moved=moved)
    try:
        state.clear_gradients()
        for module in reach.modules:
            state.add(module)
        numbers = RandomState.capture(state.tensors, [*state.generators, *reach.generators])
        recording = torch.is_grad_enabled()
        try:
            with kept_options(reach.optimizers), _without_steps(), _noticed(state):
                yield
        finally:
            numbers.restore()
            torch.set_grad_enabled(recording)
    except Exception as error:
        harm = _restored(state, reach, after=error)
        if harm is None:
            raise
        raise harm from error
    except BaseException:
        _restored(state, reach)
        raise
    harm = _restored(state, reach)
    if harm is not None:
        raise harm


def _restored(state: ModuleState, reach: Reach, *, after: Exception | None = None) -> Exception | None:
    """Restore, and return the error for what could not be."""
    lost = [f"the content of {name}" for name in state.restore()]
    state.restore_versions()
    lost += [f"the iterator {name}" for name in reach.advanced()]
    if lost:
        return ProbeRefusedError(
            f"loss_fn moves {_listed(lost)} each time that it is called, which can't be put back: pass the "
            "data as the batch, and let loss_fn(model, batch) move nothing"
        )
    if not state.surprising:
        return None
    message = (
        f"loss_fn moved {_listed(state.surprising)}, which stood still in earlier probes, so that there was "
        "no copy to put back: from this step on training differs from one without probes. Later probes copy "
        "it; let loss_fn(model, batch) move no parameter"
    )
    if isinstance(after, ProbeRefusedError):
        return ProbeRefusedError(f"{after}; {message}")
    return RuntimeError(message)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


@contextmanager
def kept_options(optimizers: Sequence[Optimizer]) -> Iterator[None]:
    """Run a block, then put the options of optimizers back: learning rates, β, weight decay.

    Args:
        optimizers: The optimizers.

    Example:
        >>> optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)
        >>> with kept_options([optimizer]):
        ...     optimizer.param_groups[0]["lr"] = 0.2
        >>> optimizer.param_groups[0]["lr"]
        0.1
    """
    saved = [
        (group, dict(group), {name: one.clone() for name, one in group.items() if isinstance(one, Tensor)})
        for optimizer in optimizers
        for group in optimizer.param_groups
    ]
    try:
        yield
    finally:
        for group, options, contents in saved:
            _restore_options(group, options, contents)


def _restore_options(
    group: dict[str, Any], options: Mapping[str, Any], contents: Mapping[str, Tensor]
) -> None:
    for name in [name for name in group if name not in options]:
        del group[name]
    for name, value in options.items():
        if group.get(name, group) is not value:
            group[name] = value
    for name, content in contents.items():
        if not torch.equal(options[name], content):
            options[name].data.copy_(content)


@contextmanager
def _without_steps() -> Iterator[None]:
    """Refuse the steps of any optimizer: what they do to its state can't be put back."""

    def refuse(optimizer: Optimizer, *_: Any) -> None:
        raise ProbeRefusedError(
            f"loss_fn calls step() of {type(optimizer).__name__}: a loss function is evaluated several times "
            "in a probe, and must return the loss without training anything"
        )

    handle = register_optimizer_step_pre_hook(refuse)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _noticed(state: ModuleState) -> Iterator[None]:
    """Remember each module that runs inside the block, before it runs for the first time."""
    # A compiler that meets a hook on all modules would compile it in, and warns.
    if "torch._dynamo.eval_frame" in sys.modules and any(map(_is_compiled, state)):
        yield
        return
    handle = register_module_forward_pre_hook(lambda module, _: state.add(module))
    try:
        yield
    finally:
        handle.remove()


def _is_compiled(module: nn.Module) -> bool:
    return (
        type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None
    )


class Replay:
    """A block that starts from the same random numbers and the same modules each time it is entered.

    Two evaluations of a loss then use the same dropout masks, and the same state of a layer that counts its
    calls. After the block the generators continue from their state outside of it, and buffers, attributes and
    parameters that are not among `tensors` have their content of the start again.

    Args:
        model: The model that is evaluated; None if it has no buffers.
        tensors: The tensors that the caller moves: they are left alone. Generators of their devices are used.

    Attributes:
        start: The random numbers that each block starts from.

    Example:
        >>> replay = Replay(None)
        >>> with replay():
        ...     first = torch.rand(3)
        >>> with replay():
        ...     torch.equal(first, torch.rand(3))
        True
    """

    def __init__(self, model: nn.Module | None, tensors: Sequence[Tensor] = ()) -> None:
        moved = set(map(id, tensors))
        self._state: ModuleState | None = None
        if model is not None:
            self._state = ModuleState(model, leave=lambda tensor: id(tensor) in moved, gradients=False)
            tensors = [*tensors, *self._state.tensors]
        self.start = RandomState.capture(tensors, () if self._state is None else self._state.generators)

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters of the model."""
        return [] if self._state is None else self._state.parameters

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Run one block from the random numbers and modules of the start."""
        outside = self.start.now()
        self.start.restore()
        try:
            yield
        finally:
            if self._state is not None:
                self._state.restore()
            outside.restore()
