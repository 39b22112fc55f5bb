"""Several processes that are watched together; run as a script, it fails where they differ.

usage: processes.py FOLDER SCENARIO [PROCESSES [COUNT]], with a function of this file as SCENARIO, or all
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import gc
import math
import os
import random
import sys
import time
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[1]))

import foreshock
from foreshock.batches import split_batch
from foreshock.curvature import Prober
from foreshock.distributed import Channel, ChannelError, JointProbe, training_peers
from foreshock.eigen import StoppingRule
from foreshock.guarding import MeanSquare
from foreshock.preconditioner import read_preconditioner
from foreshock.report.ranks import compare_ranks
from foreshock.runlog import read_run

PROCESSES, STEPS, TIMEOUT = 2, 41, 80
EXACT = StoppingRule(relative_tolerance=1e-9, far_tolerance=1e-9, threshold=1.0, max_products=200)


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)).to(dtype)


def loss_fn(model, batch):
    inputs, targets = batch
    return (model(inputs) - targets).square().mean()


def data(size, seed=1):
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, 4, generator=draw, dtype=torch.float64)
    return inputs, inputs.prod(1, keepdim=True).sin()


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


def weights(model):
    return [one.detach().clone() for one in model.parameters()]


def close(one, other, tolerance, what):
    require(abs(one - other) <= tolerance * max(abs(other), 1e-12), f"{what}: {one} and {other}")


class Training:
    """One training: in one process on whole batches, or in several on their parts."""

    def __init__(self, model, *, parts=None, rate=0.01):
        self.model, self.parts = model, parts
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
        self.batches = [data(16, seed) for seed in range(8)]
        self.whole = self.batches[0]

    def part(self, batch):
        return batch if self.parts is None else tuple(one[self.parts] for one in batch)

    def run(self, *, steps=STEPS, constant=False, accumulated=False, monitor=None, guard=None, loss=loss_fn):
        kept = self.part(self.whole)
        for step in range(steps):
            batch = kept if constant else self.part(self.batches[step % len(self.batches)])
            self.optimizer.zero_grad()
            halves = [tuple(one[k::2] for one in batch) for k in (0, 1)] if accumulated else [batch]
            for index, half in enumerate(halves):
                synced = index == len(halves) - 1
                with contextlib.nullcontext() if synced else self.model.no_sync():
                    value = loss_fn(self.model, half)
                    (value / len(halves)).backward()
            if monitor is not None:
                monitor.observe(batch, value)
            if guard is not None:
                guard.measure(self.model, loss, batch, every=5)
            self.optimizer.step()
        return weights(self.model)


def mine(rank, *, uneven=False):
    if uneven:
        return slice(0, 10) if rank == 0 else slice(10, 16)
    size = 16 // torch.distributed.get_world_size()
    return slice(size * rank, size * (rank + 1))


def products(rank, folder):
    """Products, eigenvalues, noise: on the parts of a batch as on the whole; of unequal parts, too."""
    for uneven in (False, True):
        part = mine(rank, uneven=uneven)
        whole, split = Training(network()), Training(DistributedDataParallel(network()))
        for one in (whole, split):  # both are about to take the same step
            loss_fn(getattr(one.model, "module", one.model), one.whole).backward()
        batch = tuple(one[part] for one in whole.whole)
        channel = Channel(training_peers(split.model), f"products{uneven}")
        joint = JointProbe(channel, sum(one.numel() for one in whole.model.parameters()), torch.float64)
        joint.share = batch[0].shape[0] / 16
        one, other = Prober(whole.model, loss_fn), Prober(split.model, loss_fn)
        expected = one.probe(whole.whole, read_preconditioner(whole.optimizer), step=1, stop=EXACT)
        before = channel.collectives
        with joint:
            found = other.probe(batch, read_preconditioner(split.optimizer), step=1, stop=EXACT, joint=joint)
        # One for the choice of the backend, one for the gradient, one for each product, and one for the end.
        require(channel.collectives - before == found.products + 3, f"{channel.collectives} sums")
        require(channel.bytes == channel.collectives * 8 * (joint._length + 13), f"{channel.bytes} bytes")
        names = "stability_ratio gradient_stability_ratio update_stability_ratio predicted_loss_change"
        for name in names.split():
            close(getattr(found, name), getattr(expected, name), 1e-7, name)
        alignment = torch.dot(one.top_vector, other.top_vector).abs().item()
        close(alignment, 1.0, 1e-6, "eigenvectors")
        with joint:
            again = other.refresh(batch, read_preconditioner(split.optimizer), step=2, joint=joint)
        close(again.stability_ratio, expected.stability_ratio, 1e-6, "refreshed")
        noise(whole, split, other, joint, batch, uneven)
        channel.close()


def quarters(batch, *, uneven=False):
    """The halves of what each of two processes has of a batch."""
    own = [tuple(one[mine(rank, uneven=uneven)] for one in batch) for rank in range(PROCESSES)]
    return [half for one in own for half in split_batch(one).batches]


def noise(whole, split, prober, joint, batch, uneven):
    """The noise is that of the halves of all parts."""
    parts = quarters(whole.whole, uneven=uneven)
    alone = Prober(whole.model, loss_fn).probe_noise(
        foreshock.MicroBatches(parts), read_preconditioner(whole.optimizer), step=1
    )
    with joint:
        found = prober.probe_noise(batch, read_preconditioner(split.optimizer), step=1, joint=joint)
    require(found.parts == 4 and found.examples == 16, f"{found}")
    for name in ("mean", "variance", "variance_along", "gradient_signal", "gradient_noise", "noise_factor"):
        close(getattr(found, name), getattr(alone, name), 1e-7, name)
    alike([found.mean, found.variance], "noise")


def readings(folder, rank, kind="curvature"):
    return read_run(folder, rank=rank).records[kind]


def watched(rank, folder):
    """The monitor's defaults: training stays bitwise, ranks agree, the curvature is that of all batches."""
    ended, part = [], mine(rank)
    for on in (False, True):
        run = Training(DistributedDataParallel(network()), parts=part)
        monitor = foreshock.Monitor(run.model, run.optimizer, loss_fn, run=folder) if on else None
        ended.append(run.run(constant=True, monitor=monitor))
    require(all(torch.equal(a, b) for a, b in zip(*ended, strict=True)), "weights moved")
    found = readings(folder, rank)
    require(found, f"nothing was measured: {read_run(folder, rank=rank).records['event']}")
    alike([(one["step"], one["stability_ratio"], one["products"]) for one in found], "readings")
    alike(str(monitor.forecast), "forecasts")
    names = [one["name"] for one in read_run(folder, rank=rank).records["event"]]
    require("joint batch" in names and "local batch" not in names, f"{names}")
    monitor.close()


