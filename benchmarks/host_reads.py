"""Count how often a training step makes the host wait for the device.

Run from the root of the repository::

    python -m benchmarks.host_reads

Each number that Python gets from a tensor – ``item()``, ``bool()``, ``tolist()``, ``numpy()``, ``cpu()`` – is
on an accelerator a wait until everything queued before it is done; so is a result whose size is not known
beforehand, as that of a mask. They are counted on the CPU, where
nothing waits, since it is the same code that asks. The step counts of the optimizer are counted apart: torch
keeps them on the host, unless the optimizer is fused or capturable.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from inspect import signature
from typing import Any, NamedTuple
from unittest import mock

import torch
from benchmarks.markdown import table
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import foreshock

Row = dict[str, Any]
LAYERS = (3, 13, 75)
"""Layers of the models: 6, 26 and 150 tensors."""

LOG_EVERY = 10
_SETTLED = 200  # steps after which schedules and windows are in their usual state
_COUNTED = 50
_OPERATORS = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.allclose.default,
    # The size of their result is on the device.
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten._unique2.default,
)
_INDEX = torch.ops.aten.index.Tensor  # the same, if the index is a mask
_STACK = torch.ops.aten.stack.default  # of tensors on the host it is on the host, too
# torch answers these in C++ without asking a dispatch mode, if the tensor is on the CPU.
_METHODS = ("tolist", "numpy", "__array__", "cpu", "to")


class Reads:
    """What was read from tensors.

    Attributes:
        device: Reads that wait for the device.
        step_counts: Those of tensors that torch keeps on the host.
    """

    def __init__(self, on_host: Sequence[Tensor] = ()) -> None:
        self.device = 0
        self.step_counts = 0
        self._on_host = {id(tensor): tensor for tensor in on_host}

    def add(self, tensor: Any) -> None:
        """Count one read of a tensor; of one that was fetched before there is none."""
        if getattr(tensor, "_was_fetched", False):
            return
        if id(tensor) in self._on_host:
            self.step_counts += 1
        else:
            self.device += 1

    def add_stack(self, parts: Sequence[Tensor], stacked: Tensor) -> None:
        """Know that a stack of tensors on the host lies there as well."""
        if all(id(part) in self._on_host for part in parts):
            self._on_host[id(stacked)] = stacked


class _Dispatched(TorchDispatchMode):
    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads
        self.is_open = True  # False inside a method that is counted as a whole

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        masked = function is _INDEX and any(one is not None and one.dtype == torch.bool for one in args[1])
        if self.is_open and (masked or function in _OPERATORS):
            self.reads.add(args[0])
        result = function(*args, **(kwargs or {}))
        if function is _STACK:
            self.reads.add_stack(args[0], result)
        return result


@contextmanager
def counted(on_host: Sequence[Tensor] = ()) -> Iterator[Reads]:
    """Count the reads inside the block.

    Args:
        on_host: Tensors that lie on the host also where the model does not.
    """
    reads = Reads(on_host)
    with ExitStack() as stack:
        # A monitor that nobody closed reads back what it has left when it is collected: not inside the block.
        if gc.isenabled():
            gc.disable()
            stack.callback(gc.enable)
        mode = stack.enter_context(_Dispatched(reads))
        for name in _METHODS:
            stack.enter_context(mock.patch.object(Tensor, name, _counting(name, mode)))
        yield reads


def _counting(name: str, mode: _Dispatched) -> Callable[..., Any]:
    original = getattr(Tensor, name)
    moves = name in ("cpu", "to")

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        # A device that is given as a tensor's own is no request for the host; the word "cpu" is. A copy that
        # does not block makes nobody wait: whoever reads its result does.
        asks = name != "to" or "cpu" in [one for one in (*args, *kwargs.values()) if isinstance(one, str)]
        asks = asks and not kwargs.get("non_blocking", False)
        was_open = mode.is_open
        if was_open and asks:
            mode.reads.add(self)
        mode.is_open = was_open and not asks
        try:
            result = original(self, *args, **kwargs)
        finally:
            mode.is_open = was_open
        if moves and asks and was_open:
            result = result.detach() if result is self else result
            result._was_fetched = True
        return result

    return method


class Counts(NamedTuple):
    """Reads of consecutive steps, by what was read."""

    device: list[int]
    step_counts: list[int]


def make_adamw(model: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW as it comes, which counts its steps on the host."""
    return torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=True)


