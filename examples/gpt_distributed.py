"""Train a small GPT in several processes under a monitor: DDP, FSDP2, or FSDP2 with tensor parallelism.

torchrun --nproc-per-node 2 examples/gpt_distributed.py --mode ddp|fsdp2|fsdp2-tp
python examples/gpt_distributed.py starts that with fsdp2.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.run import main as torchrun
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import foreshock

COLUMNS, ROWS = ("query", "key", "value", "up"), ("out", "down")
CONTEXT, WIDTH, HEADS, BATCH = 32, 64, 4, 16  # BATCH is that of all processes together


class Block(nn.Module):
    """Attention and a perceptron."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        """Return the next hidden states; a process may have some of the heads only, hence -1."""
        h = self.norms[0](x)
        heads = (one(h).unflatten(-1, (-1, WIDTH // HEADS)) for one in (self.query, self.key, self.value))
        query, key, value = (one.transpose(1, 2) for one in heads)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))


def loss_fn(model, batch):
    """Return the mean loss of the next bytes."""
    return nn.functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def spread(model, mode, device):
    """Return the model for this mode, which part of the batch this process has, and of how many."""
    world = distributed.get_world_size()
    if mode == "ddp":
        return nn.parallel.DistributedDataParallel(model), distributed.get_rank(), world
    shape = (world // 2, 2) if mode == "fsdp2-tp" else (world, 1)
    mesh = init_device_mesh(device, shape, mesh_dim_names=("data", "tensor"))
    plan = dict.fromkeys(COLUMNS, ColwiseParallel()) | dict.fromkeys(ROWS, RowwiseParallel())
    for part in (*model[1], model):
        if mode == "fsdp2-tp" and part is not model:
            parallelize_module(part, mesh["tensor"], plan)
        fully_shard(part, mesh=mesh["data"])
    return model, mesh["data"].get_local_rank(), shape[0]


def main(mode, steps=60):
    """Train, and print what was measured."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    torch.manual_seed(0)  # the same model in every process
    gpt = nn.Sequential(nn.Embedding(256, WIDTH), nn.Sequential(Block(), Block()), nn.Linear(WIDTH, 256))
    model, part, parts = spread(gpt.to(device), mode, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    monitor = foreshock.Monitor(model, optimizer, loss_fn, run=f"runs/{mode}", probe_every=20)  # in each
    text, draw = Path(__file__).read_bytes(), torch.Generator().manual_seed(1)
    for _ in range(steps):
        places = torch.randint(len(text) - CONTEXT - 1, (BATCH,), generator=draw).tolist()
        rows = torch.tensor([list(text[one : one + CONTEXT + 1]) for one in places], device=device)
        rows = rows.chunk(parts)[part]  # those that share layers by tensor parallelism have the same rows
        batch = rows[:, :-1], rows[:, 1:]
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        forecast = monitor.observe(batch, loss)  # at every step of every process
        optimizer.step()
    monitor.close()
    if distributed.get_rank() == 0:
        found = foreshock.read_run(f"runs/{mode}").records
        print(f"{mode}: {len(found['noise'])} of noise, {len(found['curvature'])} of curvature together")
        print(f"{forecast}\nforeshock report runs/{mode}", flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    if "RANK" not in os.environ:
        sys.exit(torchrun(["--nproc-per-node=2", *sys.argv]))
    main(sys.argv[-1] if "--mode" in sys.argv else "fsdp2")