def bad_shard(rank, folder):
    """The report on all ranks names the one whose targets are wrong from some step on, and nothing else."""
    run = Training(DistributedDataParallel(network()), parts=mine(rank))
    monitor = foreshock.Monitor(run.model, run.optimizer, loss_fn, run=folder, probe_every=10)
    run.run(steps=64, monitor=monitor)
    if rank == 1:
        run.batches = [(inputs, 5 * targets + 3) for inputs, targets in run.batches]
    run.run(steps=64, monitor=monitor)
    monitor.close()
    torch.distributed.barrier()
    found = compare_ranks(read_run(folder))
    require(found.together and found.read == (0, 1), f"{found}")
    require({(one.rank, one.what) for one in found.departures} == {(1, "loss")}, f"{found.departures}")
    first = found.departures[0].first
    require(60 <= first <= 90, f"{found.departures}")  # to a stretch of twenty steps


def drifted(rank, folder):
    """Copies whose weights are no longer the same: said while it trains, and by the report."""
    run = Training(DistributedDataParallel(network()), parts=mine(rank))
    monitor = foreshock.Monitor(run.model, run.optimizer, loss_fn, run=folder, probe_every=50)
    run.run(steps=50, monitor=monitor)
    if rank == 1:
        with torch.no_grad():  # the last bits of one weight
            run.model.module[0].weight[0, 0] *= 1 + 1e-9
    run.run(steps=70, monitor=monitor)
    monitor.close()
    torch.distributed.barrier()
    said = [one for one in read_run(folder, rank=rank).records["event"] if one["name"] == "replicas differ"]
    require([one["step"] for one in said] == [110], f"{said}")
    found = compare_ranks(read_run(folder)).departures
    require([(one.rank, one.what, one.first) for one in found][:1] == [(1, "weights", 110)], f"{found}")


