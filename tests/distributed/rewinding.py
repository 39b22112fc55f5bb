"""Processes that go back together; run as a script, it fails where they come apart.

usage: rewinding.py FOLDER PROCESSES SCENARIO..., with functions of this file as scenarios
"""

from __future__ import annotations

import datetime as dt
import math
import os
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[1]))

from foreshock import Ladder, Monitor, Recorder, load_snapshot
from foreshock.runlog import read_run

TIMEOUT = 120


def require(condition, what):
    if not condition:
        raise RuntimeError(what)


def everyones(own):
    found = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, own)
    return found


def alike(own, what):
    found = everyones(own)
    require(all(one == found[0] for one in found), f"{what} differ between processes: {found}")


class Extra(nn.Linear):
    """A layer with a state of its own, which refuses it when it is told to."""

    refuses, count = False, 0

    def get_extra_state(self):
        return self.count

    def set_extra_state(self, state):
        if self.refuses:
            raise RuntimeError("not now")
        self.count = state


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.2), Extra(8, 6), nn.Tanh(), nn.Linear(6, 1))


class Training:
    """A regression of this process's own batches; its loss may be spoilt."""

    def __init__(self, rank, *, wrap=DistributedDataParallel, run=None, **options):
        self.model = wrap(network())
        # Not foreach: a grid has tensors on meshes of one and of two dimensions.
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=3e-3, foreach=False)
        self.data = torch.Generator().manual_seed(10 + (rank // 2 if wrap is on_a_grid else rank))
        torch.manual_seed(100 + rank)  # dropout differs between processes
        self.step = 0
        self.monitor = None
        if options:
            self.monitor = Monitor(self.model, self.optimizer, run=run, full_batch=False, **options)

    def go(self, count, spoil=1.0):
        for _ in range(count):
            x = torch.randn(16, 4, generator=self.data)
            self.optimizer.zero_grad()
            loss = (self.model(x) - x.sum(1, keepdim=True).sin()).square().mean() * spoil
            loss.backward()
            if self.monitor is not None:
                self.monitor.observe(x, loss, ids=[self.step])
            self.optimizer.step()
            self.step += 1
        return self

    def parts(self):
        """Weights and moments of this process, as lists."""
        tensors = [*self.model.parameters()]
        tensors += [
            state[name] for state in self.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")
        ]
        return [getattr(one, "to_local", lambda one=one: one)().tolist() for one in tensors]


def sharded(model):
    fully_shard(model[3])
    return fully_shard(model)


def on_a_grid(model):
    """Two by two processes: tensor parallelism inside of FSDP2."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    parallelize_module(model, mesh["tensor"], {"0": ColwiseParallel(), "3": RowwiseParallel()})
    return fully_shard(model, mesh=mesh["data"])


def a_nan_of_one_process_takes_both_back(rank, folder):
    """One loss is no number, in one process; both go back to the same step, and on."""
    training = Training(rank, run=folder, recorder=Recorder(every=5), recovery=Ladder())
    training.go(63).go(1, math.nan if rank else 1.0).go(30)
    [done] = training.monitor.rewinds
    alike((done.step, done.to, done.measure), "rewinds")
    require(done.to < 63 <= done.step, str(done))
    require(done.ids == tuple(range(done.to + 1, done.step + 1)), str(done.ids))
    alike(training.parts(), "weights and moments")
    require(all(bool(p.isfinite().all()) for p in training.model.parameters()), "weights are no numbers")
    training.monitor.close()
    torch.distributed.barrier()
    for one in range(torch.distributed.get_world_size()):
        names = [row["name"] for row in read_run(folder / f"rank{one}.jsonl").records["event"]]
        require("rewind: skip" in names, f"rank {one} logged {names}")
        require(load_snapshot(folder, rank=one).step == done.to, f"rank {one} wrote another step")


def both_go_back_by_hand(rank, folder):
    training = Training(rank, recorder=Recorder(every=5)).go(52)
    done = training.monitor.rewind(before=48 if rank else None)
    alike((done.to, done.step), "rewinds")
    require(done.to == 45, str(done))
    alike(training.go(5).parts(), "weights and moments")


def what_one_refuses_is_done_in_none(rank, folder):
    """The state of a module can't be loaded in one process: the other one is left as it is, too."""
    training = Training(rank, recorder=Recorder(every=5)).go(30)
    layer = training.model.module[3]
    layer.count, layer.refuses = 7, bool(rank)
    before = training.parts()
    try:
        training.monitor.rewind()
    except ValueError as error:
        require(("not now" if rank else "another process") in str(error), str(error))
    else:
        raise RuntimeError("it went back")
    require(training.parts() == before and layer.count == 7, "something was changed")
    layer.refuses = False
    training.monitor.rewind()
    alike((training.monitor.rewinds[-1].to, layer.count), "the second one")


def one_that_goes_back_alone_is_told_so(rank, folder):
    """Only one process calls it: it waits for seconds, and both train on."""
    training = Training(rank, recorder=Recorder(every=5)).go(30)
    began = time.monotonic()
    if rank:
        try:
            training.monitor.rewind()
        except ValueError as error:
            require("not rewound by itself" in str(error), str(error))
        else:
            raise RuntimeError("it went back alone")
        require(time.monotonic() - began < TIMEOUT / 2, "it waited too long")
    training.go(25)
    alike(training.parts(), "weights and moments")


def a_single_watched_process_goes_on(rank, folder):
    training = Training(
        rank, run=folder, **({} if rank else {"recorder": Recorder(every=5), "recovery": Ladder()})
    )
    training.go(20).go(1, math.nan).go(15)
    if not rank:
        require(training.monitor.rewinds == (), "it went back alone")
        training.monitor.close()
        names = [row["name"] for row in read_run(folder).records["event"]]
        require("no joint rewind" in names, str(names))
        require(load_snapshot(folder).step < 20, "no snapshot was written")


def shards_go_back_together(rank, folder):
    """FSDP2: each process has its part of each tensor, and puts it back."""
    training = Training(rank, wrap=sharded, run=folder, recorder=Recorder(every=5), recovery=Ladder())
    training.go(63).go(1, math.nan if rank else 1.0).go(30)
    [done] = training.monitor.rewinds
    alike((done.step, done.to, done.measure), "rewinds")
    require(all(math.isfinite(x) for part in training.parts() for x in flat(part)), "weights are no numbers")
    training.monitor.close()
    parts = sum(p.to_local().numel() for p in training.model.parameters())
    snapshot = load_snapshot(folder, rank=rank)
    kept = sum(one.numel() for name, one in snapshot.tensors.items() if name.startswith("parameter/"))
    require(kept == parts, f"a snapshot has {kept} numbers, and this process {parts}")


def a_grid_goes_back_together(rank, folder):
    """Tensor parallelism in FSDP2, four processes: one has no number, all go back; on the disk, too."""
    training = Training(rank, wrap=on_a_grid, run=folder, recorder=Recorder(every=5), recovery=Ladder())
    training.go(43).go(1, math.nan if rank == 3 else 1.0).go(20)
    [done] = training.monitor.rewinds
    alike((done.step, done.to, done.measure), "rewinds")
    require(all(math.isfinite(x) for part in training.parts() for x in flat(part)), "weights are no numbers")
    training.monitor.close()
    torch.distributed.barrier()
    snapshot = load_snapshot(folder, rank=rank)
    alike(snapshot.step, "snapshots")
    other = Training(rank, wrap=on_a_grid)
    snapshot.restore(other.model, other.optimizer)
    kept = sum(one.numel() for name, one in snapshot.tensors.items() if name.startswith("parameter/"))
    require(
        kept == len([x for p in other.model.parameters() for x in flat(p.to_local().tolist())]), str(kept)
    )
    before = (line := Training(rank, wrap=sharded)).parts()  # as many processes, spread in another way
    try:
        snapshot.restore(line.model, line.optimizer)
    except ValueError as error:
        require("a run of as many processes, spread in the same way" in str(error), str(error))
    else:
        raise RuntimeError("a part of a grid was taken for a part of a line")
    require(line.parts() == before, "something was changed")


def a_snapshot_of_two_is_refused_in_four(rank, folder):
    """In all of them at once, with what to do instead; nothing is changed."""
    pairs = init_device_mesh("cpu", (2, 2), mesh_dim_names=("pair", "within"))["within"]
    training = Training(rank, wrap=lambda model: fully_shard(model, mesh=pairs))
    if rank < 2:  # as if these had been all
        recorder = Recorder()
        recorder.attach(training.model, [training.optimizer])
        training.go(3)
        recorder.take(3)
        recorder.write(folder, reason="by hand", rank=rank)
        recorder.close()
    torch.distributed.barrier()
    other = Training(rank, wrap=sharded)
    before, words = other.parts(), ""
    try:
        load_snapshot(folder, rank=rank).restore(other.model, other.optimizer)
    except (OSError, ValueError) as error:
        words = str(error)
    for part in ("as many processes", "torch.distributed.checkpoint", "foreshock.Checkpointed(monitor)"):
        require(all(part in one for one in everyones(words)), words)
    require(other.parts() == before, "something was changed")


def flat(values):
    return [x for one in values for x in flat(one)] if isinstance(values, list) else [values]


def shards_are_resumed_bit_by_bit(rank, folder):
    """From the disk into new objects: what follows is what followed, bit by bit; dropout, too."""
    recorder = Recorder(every=5)
    training = Training(rank, wrap=sharded, run=folder, recorder=recorder).go(41)
    recorder.write(folder, reason="by hand", rank=rank)
    recorder._writer.wait(120)
    data = training.data.get_state()
    expected = training.go(7).parts()
    torch.distributed.barrier()
    other = Training(rank, wrap=sharded)
    snapshot = load_snapshot(folder, rank=rank)
    require(snapshot.step == 40, f"step {snapshot.step}")
    snapshot.restore(other.model, other.optimizer)
    require(type(next(other.model.parameters()).grad) is type(next(other.model.parameters()).data), "plain")
    other.optimizer.step()
    other.data.set_state(data)
    require(other.go(7).parts() == expected, "it went another way")
    plain = network()
    try:
        snapshot.restore(plain, torch.optim.Adam(plain.parameters()))
    except ValueError as error:
        require("was spread over processes" in str(error), str(error))
    else:
        raise RuntimeError("a part was taken for the whole")


def main(rank, folder, processes, names):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=processes,
        timeout=dt.timedelta(seconds=TIMEOUT),
    )
    for name in names:
        if not rank:
            sys.stderr.write(f"scenario {name}\n")
        own = Path(folder) / name
        own.mkdir(exist_ok=True)
        globals()[name](rank, own)
        torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    folder, count, *names = sys.argv[1:]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Forked: what is imported once is imported for all.
    given = folder, int(count), names
    torch.multiprocessing.start_processes(main, given, int(count), start_method="fork")
