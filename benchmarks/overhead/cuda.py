"""Time what watching costs on a GPU, and keep the figures as JSON.

Run from the root of the repository, on a machine with a GPU::

    python -m benchmarks.overhead.cuda

Blocks of steps of the plain training and of a watched copy take turns; the device is waited for at the end of
each block only, so that what a step queues may run behind the next one, as in a user's loop.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from benchmarks.curvature.cases import Gpt
from torch import Tensor, nn
from torch.nn import functional

import foreshock
from foreshock.lab.jobs import write_json

RESULTS = Path(__file__).parent / "results" / "cuda.json"
SIZES = {"gpt-11M": (384, 6, 32), "gpt-85M": (768, 12, 64)}
"""By name: width, layers, and sequences of a batch, of 256 bytes each."""

BUDGETS = (0.0, 0.02, 0.05)
_LENGTH = 256
_BLOCK = 50


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=600, help="watched steps of each configuration")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file")
    arguments = parser.parse_args()
    rows = []
    for name in SIZES:
        for budget in BUDGETS:
            for mini in (False, True):
                rows.append(measure(name, budget, mini=mini, steps=arguments.steps))
                sys.stderr.write(f"{rows[-1]}\n")
    machine = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    write_json({"machine": machine, "rows": rows}, arguments.out)


def measure(name: str, budget: float, *, mini: bool, steps: int) -> dict[str, Any]:
    """Return what watching adds to a step, after the opening and with it.

    Args:
        name: Of the model.
        budget: Of the monitor.
        mini: Whether each step sees another batch.
        steps: Watched steps.
    """
    width, layers, size = SIZES[name]
    torch.manual_seed(0)
    model = Gpt(width=width, layers=layers, heads=6, length=_LENGTH).cuda()
    batches = [torch.randint(256, (size, _LENGTH + 1), device="cuda") for _ in range(16 if mini else 1)]
    pairs = [(one[:, :-1].contiguous(), one[:, 1:].contiguous()) for one in batches]
    twin = copy.deepcopy(model)
    plain = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    watched = torch.optim.AdamW(twin.parameters(), lr=3e-4, fused=True)
    with foreshock.Monitor(twin, watched, _loss, budget=budget) as monitor:
        seconds: dict[bool, list[float]] = {False: [], True: []}
        _block(model, plain, pairs, 0, None, 20)
        for first in range(0, steps, _BLOCK):
            for watching in (False, True) if first % (2 * _BLOCK) else (True, False):
                sides = (twin, watched) if watching else (model, plain)
                seconds[watching].append(_block(*sides, pairs, first, monitor if watching else None, _BLOCK))
    step = statistics.median(seconds[False])
    total = sum(seconds[True]) / sum(seconds[False]) - 1
    later = sum(seconds[True][2:]) / sum(seconds[False][2:]) - 1
    return {
        "case": name,
        "data": "mini-batches" if mini else "full batch",
        "budget": budget,
        "step_ms": 1e3 * step,
        "total": total,
        "steady": later,
        "steps": steps,
    }


def _loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    with torch.autocast("cuda", dtype=torch.bfloat16):
        logits = model(batch[0])
    return functional.cross_entropy(logits.float(), batch[1].flatten())


def _block(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: list[tuple[Tensor, Tensor]],
    first: int,
    monitor: foreshock.Monitor | None,
    count: int,
) -> float:
    """Return the seconds of a step."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    for step in range(first, first + count):
        batch = batches[step % len(batches)]
        optimizer.zero_grad()
        loss = _loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        if monitor is not None:
            monitor.observe(batch, loss)
        optimizer.step()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / count


if __name__ == "__main__":
    main()