def make_fused(model: nn.Module) -> torch.optim.Optimizer:
    """Return fused AdamW, which counts its steps where the parameters are; its rate is a tensor, too."""
    return torch.optim.AdamW(model.parameters(), lr=torch.tensor(1e-3), fused=True)


def reads_of(
    layers: int,
    watch: Callable[..., Any] | None,
    *,
    steps: int = _COUNTED,
    make: Callable[[nn.Module], torch.optim.Optimizer] = make_adamw,
) -> Counts:
    """Return the reads of consecutive steps of a training that has settled.

    Args:
        layers: Linear layers of the model, two tensors each.
        watch: Called with model and optimizer; returns what is called with batch and loss between
            backward and step. None for nobody.
        steps: How many steps are counted.
        make: Makes the optimizer of the model. The step counts of one that is fused are on the device.
    """
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(layers)])
    optimizer = make(model)
    observe = None if watch is None else watch(model, optimizer)
    found = Counts([], [])
    for step in range(_SETTLED + steps):
        batch = torch.randn(8, 4)
        optimizer.zero_grad()
        loss = (model(batch) - batch).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        with ExitStack() as stack:
            if step >= _SETTLED:
                fused = bool(optimizer.defaults["fused"])
                apart = [] if fused else [state["step"] for state in optimizer.state.values()]
                reads = stack.enter_context(counted(apart))
            if observe is not None:
                observe(batch, loss)
            optimizer.step()
        if step >= _SETTLED:
            found.device.append(reads.device)
            found.step_counts.append(reads.step_counts)
    return found


def watch_monitor(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[..., Any]:
    """Return `observe` of a monitor that measures no curvature."""
    defers = "log_every" in signature(foreshock.Monitor).parameters
    options: dict[str, Any] = {"log_every": LOG_EVERY} if defers else {}
    return foreshock.Monitor(model, optimizer, **options).observe


def watch_guard(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[..., Any]:  # noqa: ARG001
    """Attach a guard; it has nothing that is called between backward and step."""
    foreshock.guard(optimizer)
    return lambda _batch, _loss: None


WATCHED = {
    "AdamW": (None, make_adamw),
    "monitor without loss_fn": (watch_monitor, make_adamw),
    "guard, idle": (watch_guard, make_adamw),
    "fused AdamW": (None, make_fused),
    "monitor, fused AdamW": (watch_monitor, make_fused),
    "guard, idle, fused AdamW": (watch_guard, make_fused),
}


def measure() -> list[Row]:
    """Return a row for each watcher and size: the fewest reads of a step, the most, and the mean."""
    rows = []
    for layers in LAYERS:
        for name, (watch, make) in WATCHED.items():
            counts = reads_of(layers, watch, make=make)
            rows.append(
                {
                    "tensors": 2 * layers,
                    "watcher": name,
                    "fewest": min(counts.device),
                    "most": max(counts.device),
                    "mean": sum(counts.device) / len(counts.device),
                    "share_without": counts.device.count(0) / len(counts.device),
                    "step_counts": max(counts.step_counts),
                }
            )
    return rows


def render(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    head = ["tensors", "step", "reads, fewest", "most", "mean", "steps without any", "step counts"]
    lines = [
        [
            str(row["tensors"]),
            row["watcher"],
            str(row["fewest"]),
            str(row["most"]),
            f"{row['mean']:.1f}",
            f"{row['share_without']:.0%}",
            str(row["step_counts"]),
        ]
        for row in rows
    ]
    return table(head, lines)


def main() -> None:
    """Print the table."""
    sys.stdout.write(render(measure()) + "\n")


if __name__ == "__main__":
    main()
