"""Models that several processes hold together: measured as one process would; run as a script.

usage: sharded.py FOLDER SCENARIO [PROCESSES [COUNT]]; SCENARIO is a function of this file, all, four or sizes
"""

from __future__ import annotations

import contextlib
import copy
import datetime as dt
import gc
import os
import random
import sys
import time
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup
from torch.distributed.tensor import distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

sys.path.insert(0, str(Path(__file__).parents[1]))

import foreshock
from distributed.beside import differences_of_columns, in_flight, unmanaged
from distributed.processes import (
    EXACT,
    TIMEOUT,
    Training,
    alike,
    close,
    data,
    everyones,
    loss_fn,
    mine,
    network,
    require,
    start,
    start_apart,
)
from distributed.resumed import of_another_size, resumed
from foreshock.batches import split_batch
from foreshock.curvature import Prober, ProbeSettings
from foreshock.curvature.choosing import Sharing
from foreshock.curvature.form import spread_over
from foreshock.distributed import Channel, joint_probe, training_peers, why_not_spread
from foreshock.eigen import StoppingRule
from foreshock.failures import ProbeRefusedError
from foreshock.guarding import MeanSquare
from foreshock.operators import BackendChoice, HessianOperator, ReducedOperator
from foreshock.operators.backend import SHARD_DIFFERENCES
from foreshock.preconditioner import read_preconditioner
from foreshock.runlog import read_run
from foreshock.vectors import flatten, local, split
from oracles import dense_hessian

ONE_CALL = StoppingRule(relative_tolerance=1e-9, max_products=200)
NEAR = StoppingRule(relative_tolerance=5e-4, far_tolerance=5e-4, threshold=1.0, max_products=14)
RATIOS = ["stability_ratio", "gradient_stability_ratio", "update_stability_ratio", "predicted_loss_change"]


class Network(nn.Module):
    """Rows that two or four processes can't share evenly, a scalar parameter, and one that is frozen."""

    def __init__(self, *, checkpointed=False, dropped=0.0):
        super().__init__()
        torch.manual_seed(0)
        # Before what tensor parallelism divides, or nothing would need derivatives through its inputs.
        self.entry = nn.Linear(4, 4)
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 6)
        self.norm, self.last = nn.LayerNorm(6), nn.Linear(6, 1)
        self.scale, self.frozen = (
            nn.Parameter(torch.ones(1)),
            nn.Parameter(torch.ones(3), requires_grad=False),
        )
        self.checkpointed, self.dropped = checkpointed, dropped
        self.double()

    def forward(self, inputs):
        hidden = self.first(self.entry(inputs).tanh()).tanh()
        hidden = nn.functional.dropout(hidden, self.dropped, training=self.dropped > 0)
        if self.checkpointed:
            hidden = checkpoint(self.second, hidden, use_reentrant=False)
        else:
            hidden = self.second(hidden)
        return self.last(self.norm(hidden).tanh()) * self.scale * self.frozen.mean()


def fully(model=None, mesh=None, **options):
    """The network as users shard it: layer by layer, and the rest."""
    model = Network() if model is None else model
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),)) if mesh is None else mesh
    for part in (model.first, model.second):
        fully_shard(part, mesh=mesh, **options)
    fully_shard(model, mesh=mesh, **options)
    return model


def tensor_parallel(mesh=None):
    model = Network()
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),)) if mesh is None else mesh
    return parallelize_module(model, mesh, {"first": ColwiseParallel(), "second": RowwiseParallel()})


def both():
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    return fully(tensor_parallel(mesh["tensor"]), mesh["data"])


