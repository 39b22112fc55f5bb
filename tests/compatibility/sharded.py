"""Two processes that hold one model together, by FSDP2; run as a script, it fails if a product is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))

from foreshock.isolation import isolated
from foreshock.operators import choose_backend, hessian_operator
from foreshock.vectors import inner_product, local
from oracles import dense_hessian

PROCESSES = 2


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def shards(vector, model, rank):
    """Return what `rank` holds of a vector over the parameters: rows, in equal chunks rounded up."""
    parts, begin = [], 0
    for parameter in model.parameters():
        whole = vector[begin : begin + parameter.numel()].view(parameter.shape)
        begin += parameter.numel()
        chunks = whole.chunk(PROCESSES)
        parts.append(chunks[rank].flatten() if rank < len(chunks) else whole.new_zeros(0))
    return torch.cat(parts)


def check(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES
    )
    model, plain = build(), build()
    mesh = init_device_mesh("cpu", (PROCESSES,))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 2, dtype=torch.float64)
    mine = slice(4 * rank, 4 * rank + 4)
    parameters = list(model.parameters())
    start = [local(parameter).detach().clone() for parameter in parameters]
    dense = dense_hessian(lambda: functional.mse_loss(plain(x), y), list(plain.parameters()))
    vector = torch.randn(dense.shape[0], dtype=torch.float64)
    closure = lambda: functional.mse_loss(model(x[mine]), y[mine])  # noqa: E731
    with isolated(model):
        choice = choose_backend(closure, parameters, model=model)
        with hessian_operator(choice, closure, parameters, model=model) as hessian:
            product = hessian(shards(vector, plain, rank))
    expected = shards(dense @ vector, plain, rank)
    torch.testing.assert_close(product, expected, rtol=1e-7, atol=1e-8)
    curvature = inner_product(shards(vector, plain, rank), product, parameters)
    torch.testing.assert_close(curvature, vector @ dense @ vector, rtol=1e-7, atol=1e-8)
    if not all(torch.equal(local(p), old) for p, old in zip(parameters, start, strict=True)):
        raise RuntimeError("the parameters were not put back")
    if "sharded" not in choice.reason:
        raise RuntimeError(choice.reason)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(check, (sys.argv[1],), nprocs=PROCESSES)
