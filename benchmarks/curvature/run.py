"""Compare Foreshock's curvature with other tools and keep the figures as JSON.

Run from the root of the repository::

    python -m benchmarks.curvature.run --suite quick
    python -m benchmarks.curvature.table benchmarks/curvature/results/quick.json docs/benchmarks/curvature.md
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from benchmarks.curvature import cases
from benchmarks.curvature.limits import measure_limits
from benchmarks.curvature.measure import TOLERANCE, Limits, Row, measure_case
from benchmarks.curvature.memory import measure_memory
from benchmarks.curvature.methods import Method, methods
from benchmarks.curvature.products import measure_product

PACKAGES = (
    "foreshock",
    "torch",
    "numpy",
    "scipy",
    "pyhessian",
    "curvlinops-for-pytorch",
    "hessian-eigenthings",
    "transformers",
)
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Suite:
    """What is measured.

    Attributes:
        cases: Names of the training runs.
        seconds: Time for one row of a case.
        memory: Names of the cases whose memory is measured.
        widths: (width, layers) of the Transformers whose product is timed.
        tools_up_to: The largest of them, in parameters, on which peers' products are timed too.
        product_seconds: Time for the products of one tool on one model.
    """

    cases: tuple[str, ...]
    seconds: float
    memory: tuple[str, ...]
    widths: tuple[tuple[int, int], ...]
    tools_up_to: int
    product_seconds: float


SUITES = {
    "smoke": Suite(("mlp-9k",), 0.2, (), ((48, 2),), 10**5, 0.2),
    "quick": Suite(
        ("mlp-9k", "cnn-94k", "gpt-237k"), 4.0, ("gpt-1M",), ((48, 2), (128, 5), (320, 8)), 2 * 10**6, 2.0
    ),
    "full": Suite(
        ("mlp-9k", "cnn-94k", "gpt-237k", "gpt-11M"),
        8.0,
        ("gpt-1M", "gpt-11M"),
        ((48, 2), (128, 5), (320, 8), (1024, 8)),
        2 * 10**7,
        8.0,
    ),
}


def main() -> None:
    """Run a suite and write its results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", choices=SUITES, default="quick")
    parser.add_argument(
        "--out", type=Path, help="JSON file; benchmarks/curvature/results/SUITE.json if not given"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    suite = SUITES[options.suite]
    began = time.perf_counter()
    record: dict[str, object] = {"suite": options.suite, "tolerance": TOLERANCE, "machine": machine(PACKAGES)}
    record["limits"] = measure_limits()
    _say(began, "limits")
    rows = _trajectories(suite, began)
    record["trajectories"] = rows
    record["products"] = _products(suite, began)
    record["memory"] = _memory(suite, rows, began)
    record["minutes"] = round((time.perf_counter() - began) / 60, 1)
    target = options.out or RESULTS / f"{options.suite}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    _say(began, f"wrote {target}")


def _trajectories(suite: Suite, began: float) -> list[Row]:
    rows: list[Row] = []
    for name in suite.cases:
        case = cases.CASES[name]
        known = [row for row in rows if row["case"] == case.settings_of] if case.settings_of else None
        rows += measure_case(case, methods(), Limits(seconds=suite.seconds), known)
        _say(began, name)
    return rows


def _products(suite: Suite, began: float) -> list[Row]:
    first: dict[str, Method] = {}
    for method in methods():
        first.setdefault(method.tool, method)
    rows = []
    for width, layers in suite.widths:
        torch.manual_seed(0)
        model = cases.Gpt(width=width, layers=layers)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        problem = cases.Problem(model, torch.nn.CrossEntropyLoss(), cases.text(2), optimizer)
        chosen = [m for tool, m in first.items() if tool == "foreshock" or problem.size <= suite.tools_up_to]
        rows += measure_product(problem, chosen, repeats=9, limit=suite.product_seconds)
        _say(began, f"products of {problem.size} parameters")
    return rows


def _memory(suite: Suite, rows: list[Row], began: float) -> list[Row]:
    found = []
    for name in suite.memory:
        # The quick suite has no trajectory of its memory case: the last one's settings will do.
        source = name if any(row["case"] == name for row in rows) else rows[-1]["case"]
        chosen = [
            row
            for row in rows
            if (row["case"], row["operator"]) == (source, "raw") and row["probes"] and not row["default"]
        ]
        found += [measure_memory(name, row["method"], row["setting"], preconditioned=False) for row in chosen]
        _say(began, f"memory of {name}")
    return found


def machine(packages: Iterable[str]) -> dict[str, object]:
    """Return what a result depends on: processor, threads, versions, the day.

    Args:
        packages: Distributions whose versions are of interest; None stands for those that are missing.
    """
    versions: dict[str, object] = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "processor": _processor(),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "versions": versions,
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _say(began: float, what: str) -> None:
    sys.stderr.write(f"{time.perf_counter() - began:6.0f} s  {what}\n")


if __name__ == "__main__":
    main()
