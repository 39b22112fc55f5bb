"""Two processes that train together and are probed each by itself; run as a script, it fails if they differ.

Each scenario is trained twice, plain and watched: both must end with the same bits, in both processes, though
one process probes and the other does not, or fails where the other does not.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import gc
import math
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[1]))

import foreshock
from foreshock.isolation.processes import why_not_alone
from foreshock.runlog import read_run
from foreshock.vectors import local

PROCESSES, STEPS = 2, 12


def network(*, norm=False):
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(8)] if norm else []
    return nn.Sequential(nn.Linear(4, 8), *middle, nn.Tanh(), nn.Linear(8, 1))


def loss_fn(model, batch):
    return model(batch).square().mean()


class Run:
    """One training in one process, with whatever watches it."""

    def __init__(self, rank, folder, *, model=None, watched=True):
        self.rank, self.folder, self.watched = rank, folder, watched
        self.model = DistributedDataParallel(network(norm=True)) if model is None else model
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.02)
        self.draw = torch.Generator().manual_seed(10 + rank)
        self.monitor = self.guard = None

    def monitored(self, loss=loss_fn, **options):
        if self.watched:
            self.monitor = foreshock.Monitor(self.model, self.optimizer, loss, run=self.folder, **options)

    def train(self, *, sizes=lambda step: 8, measure=None, accumulated=False, first=0):
        for step in range(STEPS):
            batch = torch.randn(sizes(step), 4, generator=self.draw)
            self.optimizer.zero_grad()
            parts = batch.chunk(2) if accumulated else [batch]
            for index, part in enumerate(parts):
                last = index == len(parts) - 1
                with contextlib.nullcontext() if last else self.model.no_sync():
                    loss = loss_fn(self.model, part)
                    loss.backward()
            if self.monitor is not None:
                self.monitor.observe(batch, loss, step=first + step)
            if measure is not None and self.guard is not None:
                self.spent = measure(self, batch)
            self.optimizer.step()
        return [local(tensor).detach().clone() for tensor in self.model.state_dict().values()]

    def events(self):
        if self.monitor is None:
            return []
        return read_run(self.folder, rank=torch.distributed.get_rank()).records["event"]


def everywhere_alike(own, what):
    everyones = [None] * PROCESSES
    torch.distributed.all_gather_object(everyones, [one.tolist() for one in own])
    if not all(other == everyones[0] for other in everyones):
        raise RuntimeError(f"{what}: the weights differ between processes")


def require(condition, what):
    if not condition:
        raise RuntimeError(what)


def same(plain, watched, what, *, whole=True):
    require(all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True)), f"{what}: weights moved")
    if whole:
        everywhere_alike(watched[:2], what)  # statistics of BatchNorm are each process's own


def guarded(rank, folder):
    """A short batch, or an error, in one process: the guard measures nothing, and says so."""
    calls = []

    def failing(model, batch):
        calls.append(1)
        if rank == 1 and len(calls) == 2:
            raise RuntimeError("once, in one process")
        return loss_fn(model, batch)

    for loss in (loss_fn, failing):
        ended = []
        for watched in (False, True):
            run = Run(rank, folder, model=DistributedDataParallel(network()), watched=watched)
            run.guard = foreshock.guard(run.optimizer) if watched else None
            ended.append(
                run.train(
                    sizes=lambda step: 1 + 7 * (rank == 0 or step != 5),
                    measure=lambda run, batch, loss=loss: run.guard.measure(
                        run.model.module, loss, batch, every=1
                    ),
                )
            )
        same(*ended, "guard")
        require(run.spent is False and "several processes" in str(run.guard.summary()), "not said")


def watched_by_one(rank, folder):
    """A monitor in the first process only, of the wrapped model."""
    ended = []
    for watched in (False, True):
        run = Run(rank, folder, watched=watched and rank == 0)
        run.monitored(probe_every=3)
        ended.append(run.train())
    same(*ended, "first process")
    if rank == 0:
        events = run.events()
        require(read_run(folder).records["noise"], f"nothing was probed: {events}")
        require([one["name"] for one in events].count("local batch") == 1, f"{events}")


def watched_by_both(rank, folder):
    """Probes at other steps in each process, of other speeds, and a guard that must not see them."""
    ended = []
    for watched in (False, True):
        run = Run(rank, folder, watched=watched)
        run.monitored(probe_every=1 + rank, full_batch=False, guard="auto")
        # The noise of the first hundred steps would not count anyway.
        ended.append(run.train(sizes=lambda step: time.sleep(0.01 * rank) or 8, first=200))
    same(*ended, "both processes")
    require("several processes" in str(run.monitor.guard.summary()), "the guard's silence is not explained")
    require(math.isnan(run.monitor.guard.mean_square_ratio), "the guard saw what one process read")


def accumulated(rank, folder):
    """After a probe the next backward under no_sync() must not exchange gradients."""
    ended = []
    for watched in (False, True):
        run = Run(rank, folder, watched=watched)
        run.monitored(probe_every=1, full_batch=True)
        ended.append(run.train(accumulated=True))
    same(*ended, "accumulation")


def refused(rank, folder):
    """Loss functions that would wait for the other process are refused before they begin."""

    def wrapper(run):
        return lambda _, batch: loss_fn(run.model, batch)

    def collective(run):
        def summed(model, batch):
            value = loss_fn(model, batch)
            torch.distributed.all_reduce(value.detach())
            return value

        return summed

    for number, (make, words) in enumerate([(wrapper, "runs a Distributed"), (collective, "a collective")]):
        ended = []
        for watched in (False, True):
            run = Run(rank, folder / str(number), watched=watched and rank == 0)
            run.monitored(make(run), probe_every=1)
            ended.append(run.train())
        same(*ended, words)
        said = [one["message"] for one in run.events() if one["name"] == "no probe"]
        require(rank or (len(said) == 1 and words in said[0]), f"{words}: {run.events()}")


def sharded(rank, folder):
    """FSDP2, watched in one process: there is no probe, said once, and it waits for nobody."""
    ended = []
    for watched in (False, True):
        model = network()
        mesh = init_device_mesh("cpu", (PROCESSES,))
        fully_shard(model[0], mesh=mesh)
        fully_shard(model, mesh=mesh)
        run = Run(rank, folder, model=model, watched=watched and rank == 0)
        run.monitored(probe_every=1)
        ended.append(run.train())
    same(*ended, "shards", whole=False)
    said = [one["message"] for one in run.events() if "probe" in one["name"]]
    alone = rank or (len(said) == 1 and "distributed tensors" in said[0] and "in each process" in said[0])
    require(alone, f"shards: {run.events()}")
    synced = nn.Sequential(nn.SyncBatchNorm(3))
    require("SyncBatchNorm" in why_not_alone(synced) and not why_not_alone(synced.eval()), "SyncBatchNorm")


SCENARIOS = (guarded, watched_by_one, watched_by_both, accumulated, refused, sharded)


def check(rank, folder):
    torch.set_num_threads(1)
    # A process that waits for ever fails after this time.
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=PROCESSES,
        timeout=dt.timedelta(seconds=60),
    )
    for scenario in SCENARIOS:
        if not rank:
            sys.stderr.write(f"scenario {scenario.__name__}\n")
        own = Path(folder) / scenario.__name__ / str(rank)
        own.mkdir(parents=True)
        scenario(rank, own)
        gc.collect()
        torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(check, (sys.argv[1],), nprocs=PROCESSES)
