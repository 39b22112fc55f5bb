"""Two processes that train one model under a guard; run as a script, it fails where they differ.

Data parallelism: the same gradients, hence the same actions. FSDP2: each has shards, sums are added up.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import torch
from torch import optim
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[1]))

from foreshock.guarding import Secant, guard
from guarding.training import Script, asked, data, network, train

PROCESSES, STEPS = 2, 60
SCRIPT = {12: asked("raise along", 1.6), 20: asked("raise all", 1.3), 25: asked("clip", 0.5)}
SPIKING = {"lr": 0.05, "betas": (0.9, 0.98)}


def policies():
    return Script(SCRIPT, needs=("secant", "norm", "preconditioned gradient")), Secant(threshold=0.01)


def trained(model, batch, policy, *, measure=None):
    optimizer = optim.AdamW(model.parameters(), **SPIKING)
    watched = guard(optimizer, policy)
    losses = train(
        model, optimizer, batch, STEPS, before=None if measure is None else lambda: measure(watched)
    )
    return losses, watched


def seen(watched):
    return [(one.step, one.secant, one.squared_gradient) for one in getattr(watched.policy, "seen", [])]


def alike(own, what):
    """Fail unless every process has the same object."""
    everyones = [None] * PROCESSES
    torch.distributed.all_gather_object(everyones, own)
    if not all(other == everyones[0] for other in everyones):
        raise RuntimeError(f"{what} differ between processes: {everyones}")


def close(one, other, what):
    torch.testing.assert_close(
        torch.tensor(one), torch.tensor(other), rtol=1e-7, atol=1e-10, equal_nan=True, msg=what
    )


def same_actions(own, whole, what):
    if not whole.actions:
        raise RuntimeError(f"{what}: the guard never acted, so that nothing was tested")
    pairs = [[(a.step, a.remedy) for a in one.actions] for one in (own, whole)]
    if pairs[0] != pairs[1]:
        raise RuntimeError(f"{what}: actions differ from those of one process: {pairs}")
    close([a.factor for a in own.actions], [a.factor for a in whole.actions], what)


def check(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES
    )
    batch = data(dtype=torch.float64)
    mine = tuple(part[8 * rank : 8 * rank + 8] for part in batch)
    for policy in policies():
        compare(policy, batch, mine)
    pieces(rank)
    growing_pieces(rank)
    # What the models hold of the group has to go before it, and no process before the others are done.
    gc.collect()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def compare(policy, batch, mine):
    """Train alone, in parallel and with shards."""
    _, whole = trained(network(dtype=torch.float64), batch, policy)
    _, parallel = trained(DistributedDataParallel(network(dtype=torch.float64)), mine, policy)
    same_actions(parallel, whole, "data parallel")
    alike([vars(action) for action in parallel.actions], "actions")
    model = network(dtype=torch.float64)
    mesh = init_device_mesh("cpu", (PROCESSES,))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    _, sharded = trained(model, mine, policy)
    same_actions(sharded, whole, "sharded")
    alike([vars(action) for action in sharded.actions], "actions")
    for one, other in zip(seen(sharded), seen(whole), strict=True):
        close(one, other, "signals of shards")


def pieces(rank):
    """Plain tensors that are parts: what one process measures together, another does one by one."""
    torch.manual_seed(0)
    first, second = (torch.nn.Parameter(0.1 * torch.randn(size)) for size in ((1000, 70_000)[rank], 50))
    script = Script({16: asked("raise along", 1.5)})
    optimizer = optim.Adam([first, second], lr=0.05)
    watched = guard(optimizer, script, group=torch.distributed.group.WORLD)
    for step in range(20):
        optimizer.zero_grad()
        loss = (100 * first).square().sum()
        if step not in (14, 15, 16):
            loss = loss + (30 * second).square().sum()
        loss.backward()
        optimizer.step()
    if watched.summary().notes or watched.summary().acted != 1:
        raise RuntimeError(f"parts: {watched.summary()}")
    alike([(one.step, str(one.secant)) for one in watched.policy.seen], "signals of parts")


def growing_pieces(rank):
    """Where one process has nothing of the first group, it sees the growth by another momentum."""
    first, second = (torch.nn.Parameter(torch.zeros(size)) for size in (4, 5))
    groups = [{"params": [first], "betas": (0.5, 0.99)}, {"params": [second], "betas": (0.95, 0.99)}]
    script = Script(needs=("secant",))
    watched = guard(optim.Adam(groups, lr=1e-6), script, group=torch.distributed.group.WORLD)
    for step in range(8):
        second.grad = torch.full((5,), (-1.8) ** step)
        first.grad = torch.full((4,), 1.8**step) if rank else None
        watched.optimizer.step()
    if not watched.policy.seen[-1].grown_ratio > 1:
        raise RuntimeError(f"nothing grew: {watched.policy.seen[-1]}")
    # Five coordinates of each process turn round, four of one do not.
    if not abs(watched.policy.seen[-1].with_last - (4 - 5 - 5) / 14) < 1e-6:
        raise RuntimeError(f"the gradients of all count: {watched.policy.seen[-1]}")
    alike([str(one) for one in watched.policy.seen], "signals of growth")


if __name__ == "__main__":
    torch.multiprocessing.spawn(check, (sys.argv[1],), nprocs=PROCESSES)
