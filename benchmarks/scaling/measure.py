"""Count what probes of several processes exchange and hold, and time a product beside a training step.

A world of processes is started once for each number of them; in it the small GPT of
``examples/gpt_distributed.py`` is trained in each way, under the monitor as it comes.
"""

from __future__ import annotations

import datetime as dt
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.scaling.model import SHARDS
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import foreshock
from foreshock.runlog import read_run

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import gpt_distributed as example

WAYS: dict[int, tuple[str, ...]] = {
    1: ("alone", "fsdp2"),
    2: ("ddp", "fsdp2", SHARDS, "fsdp2-tp"),
    4: ("ddp", "fsdp2", SHARDS, "fsdp2-tp"),
}
"""How the model is shared, by the number of processes; of two, tensor parallelism takes both."""

_EVERY = 10
_COUNTED, _TIMED = 2 * _EVERY, 3 * _EVERY  # steps of probes; the first also chooses how products are made
_BATCHES = (4, 8)  # examples of a process: what grows with them are activations, what does not are vectors


@dataclass(frozen=True)
class Exchanged:
    """What one process sent: number of collectives and bytes that it put into them.

    Attributes:
        long: Collectives of whole vectors.
        long_bytes: What it put into these.
        short: All other collectives.
        short_bytes: What it put into these.
    """

    long: float
    long_bytes: float
    short: float
    short_bytes: float


