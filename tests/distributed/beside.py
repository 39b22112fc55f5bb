"""What stands beside parameters that ``fully_shard`` shares: others, and gradients that accumulate."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

sys.path.insert(0, str(Path(__file__).parents[1]))

import foreshock
from distributed.processes import alike, close, data, loss_fn, mine, require
from foreshock.curvature import Prober
from foreshock.curvature.form import spread_over
from foreshock.distributed import why_no_passes
from foreshock.eigen import StoppingRule
from foreshock.preconditioner import read_preconditioner
from foreshock.runlog import read_run

NEAR = StoppingRule(relative_tolerance=5e-4, far_tolerance=5e-4, threshold=1.0, max_products=14)


class Beside(nn.Module):
    """Layers to share, one that each process has as a whole, a scalar, which can't be shared, one unused."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 4)
        self.norm, self.whole = nn.BatchNorm1d(4), nn.Linear(4, 1)
        self.scale, self.unused = nn.Parameter(torch.tensor(1.5)), nn.Linear(3, 3)
        self.double()

    def forward(self, inputs):
        return self.whole(self.norm(self.second(self.first(inputs).tanh())).tanh()) * self.scale


def beside():
    model, mesh = Beside(), init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    for part in (model.first, model.second):
        fully_shard(part, mesh=mesh)
    return model


def add_up(model):
    """The mean gradient of what FSDP2 does not manage, as a user takes it."""
    for one in model.parameters():
        if one.grad is not None and not hasattr(one, "to_local"):
            torch.distributed.all_reduce(one.grad)
            one.grad /= torch.distributed.get_world_size()


def trained(model, batch, steps=3):
    """Train, and stand before the next step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(steps + 1):
        optimizer.zero_grad()
        loss_fn(model, batch).backward()
        add_up(model)
        if step < steps:
            optimizer.step()
    return optimizer


def unmanaged(rank, meeting):
    """What shards say of a model that is shared in part is what whole parameters do."""
    model, batch = beside(), tuple(one[mine(rank)] for one in data(16))
    optimizer = trained(model, batch)
    found = {}
    for hvp in ("exact", "difference"):
        step = read_preconditioner(optimizer)
        with meeting(model, step.parameters, f"beside {hvp}", 0.5) as joint:
            prober, spread = Prober(model, loss_fn, hvp=hvp), spread_over(step, joint)
            with joint:
                reading = prober.probe(batch, spread, step=1, stop=NEAR, joint=joint)
            with joint:
                noise = prober.probe_noise(batch, spread, step=1, joint=joint)
            found[hvp] = reading, noise
            if hvp == "difference":
                refuses_other_counts(rank, model, batch, spread, joint)
    (one, its_noise), (other, other_noise) = found["difference"], found["exact"]
    require("shards" in one.backend and other.backend == "double backward", f"{one} and {other}")
    for name in ("stability_ratio", "gradient_stability_ratio", "predicted_loss_change"):
        close(getattr(one, name), getattr(other, name), 1e-3, f"beside: {name}")
    close(its_noise.mean, other_noise.mean, 1e-6, "beside: noise")
    model.whole.weight.register_post_accumulate_grad_hook(lambda _: None)
    require("hvp='exact'" in why_no_passes(model), "a hook beside shards was not seen")


def refuses_other_counts(rank, model, batch, spread, joint):
    """Passes of unequal numbers of micro-batches come apart; each process is told why."""
    counts = 2 + rank
    parts = foreshock.MicroBatches([tuple(one[k::counts] for one in batch) for k in range(counts)])
    try:
        with joint:
            Prober(model, loss_fn, hvp="difference").probe(parts, spread, step=1, joint=joint)
    except ValueError as error:
        require(f"{counts} micro-batches" in str(error), str(error))
    else:
        raise RuntimeError("unequal numbers of micro-batches were measured")


def in_flight(rank, folder, make, shards):
    """A rank fails in a probe while gradients accumulate, parameters are gathered, a loss has its graph."""
    runs = {"plain": (None, ""), "shards": (folder, "difference"), "whole": (folder / "whole", "exact")}
    ended = {name: accumulating(rank, *one, make, shards) for name, one in runs.items()}
    for name in ("shards", "whole"):
        pairs = zip(ended["plain"], ended[name], strict=True)
        require(all(torch.equal(a, b) for a, b in pairs), f"in flight: bits differ, {name}")
    log = read_run(folder, rank=rank).records
    alike([(one["step"], one["stability_ratio"]) for one in log["curvature"]], "in flight: readings")
    failed = [one["step"] for one in log["event"] if one["name"] == "probe failed"]
    require(log["curvature"] and failed, f"in flight: {log['curvature']}, {log['event']}")
    whole = {one["step"]: one for one in read_run(folder / "whole", rank=rank).records["curvature"]}
    for one in log["curvature"]:
        name = "stability_ratio"  # known to two percent
        close(one[name], whole[one["step"]][name], 0.03, f"in flight: {name}")


def accumulating(rank, folder, hvp, make, shards):
    model, calls = make(), []
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=0.01)
    batch = tuple(one[mine(rank)] for one in data(16))

    def failing(model, batch):
        calls.append(1)
        value = loss_fn(model, batch)
        if rank and len(calls) == 2 and hvp == "difference":
            value.register_hook(lambda _: 1 / 0)
        return value

    monitor = None
    if folder is not None:
        options = {"run": folder, "probe_every": 2, "hvp": hvp}
        monitor = foreshock.Monitor(model, optimizer, failing, **options)
    for step in range(8):
        optimizer.zero_grad(set_to_none=False)
        model.set_requires_gradient_sync(False)
        model.set_reshard_after_backward(False)
        value = loss_fn(model, batch)
        value.backward()
        if monitor is not None and step % 4 == 0:  # all is gathered
            monitor.observe(batch, value)
        value = loss_fn(model, batch)
        if monitor is not None and step % 4:
            monitor.observe(batch, value)
        model.set_requires_gradient_sync(True)
        model.set_reshard_after_backward(True)
        value.backward()
        optimizer.step()
    if monitor is not None:
        monitor.close()
    return shards(model, optimizer)


def differences_of_columns(rank, meeting, make):
    """Under tensor parallelism alone two step sizes are compared over all processes, with one result."""
    model, batch = make(), data(16)
    optimizer = trained(model, batch)
    step = read_preconditioner(optimizer)
    with meeting(model, step.parameters, "columns", 1.0) as joint, joint:
        prober = Prober(model, loss_fn, hvp="difference")
        prober.probe(batch, spread_over(step, joint), step=1, stop=NEAR, joint=joint)
    alike(prober.backend.discrepancy, "columns: discrepancy")
    require(prober.backend.discrepancy < 1e-6, f"columns: {prober.backend}")