def like_one_process(rank, folder):
    """Probes at the same steps see what those of one process see on the whole batch."""
    split = Training(DistributedDataParallel(network()), parts=mine(rank))
    whole = Training(network())
    logs = {}
    for name, run in (("whole", whole), ("split", split)):
        monitor = foreshock.Monitor(run.model, run.optimizer, loss_fn, run=folder / name, probe_every=10)
        run.run(steps=81, constant=True, monitor=monitor)
        logs[name] = readings(folder / name, rank), str(monitor.forecast.state), monitor.forecast
        monitor.close()
    alone = {one["step"]: one["stability_ratio"] for one in logs["whole"][0]}
    common = [one for one in logs["split"][0] if one["step"] in alone]
    require(len(common) >= 3, f"{logs['split'][0]}")
    for one in common:  # each is known to half a percent or two
        close(one["stability_ratio"], alone[one["step"]], 0.03, f"ratio of step {one['step']}")
    require(logs["split"][1] == logs["whole"][1], f"{logs['split'][2]} instead of {logs['whole'][2]}")


def quiet(rank, folder):
    """Nothing is exchanged on steps that log nothing, and one short sum on those that log and don't probe."""
    run = Training(DistributedDataParallel(network()), parts=mine(rank))
    monitor = foreshock.Monitor(run.model, run.optimizer, loss_fn, run=folder, budget=0.01)
    company, counts = monitor._probes._company, []
    plain = monitor.observe

    def observe(*arguments):
        channel = company.channel
        before = (0, 0) if channel is None else (channel.collectives, channel.bytes)
        forecast = plain(*arguments)
        channel = company.channel
        if channel is not None:
            counts.append((channel.collectives - before[0], channel.bytes - before[1]))
        return forecast

    monitor.observe = observe
    run.run(steps=200, monitor=monitor)
    exchanged = [one for one in counts if one[0]]
    require(len(counts) - len(exchanged) >= 170, f"{len(exchanged)} of {len(counts)} steps exchanged")
    short = [one for one in exchanged if one[0] == 1]
    require(len(short) >= 10 and all(one[1] <= 8 * 50 for one in short), f"{exchanged}")
    # A measurement of the noise: three sums of vectors.
    require(any(one[0] == 4 for one in exchanged), f"no noise was measured: {exchanged}")
    monitor.close()


def reducers(rank, folder):
    """What DDP does between its processes is never disturbed."""
    hooks = {
        "plain": lambda model: None,
        "fp16": lambda model: model.register_comm_hook(None, default_hooks.fp16_compress_hook),
        "power": lambda model: model.register_comm_hook(
            powerSGD_hook.PowerSGDState(None, start_powerSGD_iter=4), powerSGD_hook.powerSGD_hook
        ),
    }
    cases = [
        ({}, "plain", True),
        ({"static_graph": True}, "plain", False),
        ({"find_unused_parameters": True}, "plain", True),
        ({"gradient_as_bucket_view": True}, "plain", True),
        ({}, "fp16", False),
        ({}, "power", False),
    ]
    for number, (options, hook, accumulated) in enumerate(cases):
        ended = []
        for on in (False, True):
            # The optimizer and PowerSGD draw nothing from the generator of the run, but the model does.
            run = Training(DistributedDataParallel(network(torch.float64), **options), parts=mine(rank))
            hooks[hook](run.model)
            log = folder / str(number)
            options_of_run = {"run": log, "probe_every": 5}
            monitor = foreshock.Monitor(run.model, run.optimizer, loss_fn, **options_of_run) if on else None
            ended.append(run.run(steps=18, constant=True, accumulated=accumulated, monitor=monitor))
        same = all(torch.equal(a, b) for a, b in zip(*ended, strict=True))
        require(same, f"{options} {hook}: weights moved")
        require(
            len(readings(log, rank)) >= 2, f"{options} {hook}: {read_run(log, rank=rank).records['event']}"
        )
        monitor.close()


