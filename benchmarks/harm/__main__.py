"""Train many random cases plain and watched, and compare every bit: ``python -m benchmarks.harm``."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import logging
import sys
import time
import warnings
from collections import Counter

import torch
from benchmarks.harm.cases import GUARDED, LOOPS, OPTIMIZERS, STEPS, WATCHES, Case, compare
from benchmarks.harm.effects import EFFECTS, VALUES
from benchmarks.harm.models import MODELS
from benchmarks.reliability.page import keep


def main() -> int:
    """Run the cases; return 1 if any training was changed or ended."""
    options = _options()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("foreshock").setLevel(logging.CRITICAL)
    counts: Counter[str] = Counter()
    began = time.process_time()
    for seed in range(options.seed, options.seed + options.cases):
        _count(Case.draw(seed), counts)
        if options.progress and (seed - options.seed + 1) % options.progress == 0:
            print(f"{seed - options.seed + 1} cases: {dict(counts)}", flush=True)
    record = {
        "cases": options.cases,
        "seed": options.seed,
        **counts,
        "seconds": round(time.process_time() - began),
        "torch": torch.__version__,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "variety": {
            "models": len(MODELS),
            "optimizers": len(OPTIMIZERS),
            "guarded optimizers": len(GUARDED),
            "ways to watch": len(WATCHES),
            "parts of loops": len(LOOPS),
            "effects": len(EFFECTS) + len(VALUES),
            "steps": STEPS,
        },
    }
    print(json.dumps(record, indent=2))
    if options.publish:
        keep("harm", record)
    return int(bool(counts["different"] or counts["ended"]))


def _count(case: Case, counts: Counter[str]) -> None:
    outcome = compare(case)
    if outcome is None:
        counts["not trainable"] += 1
        return
    counts["compared"] += 1
    counts["probed"] += outcome.counts["evaluations"] > 0
    counts["evaluations"] += outcome.counts["evaluations"]
    counts["acted"] += outcome.counts["acted"] > 0
    counts["with an effect"] += bool(case.effect or case.value)
    counts["ended"] += bool(outcome.error)
    different = bool(outcome.different) and not outcome.counts["acted"]
    counts["different"] += different
    if different or outcome.error:
        print(f"{case}\n    {outcome.error or sorted(outcome.different)[:8]}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.harm", description=__doc__)
    parser.add_argument("--cases", type=int, default=2000, help="how many cases")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first case; the others follow")
    parser.add_argument("--progress", type=int, default=0, help="print the counts each so many cases")
    parser.add_argument("--publish", action="store_true", help="keep the counts for docs/reliability.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
