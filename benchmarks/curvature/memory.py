"""Peak memory of one probe, in a process of its own.

The peak of the resident set is the kernel's (``VmHWM``), reset through ``/proc/self/clear_refs``: it contains
numpy's and ARPACK's memory, which an account of torch's tensors misses. glibc is told to give freed blocks
back at once, so that an earlier peak does not hide a later one. Linux only.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from benchmarks.curvature import cases
from benchmarks.curvature.measure import Row
from benchmarks.curvature.methods import methods
from benchmarks.curvature.ours import Outcome
from benchmarks.curvature.selection import Setting
from torch.nn.attention import SDPBackend, sdpa_kernel

STEPS = 3
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}


def measure_memory(case: str, method: str, setting: Setting, preconditioned: bool) -> Row:  # noqa: FBT001
    """Start a process that runs one probe, and return its peaks above the trained model, in MiB.

    Args:
        case: Name of the case.
        method: Name of the method.
        setting: Its setting.
        preconditioned: Which operator.
    """
    if not Path("/proc/self/clear_refs").exists():
        return {"case": case, "method": method, "failure": "needs Linux"}
    request = json.dumps([case, method, setting, preconditioned])
    done = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-W", "ignore", "-m", "benchmarks.curvature.memory", request],
        env={**os.environ, **_ALLOCATOR},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return {"case": case, "method": method, "failure": reason[0][:200]}
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def _peaks(case_name: str, method_name: str, setting: Setting, preconditioned: bool) -> Row:  # noqa: FBT001
    torch.set_num_threads(1)
    case = cases.CASES[case_name]
    method = next(method for method in methods() if method.name == method_name)
    problem = cases.start(case)
    for _ in range(STEPS):
        problem.optimizer.zero_grad()
        problem.loss().backward()  # type: ignore[no-untyped-call]
        problem.optimizer.step()
    problem = cases.Problem(
        problem.model, problem.criterion, problem.batch, problem.optimizer, preconditioned
    )
    # Imports and first calls bring memory that stays; only what a second call needs is counted. It is also
    # the one that has a last vector to start from.
    unit = min(_peak(lambda: torch.autograd.grad(problem.loss(), problem.parameters)) for _ in range(2))
    found: Outcome | None = None

    def probe() -> None:
        nonlocal found
        with sdpa_kernel(SDPBackend.MATH):
            operator = method.open(problem, setting)
            start = found.vector if method.warm and found is not None else None
            found = method.solve(operator, setting, start, seed=0)

    def peak() -> float:
        problem.optimizer.zero_grad()
        problem.loss().backward()  # type: ignore[no-untyped-call]
        return _peak(probe)

    peaks = [peak() for _ in range(2)]
    return {
        "case": case_name,
        "operator": "preconditioned" if preconditioned else "raw",
        "tool": method.tool,
        "method": method_name,
        "setting": setting,
        "products": 0 if found is None else found.products,
        "unit_mib": round(unit, 1),
        "peak_mib": round(peaks[-1], 1),
        "parameters_mib": round(problem.size * 4 / 2**20, 1),
        "failure": "",
    }


def _peak(call) -> float:  # type: ignore[no-untyped-def]  # noqa: ANN001
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    result = call()
    peak = _resident("VmHWM") - before
    del result
    return peak


def _resident(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_peaks(*json.loads(sys.argv[1]))) + "\n")