def replicated():
    return fully(mesh=init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard")))


def shards(model, optimizer=None):
    """What this process has of a model and its optimizer, and of the settings that FSDP2 has for it."""
    found = [local(one.detach()).clone() for one in model.parameters()]
    for state in {} if optimizer is None else optimizer.state.values():
        found += [local(one).clone() for one in state.values()]
    return found


def settings(model):
    found = []
    for module in model.modules():
        state = module._get_fsdp_state() if hasattr(module, "_get_fsdp_state") else None
        for group in [] if state is None else state._fsdp_param_groups:
            names = (
                "reshard_after_backward reduce_grads all_reduce_grads post_forward_mesh_info _sharded_state"
            )
            found += [getattr(group, name) for name in names.split()]
            found += [group._training_state, state._training_state, [len(module._forward_hooks)]]
    return found


def same(one, other, what):
    require(all(torch.equal(a, b) for a, b in zip(one, other, strict=True)), f"{what}: bits differ")


def step_together(whole, split, parts):
    """Let both make some steps on the same data, and stand before the next one."""
    for _ in range(3):
        for run in (whole, split):
            run.optimizer.zero_grad()
            batch = run.whole if run is whole else tuple(one[parts] for one in run.whole)
            loss_fn(run.model, batch).backward()
            run.optimizer.step()
    for run in (whole, split):
        run.optimizer.zero_grad()
        loss_fn(run.model, run.whole if run is whole else tuple(one[parts] for one in run.whole)).backward()


@contextlib.contextmanager
def meeting(model, parameters, name, share):
    """A probe of all processes."""
    peers = training_peers(model)
    channels = [Channel(peers, name)]
    apart = peers.same_batch_apart()
    if apart is not None:
        channels.append(Channel(apart, name))
    joint = joint_probe(peers, channels[0], channels[1] if apart is not None else None, parameters)
    joint.share = share
    yield joint
    for one in channels:
        one.close()


def agree(make, parts, *, name, tolerance=1e-7):
    """Products, eigenvalues, noise and one-call functions are those of one process on all batches."""
    whole, run = Training(Network()), Training(make())
    trained = [one for one in run.model.parameters() if one.requires_grad]
    plain = [one for one in whole.model.parameters() if one.requires_grad]
    batch = tuple(one[parts] for one in whole.whole)
    found = foreshock.sharpness(run.model, loss_fn, batch, stop=ONE_CALL)  # before the first forward pass
    expected = foreshock.sharpness(whole.model, loss_fn, whole.whole, stop=ONE_CALL)
    close(found.value, expected.value, 1e-6, f"{name}: sharpness")
    require([one.name for one in found.blocks] == [one.name for one in expected.blocks], f"{found.blocks}")
    close(found.blocks[0].share, expected.blocks[0].share, 1e-5, f"{name}: share")
    # Where batches are of unequal size, the gradients of training are the mean of means, as FSDP2 has it.
    even = batch[0].shape[0] != 10 and batch[0].shape[0] != 6
    if even:
        step_together(whole, run, parts)
    before, kept, drawn = shards(run.model, run.optimizer), settings(run.model), torch.get_rng_state()
    gradients = [one.grad for one in trained]
    dense = dense_hessian(lambda: loss_fn(whole.model, whole.whole), plain)
    vector = torch.randn(dense.shape[0], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    parts_of = split(vector, plain)
    with meeting(run.model, trained, name, batch[0].shape[0] / 16) as joint:
        expected = split(dense @ vector, plain)
        with joint, joint.inside(run.model):
            inside = joint.whole(trained)
            mine_of = lambda tensors: joint.own(flatten(own(tensors, inside), inside))  # noqa: E731
            part = HessianOperator(lambda: loss_fn(run.model, batch), joint.whole(trained))
            with ReducedOperator(part, joint) as hessian:
                product = hessian(mine_of(parts_of))
                apart = float(torch.linalg.vector_norm(product - mine_of(expected)))
                length = float(torch.linalg.vector_norm(product))
                form = float(torch.dot(mine_of(parts_of), product))
            joint.end()
        close(length, float((dense @ vector).norm()), tolerance, f"{name}: length of a product")
        require(apart <= tolerance * length, f"{name}: a product is {apart / length} off")
        close(form, float(vector @ dense @ vector), tolerance, f"{name}: quadratic form")
        if even:
            probes(whole, run, joint, batch, trained, name=name, tolerance=tolerance)
    if name == "fsdp2":
        calls(whole, run, batch, name)
    same(before, shards(run.model, run.optimizer), name)
    require(kept == settings(run.model), f"{name}: FSDP2 has other settings")
    require(torch.equal(drawn, torch.get_rng_state()), f"{name}: random numbers were drawn")
    require(all(a is b.grad for a, b in zip(gradients, trained, strict=True)), f"{name}: other gradients")


def probes(whole, run, joint, batch, trained, *, name, tolerance):
    """A probe, its refresh, what follows from it, and the noise."""
    one, other = Prober(whole.model, loss_fn), Prober(run.model, loss_fn)
    expected = one.probe(whole.whole, read_preconditioner(whole.optimizer), step=1, stop=EXACT)
    step = spread_over(read_preconditioner(run.optimizer), joint)
    channel = joint._channel
    sums, sent = channel.collectives, channel.bytes
    with joint:
        found = other.probe(batch, step, step=1, stop=EXACT, joint=joint)
    if joint._data is channel:  # two vectors for each product and one for the gradient; the rest is short
        short, long = joint._message.numel() * 8, joint.gathered_size * 8
        vectors = (channel.bytes - sent - (channel.collectives - sums) * short) / (long - short)
        require(vectors == 2 * found.products + 1, f"{name}: {vectors} vectors for {found.products} products")
    for ratio in RATIOS:
        close(getattr(found, ratio), getattr(expected, ratio), tolerance, f"{name}: {ratio}")
    require([b.name for b in found.blocks] == [b.name for b in expected.blocks], f"{found.blocks}")
    require(other.top_vector.numel() == sum(local(p).numel() for p in trained), "the vector is no shard")
    with joint:
        again = other.refresh(batch, step, step=2, joint=joint)
    close(again.stability_ratio, expected.stability_ratio, 1e-6, f"{name}: refreshed")
    with joint:
        close(
            other.follow(step),
            one.follow(read_preconditioner(whole.optimizer)),
            1e-6,
            f"{name}: followed",
        )
        joint.end()
    noise(whole, other, step, joint, batch, name)


def own(tensors, parameters):
    """Return what this process has of whole tensors once all is gathered: columns or rows, or all."""
    found = []
    for tensor, parameter in zip(tensors, parameters, strict=True):
        if hasattr(parameter, "to_local"):
            tensor = distribute_tensor(tensor, parameter.device_mesh, parameter.placements).to_local()
        found.append(tensor)
    return found


def noise(whole, prober, step, joint, batch, name):
    """The noise is that of the halves of all batches."""
    halves = quarters_of(whole.whole) if joint.size == 2 else None
    alone = Prober(whole.model, loss_fn)
    if halves is None or batch[0].shape[0] != 8:
        return
    alone = alone.probe_noise(foreshock.MicroBatches(halves), read_preconditioner(whole.optimizer), step=1)
    with joint:
        found = prober.probe_noise(batch, step, step=1, joint=joint)
    require(found.parts == 4 and found.examples == 16, f"{name}: {found}")
    for one in ("mean", "variance", "variance_along", "gradient_signal", "gradient_noise", "noise_factor"):
        close(getattr(found, one), getattr(alone, one), 1e-7, f"{name}: {one}")
    with joint:  # along the direction of the last one
        again = prober.probe_noise(batch, step, step=2, joint=joint)
    require(again.mean != found.mean and again.mean == everyones(again.mean)[0], f"{name}: {again}")


def calls(whole, run, batch, name):
    """The other functions of one call, also of some parameters only."""
    arguments = [(whole.model, whole.optimizer, whole.whole), (run.model, run.optimizer, batch)]
    expected, found = (
        foreshock.preconditioned_sharpness(model, optimizer, loss_fn, one, stop=EXACT, parameters=part)
        for model, optimizer, one in arguments
        for part in [model.last.parameters()]
    )
    close(found.stability_ratio, expected.stability_ratio, 1e-6, f"{name}: one layer")
    expected, found = (
        foreshock.preconditioned_sharpness(model, optimizer, loss_fn, one, stop=EXACT)
        for model, optimizer, one in arguments
    )
    for ratio in RATIOS:
        close(getattr(found, ratio), getattr(expected, ratio), 1e-7, f"{name}: {ratio} in one call")
    expected, found = (
        foreshock.spectrum(model, loss_fn, one, probes=1, steps=25) for model, _, one in arguments
    )
    close(found.upper, expected.upper, 1e-6, f"{name}: upper end of the spectrum")
    close(found.lower, expected.lower, 1e-6, f"{name}: lower end of the spectrum")
    batches = [batch, tuple(one.flip(0) + 0.1 for one in batch)]
    found = foreshock.mean_square_stability(run.model, run.optimizer, loss_fn, batches)
    alike(str([found.ratio, found.mean, found.variance]), f"{name}: mean-square stability")
    require(found.variance > 0, f"{name}: {found}")


def gauss_newton(model, batch):
    return foreshock.curvature.gauss_newton_sharpness(
        model,
        lambda model, batch: model(batch[0]),
        lambda outputs, batch: (outputs - batch[1]).square().mean(),
        batch,
        stop=ONE_CALL,
    )


def exact(rank, folder):
    """FSDP2 with its defaults, without resharding, with unequal batches; and tensor parallelism."""
    agree(fully, mine(rank), name="fsdp2")
    agree(lambda: fully(reshard_after_forward=False), mine(rank, uneven=True), name="uneven")
    agree(tensor_parallel, slice(0, 16), name="tensor")
    batch = data(16)
    expected = gauss_newton(Network(), batch).value
    found = gauss_newton(fully(), tuple(one[mine(rank)] for one in batch)).value
    close(found, expected, 1e-6, "Gauss-Newton")


class Counting(TorchDispatchMode):
    """Count collectives of the process groups of training."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(hasattr(one, "to_local") for one in types):
            return NotImplemented
        self.count += func.namespace in ("c10d", "_c10d_functional")
        return func(*args, **(kwargs or {}))


def trained(make, rank, folder=None, *, parts=None, quiet=False, loss=loss_fn, accumulated=False, **options):
    """Train, watched or not; return the shards at the end, and the monitor's last forecast."""
    run = Training(make(), parts=mine(rank) if parts is None else parts)
    if accumulated:
        run.model.no_sync = lambda: not_synced(run.model)
    steps, constant = options.pop("steps", 22), options.pop("constant", True)
    if folder is None:
        run.run(steps=steps, constant=constant, accumulated=accumulated)
        return shards(run.model, run.optimizer), None
    monitor = foreshock.Monitor(run.model, run.optimizer, loss, run=folder, **options)
    if quiet:
        plain, company = monitor.observe, monitor._probes._company

        def observe(*arguments):
            before = company.channel.collectives if company.channel else 0
            with Counting() as counting:
                forecast = plain(*arguments)
            met = company.channel is not None and company.channel.collectives > before
            require(met or not counting.count, f"{counting.count} collectives on a step that logs nothing")
            return forecast

        monitor.observe = observe
    run.run(steps=steps, constant=constant, accumulated=accumulated, monitor=monitor)
    monitor.close()
    return shards(run.model, run.optimizer), monitor.forecast


@contextlib.contextmanager
def not_synced(model):
    model.set_requires_gradient_sync(False)
    model.set_reshard_after_backward(False)
    yield
    model.set_requires_gradient_sync(True)
    model.set_reshard_after_backward(True)


HALF = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
SHARDED = {
    "defaults": (fully, {}),
    "batches": (fully, {"constant": False, "probe_every": 10}),
    "half precision": (lambda: fully(Network().float(), mp_policy=HALF), {"probe_every": 10}),
    "accumulated": (lambda: fully(Network(checkpointed=True)), {"probe_every": 10, "accumulated": True}),
}


IN_SHARDS = {
    "noise of shards": (
        lambda: divided(fully(Network(dropped=0.2), reshard_after_forward=False)),
        {"hvp": "difference", "constant": False, "probe_every": 10, "steps": 12},
    ),
    "half precision": (
        lambda: fully(Network(checkpointed=True).float(), mp_policy=HALF),
        {"hvp": "difference", "probe_every": 10, "accumulated": True, "steps": 12},
    ),
}


def divided(model):
    """A model whose user divides gradients by another number than that of processes."""
    model.set_gradient_divide_factor(3.0)
    return model


def watched(rank, folder, kinds=SHARDED, parts=None):
    """Training stays bitwise, and readings are those of one process on all batches."""
    parts = mine(rank) if parts is None else parts
    for name, (make, options) in kinds.items():
        half = name == "half precision"
        plain, _ = trained(
            make, rank, parts=parts, **{k: v for k, v in options.items() if k not in ("probe_every", "hvp")}
        )
        own = folder / name
        quiet = "probe_every" not in options
        ended, forecast = trained(make, rank, own, parts=parts, quiet=quiet, **options)
        same(plain, ended, name)
        log = read_run(own, rank=rank).records
        noisy = not options.get("constant", True)
        kind, value = ("noise", "mean") if noisy else ("curvature", "stability_ratio")
        require(log[kind], f"{name}: {log['event']}")
        alike([(one["step"], one[value]) for one in log[kind]], f"{name}: readings")
        # Behind the last meeting, the sums are not known exactly.
        met = 20 if options.get("steps", 22) > 20 else 10
        known = [one for one in log["step"] if one["step"] <= met]
        alike([(one["step"], one["gradient_norm"], one["instant_lag"]) for one in known], f"{name}: steps")
        alike(str(forecast), f"{name}: forecasts")
        shards_only = "hvp" in options
        require(
            all(("shards" in one["backend"]) == shards_only for one in log["curvature"]),
            f"{name}: {log['curvature']}",
        )
        bad = [one for one in log["event"] if "failed" in one["name"] or one["name"] == "no probe"]
        require(not bad, f"{name}: {bad}")
        if half or name == "defaults" or options.get("steps") or rank:  # all have the same readings by now
            continue
        alone = folder / f"{name}, one process, {rank}"
        options = {key: one for key, one in options.items() if key not in ("accumulated", "hvp")}
        trained(Network, rank, alone, parts=slice(0, 16), **options)
        like_one_process(log, read_run(alone, rank=rank).records, kind, value, name)


def like_one_process(log, alone, kind, value, name):
    known = {one["step"]: one for one in alone[kind]}
    common = [one for one in log[kind] if one["step"] in known]
    require(len(common) >= 2, f"{name}: nothing to compare in {log[kind]} and {alone[kind]}")
    for one in common:  # a ratio is known to two percent; halves are others than quarters
        if kind == "curvature":
            close(one[value], known[one["step"]][value], 0.04, f"{name}: {kind} of step {one['step']}")
    steps = {one["step"]: one for one in alone["step"]}
    # At the first there is no v to decay; behind the last meeting, at step 20, sums are not known exactly.
    for one in log["step"][1:21]:
        for signal in ("gradient_norm", "instant_lag", "second_moment", "decay_exponent"):
            close(one[signal], steps[one["step"]][signal], 1e-6, f"{name}: {signal} of step {one['step']}")


def noisy_network():
    """One whose batches differ enough for a guard to act."""
    model, mesh = network(), init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    for part in (model[0], model[2], model):
        fully_shard(part, mesh=mesh)
    return model


def guarded(rank, folder):
    """A guard that measures in all processes trains as one process does on whole batches."""
    run, whole = Training(noisy_network(), parts=mine(rank), rate=0.3), Training(network(), rate=0.3)
    guards = [foreshock.guard(one.optimizer, MeanSquare(threshold=0.3)) for one in (run, whole)]
    with mock.patch("foreshock.guarding.pair_prober.several_processes", return_value=False):
        measure = guards[1].measure
        guards[1].measure = lambda model, loss, batch, every: measure(
            model, loss, foreshock.MicroBatches(quarters_of(batch)), every=every
        )
        whole.run(steps=120, guard=guards[1])
    run.run(steps=120, guard=guards[0])
    require(guards[0].summary().acted > 0, f"the guard never acted: {guards[0].summary()}")
    joint, alone = ([(one.step, one.remedy) for one in guard.actions] for guard in guards)
    require(alone == joint, f"{joint} instead of {alone}")
    ended = [one.full_tensor() if hasattr(one, "full_tensor") else one for one in run.model.parameters()]
    apart = max((a - b).abs().max().item() for a, b in zip(ended, whole.model.parameters(), strict=True))
    require(apart <= 1e-6, f"weights are {apart} apart")


def layerwise(rank, folder):
    """Products, ratios and noise of shards alone are those of one process, and nobody has whole vectors."""
    agree_in_shards(Network(), mine(rank), name="double", tolerance=1e-6)
    agree_in_shards(Network().float(), mine(rank, uneven=True), name="float", tolerance=1e-4)
    watched(rank, folder, IN_SHARDS)
    raises(rank, folder / "raises", ways=("loss",), at=(9,), steps=16, hvp="difference")


def beside(rank, folder):
    """What stands beside shards: other parameters, gradients that accumulate, tensor parallelism."""
    unmanaged(rank, meeting)
    in_flight(rank, folder, fully, shards)
    differences_of_columns(rank, meeting, tensor_parallel)


def agree_in_shards(model, parts, *, name, tolerance):
    whole, run = Training(model), Training(fully(copy.deepcopy(model)))
    for one in (whole, run):
        one.whole = tuple(tensor.to(next(model.parameters()).dtype) for tensor in one.whole)
    batch = tuple(one[parts] for one in whole.whole)
    share = batch[0].shape[0] / 16
    train_in_shards(whole, run, batch, share)
    trained = [one for one in run.model.parameters() if one.requires_grad]
    before, kept, drawn = shards(run.model, run.optimizer), settings(run.model), torch.get_rng_state()
    gradients = [one.grad for one in trained]
    longest = LongestTensor(sum(one.numel() for one in trained))
    with meeting(run.model, trained, f"shards, {name}", share) as joint:
        product_in_shards(whole, run, batch, joint, name=name, tolerance=tolerance, watch=longest)
        prober = Prober(run.model, loss_fn, hvp="difference")
        step = spread_over(read_preconditioner(run.optimizer), joint)
        if name == "float":  # what users have
            probe_in_shards(whole, prober, step, joint, batch, watch=longest)
        noise_in_shards(whole, prober, step, joint, batch, name=name, watch=longest)
    require(longest.seen, "no tensor was looked at")
    same(before, shards(run.model, run.optimizer), name)
    require(kept == settings(run.model), f"{name}: FSDP2 has other settings")
    require(torch.equal(drawn, torch.get_rng_state()), f"{name}: random numbers were drawn")
    require(all(a is b.grad for a, b in zip(gradients, trained, strict=True)), f"{name}: other gradients")


def probe_in_shards(whole, prober, step, joint, batch, *, watch):
    """A probe and its refresh: λ_max and what else it reads, of the batches of all."""
    expected = Prober(whole.model, loss_fn).probe(
        whole.whole, read_preconditioner(whole.optimizer), step=1, stop=NEAR
    )
    with watch, joint:
        found = prober.probe(batch, step, step=1, stop=NEAR, joint=joint)
    require(found.backend == "central differences of shards", found.backend)
    require(prober.backend.verified and "asked for" in prober.backend.reason, str(prober.backend))
    for ratio in RATIOS:
        close(getattr(found, ratio), getattr(expected, ratio), 1e-3, ratio)
    require([b.name for b in found.blocks] == [b.name for b in expected.blocks], f"{found.blocks}")
    with joint:
        again = prober.refresh(batch, step, step=2, joint=joint)
    close(again.stability_ratio, expected.stability_ratio, 1e-3, "refreshed")


def train_in_shards(whole, run, batch, share):
    """Let both make some steps on the same data, and stand before the next one, whatever the shares are."""
    for step in range(4):
        for one in (whole, run):
            one.optimizer.zero_grad()
        loss_fn(whole.model, whole.whole).backward()
        # FSDP2 takes the mean of means; training with unequal batches weighs its losses.
        (loss_fn(run.model, batch) * share * 2).backward()
        if step < 3:
            whole.optimizer.step()
            run.optimizer.step()


def product_in_shards(whole, run, batch, joint, *, name, tolerance, watch):
    trained = [one for one in run.model.parameters() if one.requires_grad]
    plain = [one for one in whole.model.parameters() if one.requires_grad]
    dense = dense_hessian(lambda: loss_fn(whole.model, whole.whole), plain)
    vector = torch.randn(dense.shape[0], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    own, expected = (cut(one, plain, trained) for one in (vector, dense.double() @ vector))
    backend = BackendChoice(SHARD_DIFFERENCES, "", 0.0, verified=True, precision=plain[0].dtype)
    with watch, joint:
        layer = Sharing("difference").of(joint, run.model, trained)
        with layer.inside(run.model):
            probed = ProbeSettings(backend, model=run.model, joint=layer)
            with probed.operator(lambda: loss_fn(run.model, batch), trained) as hessian:
                product = hessian(layer.vector(own))
            length = float(torch.linalg.vector_norm(product))
            apart = float(torch.linalg.vector_norm(product - layer.vector(expected)))
        joint.end()
    close(float(hessian.loss), loss_fn(whole.model, whole.whole).item(), 1e-5, f"{name}: loss")
    sys.stderr.write(f"{name}: a product is {apart / length} off\n")
    require(apart <= tolerance * length, f"{name}: a product is {apart / length} off")


def noise_in_shards(whole, prober, step, joint, batch, *, name, watch):
    """The noise is that of two parts: the first halves of all batches, and the second ones."""
    halves = everyones_halves(batch)
    counts = [one[0].shape[0] for one in halves]
    expected = Prober(whole.model, loss_fn).probe_noise(
        foreshock.MicroBatches(halves, counts=counts), read_preconditioner(whole.optimizer), step=1
    )
    with watch, joint:
        found = prober.probe_noise(batch, step, step=1, joint=joint)
    require(found.parts == 2 and found.examples == 16, f"{name}: {found}")
    for one in ("mean", "variance", "variance_along", "gradient_signal", "gradient_noise", "noise_factor"):
        close(getattr(found, one), getattr(expected, one), 1e-4, f"{name}: {one}")
    alike(str([found.mean, found.variance]), f"{name}: noise")


def everyones_halves(batch):
    """The first halves of the batches of all processes, and the second ones."""
    found = everyones(list(split_batch(batch).batches))
    return [tuple(torch.cat(one) for one in zip(*half, strict=True)) for half in zip(*found, strict=True)]


def cut(flat, plain, trained):
    """Return what this process has of a vector over all parameters."""
    pairs = zip(split(flat.to(plain[0].dtype), plain), trained, strict=True)
    return flatten([distribute_tensor(one, p.device_mesh, p.placements) for one, p in pairs], trained)


class LongestTensor(TorchDispatchMode):
    """Refuse tensors as long as all parameters, and count what was looked at."""

    def __init__(self, limit):
        super().__init__()
        self.limit, self.seen = limit, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(hasattr(one, "to_local") for one in types):
            return NotImplemented
        found = func(*args, **(kwargs or {}))
        for one in tree_leaves(found):
            if isinstance(one, torch.Tensor):
                self.seen += 1
                require(one.numel() < self.limit, f"{func} made a tensor of {one.numel()} entries")
        return found


def quarters_of(batch):
    """The halves of what each of two data groups has of a batch."""
    own = [tuple(one[begin : begin + 8] for one in batch) for begin in (0, 8)]
    return [half for one in own for half in split_batch(one).batches]


def raises(rank, folder, make=fully, parts=None, *, ways=("loss", "memory"), at=(1, 9, 20), **options):
    """A rank that fails in its loss, in the middle of a model or where parameters are gathered."""
    parts = mine(rank) if parts is None else parts
    last = torch.distributed.get_world_size() - 1
    calls = []

    def failing(model, batch):
        calls.append(1)
        if rank == last and len(calls) in at:
            model.norm.register_forward_pre_hook(broken, prepend=True) if len(calls) > 1 else broken()
        return loss_fn(model, batch)

    def broken(module=None, inputs=None):
        if module is not None:
            module._forward_pre_hooks.clear()
        raise RuntimeError("only here")

    plain, _ = trained(make, rank, parts=parts, steps=options.get("steps", 22))
    gathering = FSDPParamGroup.unshard

    def short(group, *arguments, **options):
        # The first gathering of the second probe, which is not the first group.
        probed = group._training_state.name == "IDLE"  # in training it is gathered in forward and backward
        seen.append(probed)
        if rank == last and probed and sum(seen) == 5:
            raise torch.OutOfMemoryError("no memory here")
        return gathering(group, *arguments, **options)

    for way in ways:
        calls.clear()
        seen = []
        loss = failing if way == "loss" else loss_fn
        unshard = (
            mock.patch.object(FSDPParamGroup, "unshard", short)
            if way == "memory"
            else contextlib.nullcontext()
        )
        with unshard:
            ended, _ = trained(make, rank, folder / way, parts=parts, loss=loss, probe_every=5, **options)
        same(plain, ended, way)
        log = read_run(folder / way, rank=rank).records
        events = [one for one in log["event"] if one["name"] == "probe failed"]
        if way == "memory" and not any(hasattr(one, "unshard") for one in make().modules()):
            continue
        require(events, f"{way}: {log['event']}")
        alike([one["step"] for one in events], f"{way}: failures")
        said = ("only here" if way == "loss" else "no memory") if rank == last else "other process"
        require(all(said in one["message"] for one in events), f"{way}: {events}")
        require(len(log["curvature"]) >= 2, f"{way}: {log['curvature']}")
        alike([(one["step"], one["stability_ratio"]) for one in log["curvature"]], f"{way}: readings")
        if way == "memory":
            require("shards" in log["curvature"][-1]["backend"], f"{log['curvature'][-1]}")


def called_apart(rank, folder):
    """A function of one call that fails in one process fails in all, and the next call works."""
    model, batch = fully(), tuple(one[mine(rank)] for one in data(16))

    def failing(model, batch):
        if rank == 1:
            raise ValueError("only here")
        return loss_fn(model, batch)

    said = ""
    try:
        foreshock.sharpness(model, failing, batch)
    except (RuntimeError, ValueError) as error:
        said = str(error)
    require(("only here" if rank else "other process") in said, said)
    require(foreshock.sharpness(model, loss_fn, batch).value > 0, "the next call failed")
    with mock.patch("foreshock.curvature.one_call._LONGEST_WAIT", dt.timedelta(seconds=1)):
        said = ""
        if not rank:
            try:
                foreshock.sharpness(model, loss_fn, batch)
            except RuntimeError as error:
                said = str(error)
            require("did not take part" in said, said)
    torch.distributed.barrier()


def refused(rank, folder):
    """What can't be measured says why, and what to do."""
    mesh = init_device_mesh("cpu", (2,))
    offloaded = fully(offload_policy=CPUOffloadPolicy(pin_memory=False))
    require("CPUOffloadPolicy" in why_not_spread(offloaded), why_not_spread(offloaded))
    with contextlib.suppress(ProbeRefusedError):
        foreshock.sharpness(offloaded, loss_fn, data(8))
        raise RuntimeError("offloaded parameters were measured")
    model = Network()
    fully_shard(model.first, mesh=mesh)
    fully_shard(model.second, mesh=init_device_mesh("cpu", (1, 2), mesh_dim_names=("a", "b"))["a"])
    require("other processes" in why_not_spread(model), why_not_spread(model))
    model = fully()
    matrices = [one for one in model.parameters() if one.ndim == 2]
    optimizer = torch.optim.Muon(matrices, lr=0.01)
    loss_fn(model, data(8)).backward()
    try:
        read_preconditioner(optimizer)
    except ProbeRefusedError as error:
        require("Muon" in str(error) and "AdamW" in str(error), str(error))
    else:
        raise RuntimeError("Muon was read")


def faults(rank, folder, seed=0):
    """Random faults: never a hang, never other weights, whatever fails where."""
    draw, common = random.Random(1000 * seed + rank), random.Random(seed)
    constant, every = common.random() < 0.5, common.choice([2, 5])
    chance = common.choice([0.02, 0.1, 0.3])

    def faulty(model, batch):
        kind = draw.choice(["raise", "memory", "nan", "collective"]) if draw.random() < chance else ""
        if kind == "raise":
            raise ValueError("a fault")
        if kind == "memory":
            raise torch.OutOfMemoryError("a fault")
        if kind == "collective":
            torch.distributed.all_reduce(torch.ones(1))
        value = loss_fn(model, batch)
        return value * torch.nan if kind == "nan" else value

    plain, _ = trained(fully, rank, constant=constant, steps=18)
    own = folder / f"seed{seed}"
    options = {"constant": constant, "steps": 18, "probe_every": every, "loss": faulty}
    same(plain, trained(fully, rank, own, **options)[0], f"seed {seed}")
    log = read_run(own, rank=rank).records
    alike([(one["step"], one["stability_ratio"]) for one in log["curvature"]], f"seed {seed}: curvature")
    alike([(one["step"], one["mean"]) for one in log["noise"]], f"seed {seed}: noise")


def asleep(rank, folder):
    """A process that sleeps in a probe for longer than the others wait: they go on, and so does training."""
    calls = []

    def sleeping(model, batch):
        calls.append(1)
        if rank == 1 and len(calls) == 3:
            time.sleep(3.0)
        return loss_fn(model, batch)

    plain, _ = trained(fully, rank)
    with mock.patch("foreshock.distributed.peers._LONGEST_WAIT", dt.timedelta(seconds=1)):
        ended, _ = trained(fully, rank, folder, loss=sleeping, probe_every=5)
    require(len(calls) >= 3, "nobody slept")
    same(plain, ended, "asleep")
    events = read_run(folder, rank=rank).records["event"]
    require("probe failed" in [one["name"] for one in events], f"{events}")
    require("local batch" in [one["name"] for one in events], f"{events}")


def killed(rank, folder, *, measured=False):
    """A process that is killed in a probe, or in what a guard measures: the other one's training says so."""
    calls = []

    def killing(model, batch):
        calls.append(1)
        if rank == 1 and len(calls) == 3:
            os.kill(os.getpid(), 9)
        return loss_fn(model, batch)

    run = Training(fully(), parts=mine(rank))
    guard = foreshock.guard(run.optimizer, MeanSquare()) if measured else None
    options = {"run": folder, "probe_every": 2}
    monitor = None if measured else foreshock.Monitor(run.model, run.optimizer, killing, **options)
    began = time.monotonic()
    try:
        run.run(monitor=monitor, guard=guard, loss=killing)
    except RuntimeError:  # of a collective of FSDP2
        log = {"event": []} if measured else read_run(folder, rank=rank).records
        known = len(calls) > 2 if measured else "probe failed" in [one["name"] for one in log["event"]]
        if time.monotonic() - began < TIMEOUT and known:
            os._exit(7)
    raise RuntimeError("the other process did not end as it would without a monitor")


def killed_in_measure(rank, folder):
    killed(rank, folder, measured=True)


def several_faults(rank, folder, count=2):
    for seed in range(count):
        faults(rank, folder, seed)


def on_four(rank, folder):
    """FSDP2 with tensor parallelism, and FSDP2 on a mesh that replicates and shards."""
    agree(both, pair(rank), name="both")
    batch = data(16)
    expected = foreshock.sharpness(Network(), loss_fn, batch, stop=ONE_CALL).value
    found = foreshock.sharpness(replicated(), loss_fn, tuple(one[mine(rank)] for one in batch), stop=ONE_CALL)
    close(found.value, expected, 1e-6, "replicated")
    watched(rank, folder, {"both": (both, {"probe_every": 10})}, pair(rank))
    watched(rank, folder, {"replicated": (replicated, {"probe_every": 10})})
    in_shards = {"probe_every": 10, "hvp": "difference", "steps": 12}
    watched(rank, folder, {"both in shards": (both, in_shards)}, pair(rank))
    raises(rank, folder / "raises", both, pair(rank))


def pair(rank):
    """Half of the batch: processes 0 and 1 share a model by tensor parallelism, and so do 2 and 3."""
    return slice(8 * (rank // 2), 8 * (rank // 2) + 8)


def resumed_by_others(rank, folder):
    """A checkpoint of two processes goes on in one, and the other way round."""
    resumed(rank, folder, fully, Network, mine(rank))


def sizes(rank, folder):
    """In worlds of two, four and two processes in turn: a checkpoint of each goes on in the other."""
    of_another_size(rank, folder, fully, Network, mine(rank))


def uneven(rank, folder):
    """Batches of ten and six in training: what probes and a guard measure is weighted by examples."""
    parts = mine(rank, uneven=True)
    run, whole = Training(fully(), parts=parts), Training(Network())
    folders = [folder, folder / f"alone {rank}"]
    options = {"probe_every": 10, "full_batch": True, "hvp": "difference"}
    pairs = zip((run, whole), folders, strict=True)
    monitors = [foreshock.Monitor(a.model, a.optimizer, loss_fn, run=b, **options) for a, b in pairs]
    step_unevenly(run, whole, parts, steps=12, monitors=monitors)
    log, alone = (read_run(one, rank=rank if one is folders[0] else None).records for one in folders)
    [found] = log["curvature"]
    [expected] = [one for one in alone["curvature"] if one["step"] == found["step"]]
    for name in RATIOS[1:]:  # λ_max itself is known to a percent or two
        close(found[name], expected[name], 1e-5, f"{name} of step {found['step']}")
    for found, expected in zip(log["step"][:11], alone["step"][:11], strict=True):
        close(found["loss"], expected["loss"], 1e-6, f"loss of step {found['step']}")
    run, whole = Training(noisy_network(), parts=parts, rate=0.3), Training(network(), rate=0.3)
    guards = [foreshock.guard(one.optimizer, MeanSquare()) for one in (run, whole)]
    step_unevenly(run, whole, parts, steps=40, guards=guards)
    found, expected = (one.mean_square_ratio for one in guards)
    require(found > 0, f"the guard measured {found}")
    close(found, expected, 1e-6, "mean-square ratio of a guard")


def step_unevenly(run, whole, parts, *, steps, monitors=(), guards=()):
    """Train both in the same way: FSDP2 takes the mean of means, whatever the numbers of examples."""
    for step in range(steps):
        batch = run.whole if monitors else run.batches[step % len(run.batches)]
        own = tuple(one[parts] for one in batch)
        several = [tuple(one[k] for one in batch) for k in (slice(0, 10), slice(10, 16))]
        for one in (run, whole):
            one.optimizer.zero_grad()
        loss = loss_fn(run.model, own)
        loss.backward()
        (sum(loss_fn(whole.model, one) for one in several) / 2).backward()
        if monitors:
            monitors[0].observe(own, loss)
            monitors[1].observe(batch, loss_fn(whole.model, batch).detach())
        if guards:
            guards[0].measure(run.model, loss_fn, own, every=2)
            halves = [half for one in several for half in split_batch(one).batches]
            counts = [half[0].shape[0] for half in halves]
            with mock.patch("foreshock.guarding.pair_prober.several_processes", return_value=False):
                quarters = foreshock.MicroBatches(halves, counts=counts)
                guards[1].measure(whole.model, loss_fn, quarters, every=2)
        run.optimizer.step()
        whole.optimizer.step()
    for one in monitors:
        one.close()


SCENARIOS = (
    exact,
    uneven,
    layerwise,
    beside,
    watched,
    guarded,
    raises,
    asleep,
    called_apart,
    refused,
    resumed_by_others,
    several_faults,
)
APART = (killed, killed_in_measure)


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
    chosen = {"all": SCENARIOS, "four": (on_four,), "sizes": (sizes,)}.get(name)
    for scenario in chosen or [one for one in (*SCENARIOS, *APART) if one.__name__ == name]:
        if not rank:
            sys.stderr.write(
                f"scenario {scenario.__name__} after {time.process_time():.0f} s of processor time\n"
            )
        own = Path(folder) / "logs" / scenario.__name__
        own.mkdir(parents=True, exist_ok=True)
        scenario(rank, own, **({} if count is None else {"count": count}))
        gc.collect()
        torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    folder, name, *rest = sys.argv[1:]
    processes = int(rest[0]) if rest else 2
    count = int(rest[1]) if len(rest) > 1 else None
    if name in [one.__name__ for one in APART]:
        start_apart(check, folder, name)
    if name != "sizes":
        start(check, (folder, name, processes, count), processes)
    # In the same start of Python, which takes as long as one of these worlds.
    for world in (2, 4, 2) if name in ("four", "sizes") else ():
        Path(folder, "meeting").unlink(missing_ok=True)
        start(check, (folder, "sizes", world, count), world)