def uneven(rank, folder):
    """Batches of other sizes on the ranks, one too short to be split, and one that differs in kind."""
    run = Training(DistributedDataParallel(network()), parts=mine(rank, uneven=True))
    plain = run.part
    run.part = lambda batch: (
        tuple(one[:1] for one in plain(batch)) if rank and batch is run.batches[3] else plain(batch)
    )
    monitor = foreshock.Monitor(run.model, run.optimizer, loss_fn, run=folder, probe_every=1)
    run.run(monitor=monitor)
    found = readings(folder, rank, "noise")
    require(len(found) >= 20, f"{len(found)} readings; {read_run(folder, rank=rank).records['event']}")
    require(not any(one["step"] % 8 == 3 for one in found), "a batch of one example was measured")
    alike([(one["step"], one["mean"], one["variance"]) for one in found], "noise")
    alike([one.tolist() for one in weights(run.model)], "weights")
    monitor.close()


def raises(rank, folder):
    """A rank that fails: the probe is abandoned by all, and the next one is made again."""
    calls = []

    def failing(model, batch):
        calls.append(1)
        if rank == 1 and len(calls) in (1, 2, 12):
            raise RuntimeError("only here")
        return loss_fn(model, batch)

    for constant in (True, False):
        ended = []
        calls.clear()
        for on in (False, True):
            run = Training(DistributedDataParallel(network()), parts=mine(rank))
            log = folder / str(constant)
            monitor = (
                foreshock.Monitor(run.model, run.optimizer, failing, run=log, probe_every=4) if on else None
            )
            ended.append(run.run(constant=constant, monitor=monitor))
        require(all(torch.equal(a, b) for a, b in zip(*ended, strict=True)), "weights moved")
        events = [one for one in read_run(log, rank=rank).records["event"] if one["name"] == "probe failed"]
        require(events, f"{events}")
        alike([one["step"] for one in events], "failures")
        said = "only here" if rank == 1 else "other process"
        require(all(said in one["message"] for one in events), f"{events}")
        kind = "curvature" if constant else "noise"
        found = readings(log, rank, kind)
        require(len(found) >= 4, f"{kind}: {len(found)} of them were made")
        alike([one["step"] for one in found], kind)
        monitor.close()


def refuses(rank, folder):
    """A loss function that one rank refuses for good ends the probes of all."""

    def collective(model, batch):
        if rank == 1:
            torch.distributed.all_reduce(torch.ones(1))
        return loss_fn(model, batch)

    run = Training(DistributedDataParallel(network()), parts=mine(rank))
    monitor = foreshock.Monitor(run.model, run.optimizer, collective, run=folder, probe_every=2)
    run.run(monitor=monitor)
    said = [
        one["message"] for one in read_run(folder, rank=rank).records["event"] if one["name"] == "no probe"
    ]
    require(len(said) == 1 and ("collective" if rank else "another process") in said[0], f"{said}")
    alike([one.tolist() for one in weights(run.model)], "weights")
    monitor.close()


def slow(rank, folder):
    """A rank that takes its time is waited for, and decides nothing."""

    def slower(model, batch):
        time.sleep(0.02 * rank)
        return loss_fn(model, batch)

    run = Training(DistributedDataParallel(network()), parts=mine(rank))
    monitor = foreshock.Monitor(run.model, run.optimizer, slower, run=folder)
    run.run(monitor=monitor)
    alike([one["step"] for one in readings(folder, rank, "noise")], "noise")
    monitor.close()


def apart(rank, folder):
    """Monitors of other options, and one that is closed early: each measures alone, and nobody hangs."""
    run = Training(DistributedDataParallel(network()), parts=mine(rank))
    monitor = foreshock.Monitor(
        run.model, run.optimizer, loss_fn, run=folder / "options", probe_every=3 + rank, full_batch=False
    )
    run.run(monitor=monitor)
    require(readings(folder / "options", rank, "noise"), "nothing was measured")
    said = [one["message"] for one in read_run(folder / "options", rank=rank).records["event"]]
    require(any("other options" in one for one in said), f"{said}")
    monitor.close()
    run = Training(DistributedDataParallel(network()), parts=mine(rank))
    monitor = foreshock.Monitor(run.model, run.optimizer, loss_fn, run=folder / "closed", probe_every=3)
    run.run(steps=20, monitor=monitor)
    if rank == 1:
        monitor.close()
    run.run(steps=20, monitor=None if rank else monitor)
    alike([one.tolist() for one in weights(run.model)], "weights")
    monitor.close()


