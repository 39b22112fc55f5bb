"""Damage files in many ways and read each as the commands do: ``python -m benchmarks.fuzz``.

A case is a run log; every fourth case is a checkpoint besides. A seed that fails is one call:
``LogReader(folder).case(seed)``.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import logging
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from benchmarks.fuzz.readers import LARGEST_PAGE, CheckpointReader, LogReader
from benchmarks.reliability.page import keep

CHECKPOINTS = 4
"""Every so many cases one is a checkpoint, too."""


def main() -> int:
    """Run the cases; return 1 if any file was read in another way than promised."""
    options = _options()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("foreshock").setLevel(logging.CRITICAL)
    record = run(options.cases, options.seed)
    print(json.dumps(record, indent=2))
    if options.publish:
        keep("fuzz", record)
    return int(record["faults"] > 0)


def run(cases: int, seed: int) -> dict[str, Any]:
    """Return what came of so many cases.

    Args:
        cases: How many logs.
        seed: Seed of the first; the others follow.
    """
    began = time.process_time()
    faults: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        logs, checkpoints = LogReader(folder), CheckpointReader(folder)
        for number in range(seed, seed + cases):
            for reader in (logs, checkpoints)[: 1 + (number % CHECKPOINTS == 0)]:
                try:
                    reader.case(number)
                except Exception as error:  # noqa: BLE001 - is what the harness looks for
                    faults[type(reader).__name__] += 1
                    print(f"{type(reader).__name__} {number}: {type(error).__name__}: {error}", flush=True)
    return {
        "cases": cases,
        "seed": seed,
        **logs.counts,
        **checkpoints.counts,
        "faults": faults.total(),
        "largest page": logs.largest,
        "bound on pages": LARGEST_PAGE,
        "seconds": round(time.process_time() - began),
        "torch": torch.__version__,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=2000, help="how many logs, and checkpoints by the way")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first case; the others follow")
    parser.add_argument("--publish", action="store_true", help="keep the counts for docs/reliability.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