class Collectives(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the collectives of training's own process groups, and the bytes of what they give."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(hasattr(one, "to_local") for one in types):
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        named = func.namespace in ("c10d", "_c10d_functional", "_c10d_functional_autograd")
        if named and "wait" not in func._opname:
            self.count += 1
            sizes = [leaf.nbytes for leaf in tree_leaves((args, result)) if isinstance(leaf, torch.Tensor)]
            self.bytes += max(sizes, default=0)
        return result


class Sums:
    """Count the messages of a monitor, by whether they have a whole vector."""

    def __init__(self, monitor: Any) -> None:
        self._company = monitor._probes._company
        self.long = self.long_bytes = self.short = self.short_bytes = 0
        self._wrapped: set[int] = set()

    def watch(self) -> None:
        """Count from here on, also on connections that were made since the last call."""
        for channel in () if self._company is None else (self._company.channel, self._company._data):
            if channel is not None and id(channel) not in self._wrapped:
                self._wrapped.add(id(channel))
                channel.sum = self._counted(channel.sum)

    def _counted(
        self, plain: Callable[[torch.Tensor], torch.Tensor]
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        def counted(tensor: torch.Tensor) -> torch.Tensor:
            size = tensor.numel() * tensor.element_size()
            if tensor.numel() > 4096:
                self.long += 1
                self.long_bytes += size
            else:
                self.short += 1
                self.short_bytes += size
            return plain(tensor)

        return counted

    def read(self) -> Exchanged:
        """Return what was counted since the last reading."""
        found = Exchanged(self.long, self.long_bytes, self.short, self.short_bytes)
        self.long = self.long_bytes = self.short = self.short_bytes = 0
        return found


@dataclass(frozen=True)
class Watched:
    """One training with its monitor, and what it takes to make a step of it."""

    model: Any
    optimizer: torch.optim.Optimizer
    batch: tuple[torch.Tensor, torch.Tensor]

    def backward(self) -> torch.Tensor:
        """Compute loss and gradients."""
        self.optimizer.zero_grad()
        loss = example.loss_fn(self.model, self.batch)
        loss.backward()
        return loss


def set_up(way: str, examples: int) -> Watched:
    """Return a training: the example's model, shared in a way, with as many examples in each process."""
    torch.manual_seed(0)
    layers = (torch.nn.Embedding(256, example.WIDTH), torch.nn.Sequential(example.Block(), example.Block()))
    gpt = torch.nn.Sequential(*layers, torch.nn.Linear(example.WIDTH, 256))
    model, part, _ = (gpt, 0, 1) if way == "alone" else example.spread(gpt, mode_of(way), "cpu")
    draw = torch.Generator().manual_seed(part)
    rows = torch.randint(256, (examples, example.CONTEXT + 1), generator=draw)
    return Watched(model, torch.optim.AdamW(model.parameters(), lr=1e-3), (rows[:, :-1], rows[:, 1:]))


def mode_of(way: str) -> str:
    """Return how the example calls a way to share the model."""
    return "fsdp2" if way == SHARDS else way


def method_of(way: str) -> str:
    """Return how Hessian products are made; exactly where memory of the machine would decide it."""
    return {"alone": "auto", "ddp": "auto", SHARDS: "difference"}.get(way, "exact")


def watched_run(way: str, folder: Path) -> dict[str, Any]:
    """Train with a probe at every tenth step; return what one exchanged, and how long another took.

    Time is that of the processor in this process, so that others of the machine, and waiting, don't count.
    """
    run = set_up(way, _BATCHES[-1])
    monitor = foreshock.Monitor(
        run.model,
        run.optimizer,
        example.loss_fn,
        run=folder,
        probe_every=_EVERY,
        full_batch=True,
        hvp=method_of(way),
    )
    sums = Sums(monitor)
    steps: list[float] = []
    observed: dict[int, dict[str, float]] = {}
    for step in range(_TIMED + 1):
        began = time.process_time()
        loss = run.backward()
        middle = time.process_time()
        sums.watch()
        with Collectives() if step <= _COUNTED else nullcontext() as groups:
            monitor.observe(run.batch, loss)
        ended = time.process_time()
        run.optimizer.step()
        steps.append(middle - began + time.process_time() - ended)
        exchanged = asdict(sums.read())
        if groups is not None:
            exchanged |= {"groups": groups.count, "groups_bytes": groups.bytes}
        observed[step] = exchanged | {"seconds": ended - middle}
    monitor.close()
    log = read_run(folder, rank=rank_or_zero()).records["curvature"]
    known = {row["step"]: {name: row[name] for name in ("products", "passes")} for row in log}
    between = [row for step, row in observed.items() if _EVERY < step < _COUNTED]
    return {
        "parameters": sum(one.numel() for one in run.model.parameters()),
        "here": sum(local_size(one) for one in run.model.parameters()),
        "quiet_steps": sum(not row["short"] + row["long"] + row["groups"] for row in between),
        "steps_between": len(between),
        "step_seconds": statistics.median(steps[_EVERY:]),
        "counted": observed[_COUNTED] | known[_COUNTED],
        "timed": observed[_TIMED] | known[_TIMED],
        "gradients": gradient_exchange(run),
    }


def gradient_exchange(run: Watched) -> dict[str, int]:
    """Return the collectives of one forward and backward pass of training, and their bytes.

    DistributedDataParallel makes its own in C++, where they can't be counted: it sends each gradient once.
    """
    with Collectives() as groups:
        run.backward()
    copies = isinstance(run.model, torch.nn.parallel.DistributedDataParallel)
    own = sum(one.numel() * one.element_size() for one in run.model.parameters()) if copies else 0
    return {"collectives": groups.count + int(copies), "bytes": groups.bytes + own}


def local_size(parameter: Any) -> int:
    """Return how many coordinates of a parameter this process has between steps."""
    return int((parameter.to_local() if hasattr(parameter, "to_local") else parameter).numel())


def rank_or_zero() -> int:
    """Return the rank of this process."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def peak_bytes(call: Callable[[], Any]) -> int:
    """Return the most bytes that a call had allocated at once, by torch's own account of host memory."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        found.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = sorted((one["ts"], one["args"]["Bytes"]) for one in events if one.get("name") == "[memory]")
    held = lowest = peak = 0
    for _, change in changes:
        held += change
        lowest = min(lowest, held)  # what was there before, and is freed inside, must not count against it
        peak = max(peak, held - lowest)
    return peak


def memory(way: str, examples: int) -> dict[str, int]:
    """Return the peaks of a training step and of a probe, beyond what is there between steps."""
    run = set_up(way, examples)
    monitor = foreshock.Monitor(
        run.model,
        run.optimizer,
        example.loss_fn,
        probe_every=_EVERY,
        full_batch=True,
        hvp=method_of(way),
    )
    peaks: dict[str, int] = {}
    for step in range(_COUNTED + 1):
        if step == _COUNTED - 1:
            peaks["step"] = peak_bytes(run.backward)
        loss = run.backward()
        if step == _COUNTED:
            peaks["probe"] = peak_bytes(lambda loss=loss: monitor.observe(run.batch, loss))  # type: ignore[misc]
        else:
            monitor.observe(run.batch, loss)
        run.optimizer.step()
    monitor.close()
    return peaks


def work(rank: int, world: int, folder: str) -> None:
    """Measure all ways in one process of a world, and write what the first one found."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting{world}",
        rank=rank,
        world_size=world,
        timeout=dt.timedelta(minutes=5),
    )
    found = {}
    for way in WAYS[world]:
        own = Path(folder) / f"{world}-{way}"
        row = watched_run(way, own)
        row["memory"] = {examples: memory(way, examples) for examples in _BATCHES}
        found[way] = row
        torch.distributed.barrier()
        if rank == 0:
            (Path(folder) / f"{world}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def measure() -> dict[str, Any]:
    """Measure all; return it as plain values, by number of processes and way."""
    with tempfile.TemporaryDirectory() as folder:
        for world in WAYS:
            # Forked: what is imported once is imported for all.
            torch.multiprocessing.start_processes(work, (world, folder), world, start_method="fork")
        return {str(world): json.loads((Path(folder) / f"{world}.json").read_text()) for world in WAYS}