def stays_away(rank, folder):
    """A rank that drops its monitor, or stops observing: the other goes on alone, and says so in its log."""
    for way in ("dropped", "silent"):
        run = Training(DistributedDataParallel(network()), parts=mine(rank))
        plain = [run.run(steps=20) for _ in range(2)][-1]
        run = Training(DistributedDataParallel(network()), parts=mine(rank))
        wait = training_peers(run.model).timeout
        require(wait <= dt.timedelta(seconds=15), f"a rank would wait for {wait}")
        with mock.patch("foreshock.distributed.peers._LONGEST_WAIT", dt.timedelta(seconds=1)):
            monitor = foreshock.Monitor(
                run.model, run.optimizer, loss_fn, run=folder / way, probe_every=3, full_batch=False
            )
        run.run(steps=20, monitor=monitor)
        if rank == 1 and way == "dropped":
            del monitor
            gc.collect()
            monitor = None
        ended = run.run(steps=20, monitor=None if rank else monitor)
        require(all(torch.equal(a, b) for a, b in zip(ended, plain, strict=True)), f"{way}: weights moved")
        if rank == 0:
            alone = [
                one for one in read_run(folder / way, rank=0).records["event"] if one["name"] == "local batch"
            ]
            require(len(alone) == 1, f"{way}: {alone}")
            require(readings(folder / way, 0, "noise")[-1]["step"] > alone[0]["step"], f"{way}: nothing more")
            require(
                ("dropped" if way == "dropped" else "did not take part") in alone[0]["message"], f"{alone}"
            )
        torch.distributed.barrier()
        if monitor is not None:
            monitor.close()


def confirmed(rank, folder):
    """The end of a probe counts in all processes or in none, also where one is late for it."""
    with mock.patch("foreshock.distributed.peers._LONGEST_WAIT", dt.timedelta(seconds=1)):
        channel = Channel(training_peers(DistributedDataParallel(network())), "confirmed")
    channel.sum(torch.ones(1))
    for _ in range(3):
        channel.confirm()
    torch.distributed.barrier()
    kept = [channel._store.check([f"confirmed/{number}"]) for number in (1, 2, 3)]
    require(kept == [False, False, True], f"{kept}")
    said = ""
    time.sleep(2.5 * rank)
    try:
        channel.confirm()
    except ChannelError as error:
        said = str(error)
    require("end of the probe" in said and channel.lost, f"{said!r}")


def odd_users(rank, folder):
    """A monitor made later, another budget, an evaluation in one rank, join(), a fork, an early end."""

    def check(name, prepare, *, alone):
        ended = []
        for on in (False, True):
            run = Training(DistributedDataParallel(network()), parts=mine(rank))
            make = functools.partial(foreshock.Monitor, run.model, run.optimizer, loss_fn, run=folder / name)
            ended.append(prepare(run, make if on else None))
        require(all(torch.equal(a, b) for a, b in zip(*ended, strict=True)), f"{name}: weights moved")
        events = read_run(folder / name, rank=rank).records["event"]
        found = "local batch" in [one["name"] for one in events]
        require(found == alone, f"{name}: {events}")

    def later(run, make):
        first = make() if make and rank == 0 else None
        run.run(steps=20, monitor=first)
        return run.run(steps=40, monitor=make() if make and rank else first)

    def budgets(run, make):
        return run.run(steps=40, monitor=make(budget=0.05 + 0.05 * rank) if make else None)

    def evaluated(run, make):
        monitor = make(probe_every=4) if make else None
        for _ in range(4):
            run.run(steps=5, monitor=monitor)
            if rank == 0:
                run.model.eval()
                with torch.no_grad():
                    time.sleep(0.5)
                    run.model.module(run.whole[0])
                run.model.train()
        return run.run(steps=5, monitor=monitor)

    def forked(run, make):
        monitor = make(probe_every=4) if make else None
        run.run(steps=12, monitor=monitor)
        if monitor is not None:
            child = os.fork()
            if not child:
                # What a child does with a copy of the monitor must not disturb the parent's connections.
                met = monitor._probes.meets(16)
                monitor._probes.close()
                os._exit(0 if met is None else 1)
            require(os.waitpid(child, 0)[1] == 0, "the child used the connection")
        return run.run(steps=12, monitor=monitor)

    def joined(run, make):
        with mock.patch("foreshock.distributed.peers._LONGEST_WAIT", dt.timedelta(seconds=1)):
            monitor = make(probe_every=4) if make else None
        with run.model.join():
            run.run(steps=12 + 12 * (rank == 0), monitor=monitor)
        return weights(run.model)

    check("later", later, alone=True)
    check("budgets", budgets, alone=True)
    check("evaluated", evaluated, alone=False)
    check("forked", forked, alone=False)
    check("joined", joined, alone=rank == 0)


