"""The example of a small GPT in two processes, in all of its modes from one start; run as a script."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import gpt_distributed


def train(rank, folder):
    torch.set_num_threads(1)
    os.chdir(folder)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    for place, mode in enumerate(("ddp", "fsdp2", "fsdp2-tp")):
        os.environ["MASTER_PORT"] = str(int(sys.argv[2]) + place)
        gpt_distributed.main(mode, steps=13)


if __name__ == "__main__":
    torch.multiprocessing.start_processes(train, (sys.argv[1],), nprocs=2, start_method="fork")
