"""Measure what watching a training costs, and keep the figures as JSON.

Run from the root of the repository::

    python -m benchmarks.overhead.run
    python -m benchmarks.overhead.table benchmarks/overhead/results/full.json docs/benchmarks/overhead.md

A configuration that was measured before with the same code is not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benchmarks.curvature.run import machine
from benchmarks.overhead.cases import CASES, Case
from benchmarks.overhead.measure import CLOCKS, alternate
from benchmarks.overhead.summary import COLD, LONG_RUN, summarize
from benchmarks.overhead.watchers import OURS, Watcher, watchers

from benchmarks import host_reads
from foreshock.lab.guardbench.run import code_hash
from foreshock.lab.jobs import write_json

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results"
HARNESS = tuple(f"benchmarks.overhead.{name}" for name in ("cases", "measure", "summary", "watchers"))
PRODUCT = tuple(
    f"foreshock.{name}"
    for name in (
        "monitor",
        "guarding",
        "recorder",
        "runlog",
        "forecast",
        "curvature",
        "eigen",
        "operators",
        "preconditioner",
        "dynamics",
        "batches",
        "isolation",
        "vectors",
    )
)


class Configuration(NamedTuple):
    """What is measured in one go."""

    case: Case
    full_batch: bool
    watcher: Watcher
    steps: int

    @property
    def key(self) -> Row:
        """What tells it from others, in the file of results."""
        return {
            "case": self.case.name,
            "data": "full batch" if self.full_batch else "mini-batches",
            "watcher": self.watcher.name,
            "code": _code(self.watcher),
            "asked": self.steps,
        }


def main() -> None:
    """Measure what is missing, and write after each configuration."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--suite",
        choices=("full", "quick"),
        default="full",
        help="quick: few steps, and not the largest model",
    )
    parser.add_argument("--quick", action="store_const", const="quick", dest="suite", help="--suite quick")
    parser.add_argument("--case", choices=CASES, action="append", help="only this one; may be repeated")
    parser.add_argument(
        "--out", type=Path, help="JSON file; benchmarks/overhead/results/SUITE.json if not given"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    target = options.out or RESULTS / f"{options.suite}.json"
    wanted = list(configurations(quick=options.suite == "quick", cases=options.case or list(CASES)))
    known: Row = json.loads(target.read_text("utf-8")) if target.exists() else {}
    present = machine(("foreshock", "torch", "numpy", "trainscope"))
    # Figures of two machines are not to be compared.
    if known.get("machine", present)["processor"] != present["processor"]:
        known = {}
    record: Row = {
        "suite": options.suite,
        "long_run": LONG_RUN,
        "cold": COLD,
        "machine": present,
        "minutes": known.get("minutes", 0.0),
        "host_reads": host_reads.measure(),
        "rows": _still_valid(known.get("rows", []), options.case),
    }
    for number, configuration in enumerate(wanted, 1):
        if any(row.items() >= configuration.key.items() for row in record["rows"]):
            continue
        began = time.perf_counter()
        if not configuration.watcher.is_installed:
            sys.stderr.write(
                f"{configuration.watcher.name}: not installed; make bench-overhead installs it\n"
            )
            continue
        record["rows"].append(measure(configuration))
        seconds = time.perf_counter() - began
        record["minutes"] += seconds / 60
        write_json(record, target)
        key = configuration.key
        sys.stderr.write(
            f"{number:3d}/{len(wanted)} {seconds:5.1f} s  {key['case']}, {key['data']}, {key['watcher']}\n"
        )
    write_json(record, target)


def configurations(*, quick: bool, cases: list[str]) -> Iterator[Configuration]:
    """Yield what a suite measures, small models first.

    Args:
        quick: Whether to take few steps.
        cases: Names of the cases.
    """
    for case in CASES.values():
        steps = case.quick_steps if quick else case.steps
        if case.name in cases and steps:
            for full_batch in (True, False):
                for watcher in watchers():
                    yield Configuration(case, full_batch, watcher, steps)


def measure(configuration: Configuration) -> Row:
    """Return the row of a configuration.

    Args:
        configuration: What to measure.
    """
    case, watcher = configuration.case, configuration.watcher
    with tempfile.TemporaryDirectory() as folder:
        timings = alternate(
            case, watcher, Path(folder), full_batch=configuration.full_batch, steps=configuration.steps
        )
    clocks = {clock: summarize(timings[clock], budget=watcher.budget) for clock in CLOCKS}
    parameters = sum(parameter.numel() for parameter in case.model().parameters())
    return (
        configuration.key
        | {"budget": watcher.budget, "package": watcher.package, "parameters": parameters}
        | clocks
    )


@cache
def _code(watcher: Watcher) -> str:
    harness = code_hash(HARNESS)
    if watcher.package == OURS:
        return f"{harness}-{code_hash(PRODUCT)}"
    return f"{harness}-{version(watcher.package) if watcher.is_installed else 'missing'}"


def _still_valid(rows: list[Row], cases: list[str] | None) -> list[Row]:
    """Return the rows of the present code, and those of cases that are not asked for."""
    present = {watcher.name: _code(watcher) for watcher in watchers()}
    return [
        row
        for row in rows
        if row["code"] == present.get(row["watcher"]) or (cases is not None and row["case"] not in cases)
    ]


if __name__ == "__main__":
    main()