def zero(rank, folder):
    """ZeroRedundancyOptimizer: each process watches and guards the parameters of its own optimizer."""
    ended, guard = [], None
    for way in ("plain", "watched", "guarded"):
        run = Training(DistributedDataParallel(network()), parts=mine(rank))
        run.optimizer = ZeroRedundancyOptimizer(run.model.parameters(), torch.optim.AdamW, lr=0.01)
        if way == "guarded":
            guard = foreshock.guard(run.optimizer.optim, MeanSquare(threshold=0.06))
        log = folder / way
        watched = way != "plain" and {"run": log, "probe_every": 10, "guard": guard}
        monitor = foreshock.Monitor(run.model, run.optimizer, loss_fn, **watched) if watched else None
        ended.append(run.run(constant=True, monitor=monitor))
        alike([one.tolist() for one in weights(run.model)], f"{way}: weights")
        if monitor is not None:
            monitor.close()
    require(all(torch.equal(a, b) for a, b in zip(*ended[:2], strict=True)), "weights moved")
    require(len(readings(folder / "watched", rank)) >= 3, "nothing was measured")
    events = read_run(folder / "watched", rank=rank).records["event"]
    said = [one for one in events if one["name"] == "local batch"]
    require(len(said) == 1 and "ZeroRedundancyOptimizer" in said[0]["message"], f"{said}")
    torch.distributed.barrier()
    found = compare_ranks(read_run(folder / "watched"))
    require(not found.departures and not found.together, f"{found}")


def pipeline(rank, folder):
    """A stage in each process: its own free signals, whose squares add up to those of the whole."""
    whole = network()
    reference = Training(network())
    log = foreshock.Monitor(reference.model, reference.optimizer, run=folder / f"whole{rank}")
    reference.run(steps=20, monitor=log)
    log.close()
    stage = whole[:2] if rank == 0 else whole[2:]
    optimizer = torch.optim.AdamW(stage.parameters(), lr=0.01)
    monitor = foreshock.Monitor(stage, optimizer, run=folder / "stages")
    part = PipelineStage(stage, rank, 2, torch.device("cpu"))
    mean = nn.MSELoss()
    schedule = ScheduleGPipe(part, n_microbatches=2, loss_fn=mean)
    for step in range(20):
        inputs, targets = reference.batches[step % 8]
        optimizer.zero_grad()
        losses = []
        if rank == 0:
            schedule.step(inputs)
        else:
            schedule.step(target=targets, losses=losses)
        loss = torch.stack(losses).mean().detach() if rank else torch.zeros((), dtype=torch.float64)
        torch.distributed.broadcast(loss, 1)  # the first stage knows none
        monitor.observe(inputs, loss)
        optimizer.step()
    monitor.close()
    own = reference.model[:2] if rank == 0 else reference.model[2:]
    pairs = zip(stage.parameters(), own.parameters(), strict=True)
    apart = max((one - other).abs().max().item() for one, other in pairs)
    require(apart <= 1e-9, f"weights are {apart} apart")
    torch.distributed.barrier()
    stages = [read_run(folder / "stages", rank=one) for one in range(2)]
    squares = sum(one.column("step", "gradient_norm") ** 2 for one in stages)
    expected = read_run(folder / f"whole{rank}").column("step", "gradient_norm") ** 2
    require(len(squares) == 20 and abs(squares / expected - 1).max() < 1e-6, f"{squares} and {expected}")
    found = compare_ranks(stages[0])
    require(not found.departures, f"{found.departures}")


def without_a_log(rank, folder):
    """A rank that can't write its log goes on without one, measures with the others, and is named."""
    (folder / "file").touch()
    place = folder / "file" / "no folder" if rank else folder / "run"
    run = Training(DistributedDataParallel(network()), parts=mine(rank))
    monitor = foreshock.Monitor(run.model, run.optimizer, loss_fn, run=place, probe_every=10)
    run.run(steps=30, constant=True, monitor=monitor)
    alike(str(monitor.forecast), "forecasts")
    require(math.isfinite(monitor.forecast.stability_ratio), f"{monitor.forecast}")
    monitor.close()
    torch.distributed.barrier()
    found = compare_ranks(read_run(folder / "run")).departures
    require([(one.rank, one.what) for one in found] == [(1, "no log")], f"{found}")


def guarded(rank, folder):
    """A guard that measures in all processes trains as one process does on whole batches."""
    split = Training(DistributedDataParallel(network()), parts=mine(rank), rate=0.3)
    whole = Training(network(), rate=0.3)
    guards = [foreshock.guard(one.optimizer, MeanSquare(threshold=0.3)) for one in (whole, split)]
    with mock.patch("foreshock.guarding.pair_prober.several_processes", return_value=False):
        measure = guards[0].measure
        guards[0].measure = lambda model, loss, batch, every: measure(
            model, loss, foreshock.MicroBatches(quarters(batch)), every=every
        )
        ended = [whole.run(steps=120, guard=guards[0])]
    ended.append(split.run(steps=120, guard=guards[1]))
    apart = max((a - b).abs().max().item() for a, b in zip(*ended, strict=True))
    require(guards[0].summary().acted > 0, f"the guard never acted: {guards[0].summary()}")
    alone, joint = ([(one.step, one.remedy) for one in guard.actions] for guard in guards)
    require(alone == joint, f"{joint} instead of {alone}")
    require(apart <= 1e-6, f"weights are {apart} apart")
    alike([one.tolist() for one in ended[1]], "weights")


def failing_guard(rank, folder):
    """A rank that fails in a measurement, or has a batch of one example: the weights stay the same."""
    calls = []

    def failing(model, batch):
        calls.append(1)
        if rank == 1 and len(calls) % 5 == 2:
            raise RuntimeError("only here")
        return loss_fn(model, batch)

    run = Training(DistributedDataParallel(network()), parts=mine(rank), rate=0.05)
    plain = run.part
    run.part = lambda batch: (
        tuple(one[:1] for one in plain(batch)) if rank and batch is run.batches[5] else plain(batch)
    )
    guard = foreshock.guard(run.optimizer, "mean_square")
    run.run(steps=120, guard=guard, loss=failing)
    alike([one.tolist() for one in weights(run.model)], "weights")


def killed(rank, folder):
    """A rank that is killed within a probe: the other gets an error of its own training, in time."""
    calls = []

    def killing(model, batch):
        calls.append(1)
        if rank == 1 and len(calls) == 3:
            os.kill(os.getpid(), 9)
        return loss_fn(model, batch)

    run = Training(DistributedDataParallel(network()), parts=mine(rank))
    monitor = foreshock.Monitor(run.model, run.optimizer, killing, run=folder, probe_every=2)
    began = time.monotonic()
    try:
        run.run(monitor=monitor)
    except RuntimeError:  # of DDP's own collective
        events = [one["name"] for one in read_run(folder, rank=rank).records["event"]]
        if time.monotonic() - began < TIMEOUT and "probe failed" in events:
            os._exit(7)
    raise RuntimeError("the other process did not end as it would without a monitor")


def faults(rank, folder, seed=0):
    """Random faults: never a hang, never other weights, whatever fails where."""
    draw, both = random.Random(1000 * seed + rank), random.Random(seed)
    constant, every = both.random() < 0.5, both.choice([1, 3, 7])
    chance = both.choice([0.02, 0.1, 0.4])
    kinds = ("raise", "slow", "memory", "nan", "shape", "collective")

    def faulty(model, batch):
        kind = draw.choice(kinds) if draw.random() < chance else ""
        if kind == "raise":
            raise ValueError("a fault")
        if kind == "memory":
            raise torch.OutOfMemoryError("a fault")
        if kind == "slow":
            time.sleep(0.01)
        if kind == "collective" and draw.random() < 0.1:
            torch.distributed.all_reduce(torch.ones(1))
        value = loss_fn(model, batch)
        return value * torch.nan if kind == "nan" else value.expand(2) if kind == "shape" else value

    ended = []
    for on in (False, True):
        run = Training(DistributedDataParallel(network()), parts=mine(rank))
        options = {"probe_every": every, "run": folder / f"seed{seed}"}
        monitor = foreshock.Monitor(run.model, run.optimizer, faulty, **options) if on else None
        ended.append(run.run(steps=30, constant=constant, monitor=monitor))
    require(all(torch.equal(a, b) for a, b in zip(*ended, strict=True)), f"seed {seed}: weights moved")
    log = read_run(folder / f"seed{seed}", rank=rank).records
    alike([(one["step"], one["stability_ratio"]) for one in log["curvature"]], f"seed {seed}: curvature")
    alike([(one["step"], one["mean"]) for one in log["noise"]], f"seed {seed}: noise")
    monitor.close()
    run = Training(DistributedDataParallel(network()), parts=mine(rank), rate=0.05)
    run.run(steps=40, guard=foreshock.guard(run.optimizer, "mean_square"), loss=faulty)
    alike([one.tolist() for one in weights(run.model)], f"seed {seed}: weights")


def several_faults(rank, folder, count=4):
    for seed in range(count):
        faults(rank, folder, seed)


SCENARIOS = (
    products,
    watched,
    bad_shard,
    drifted,
    like_one_process,
    quiet,
    reducers,
    uneven,
    raises,
    refuses,
    slow,
    apart,
    stays_away,
    confirmed,
    odd_users,
    zero,
    pipeline,
    without_a_log,
    guarded,
    failing_guard,
    several_faults,
)
ON_FOUR = (watched, failing_guard)
APART = (killed,)


def start(work, arguments, processes):
    """Run a function in several processes. They are forked: what is imported once is imported for all."""
    torch.multiprocessing.start_processes(work, arguments, nprocs=processes, start_method="fork")


def start_apart(work, folder, name):
    """Run a scenario in two processes, of which the second is killed; end with whether the first saw it."""
    # start_processes() would end the others itself.
    context = torch.multiprocessing.get_context("fork")
    ranks = [context.Process(target=work, args=(rank, folder, name, 2, None)) for rank in range(2)]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join(2 * TIMEOUT)
    codes = [one.exitcode for one in ranks]
    sys.exit(0 if codes == [7, -9] else f"{codes}")


def check(rank, folder, name, processes, count):
    torch.set_num_threads(1)
    # A process that waits for ever fails after this time.
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=processes,
        timeout=dt.timedelta(seconds=TIMEOUT),
    )
    logs = Path(folder) / "logs"
    logs.mkdir(exist_ok=True)
    chosen = {"all": SCENARIOS, "four": ON_FOUR}.get(name)
    for scenario in chosen or [one for one in (*SCENARIOS, *APART) if one.__name__ == name]:
        if not rank:
            sys.stderr.write(f"scenario {scenario.__name__}\n")
        own = logs / scenario.__name__
        own.mkdir(exist_ok=True)
        scenario(rank, own, **({} if count is None else {"count": count}))
        gc.collect()
        torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    folder, name, *rest = sys.argv[1:]
    processes = int(rest[0]) if rest else PROCESSES
    count = int(rest[1]) if len(rest) > 1 else None
    if name in [one.__name__ for one in APART]:
        start_apart(check, folder, name)
    start(check, (folder, name, processes, count), processes)
