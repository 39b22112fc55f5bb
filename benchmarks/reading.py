"""Measure what reading large logs takes: ``python -m benchmarks.reading``.

Each log is read by ``foreshock report --text`` and made into a page in processes of their own, whose
processor time and largest resident memory the system reports. Linux and macOS.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.reliability.page import keep

SECONDS, MEGABYTES, PAGE = 10.0, 500.0, 8.0
"""What a million rows may take: processor time, memory in MB, and MB of the page if they are measured."""

_HEADER = '{"kind":"header","schema":2,"foreshock":"0.1.0","created":"","number":1,"meta":{}}\n'
_MAXIMUM_OF_MANY = 1 << 20 if sys.platform == "darwin" else 1 << 10  # units of ru_maxrss in a MB


def rows(count: int) -> Iterator[str]:
    """Yield the lines of one session of so many steps, a spike every 50,000.

    Args:
        count: How many steps.
    """
    yield _HEADER
    for step in range(count):
        loss = (4.0 if step % 50_000 < 3 and step > 100 else 1.0) / (1 + step / 10_000)
        yield (
            f'{{"kind":"step","step":{step},"loss":{loss:.6f},"gradient_norm":0.1,"learning_rate":0.001,'
            '"instant_lag":1.1,"decay_exponent":0.5,"squared_gradient":0.01,"second_moment":0.011}\n'
        )


def measured(count: int) -> Iterator[str]:
    """Yield the lines of one session of so many steps, with a reading and a forecast at every twentieth.

    Args:
        count: How many steps.
    """
    for step, line in enumerate(rows(count), start=-1):
        yield line
        if step < 0 or step % 20:
            continue
        ratio = 0.7 + 0.3 * (step % 50_000) / 50_000 + 0.01 * math.sin(step)
        yield (
            f'{{"kind":"curvature","step":{step},"stability_ratio":{ratio:.6f},"error_bound":0.001,'
            f'"gradient_stability_ratio":{ratio / 3:.6f},"update_stability_ratio":{ratio / 5:.6f},'
            f'"alignment":{abs(math.sin(step)):.6f},"products":4,"converged":true,"seconds":0.01}}\n'
            f'{{"kind":"forecast","step":{step},"stability_ratio":{ratio:.6f},"steps_to_instability":'
            f'{1 + 50_000 * abs(1 - ratio):.6f},"interval_low":1.0,"interval_high":90000.0,"probability":'
            f'{min(max(ratio - 0.7, 0), 1):.6f},"lag":1.2,"state":"stable","measured":{step}}}\n'
        )


def restarts(count: int) -> Iterator[str]:
    """Yield the lines of so many sessions, one step each.

    Args:
        count: How many sessions.
    """
    for step in range(count):
        yield _HEADER + f'{{"kind":"step","step":{step},"loss":1.0}}\n'


def restarts_of_a_long_run(count: int) -> Iterator[str]:
    """Yield the lines of a long session, and of shorter ones that each make a step of it obsolete.

    Args:
        count: How many lines the long session has; a hundredth as many sessions follow.
    """
    yield from rows(count)
    for step in range(count, count - count // 100, -1):
        yield _HEADER + f'{{"kind":"step","step":{step},"loss":1.0}}\n'


def events(count: int) -> Iterator[str]:
    """Yield the lines of a session that failed at each step.

    Args:
        count: How many steps.
    """
    yield _HEADER
    for step in range(count):
        yield f'{{"kind":"event","step":{step},"name":"probe failed","message":"RuntimeError: {step}"}}\n'


def one_long_line(count: int) -> Iterator[str]:
    """Yield the lines of a session with a message of so many characters.

    Args:
        count: How many characters.
    """
    yield from rows(100)
    yield f'{{"kind":"event","step":50,"name":"x","message":"{"A" * count}"}}\n'


def garbage(count: int) -> Iterator[str]:
    """Yield the lines of a session with one that nests as deep as it is long.

    Args:
        count: How many brackets.
    """
    yield from rows(100)
    yield "[" * count + "\n"


LOGS: dict[str, tuple[Callable[[int], Iterable[str]], int]] = {
    "rows": (rows, 1_000_000),
    "measured rows": (measured, 1_000_000),
    "restarts": (restarts, 20_000),
    "twice as many restarts": (restarts, 40_000),
    "restarts of a long run": (restarts_of_a_long_run, 200_000),
    "events": (events, 300_000),
    "one line of 100 MB": (one_long_line, 100_000_000),
    "100 MB of brackets": (garbage, 100_000_000),
}
"""Logs by name: what makes the lines, and of how many."""


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Return what reading one log takes.

    Args:
        name: Name in `LOGS`.
        folder: An empty folder.
    """
    make, count = LOGS[name]
    log, page = folder / "rank0.jsonl", folder / "report.html"
    with log.open("w", encoding="utf-8") as file:
        file.writelines(make(count))
    text, html = _spent(["--text", str(folder)]), _spent([str(folder), "-o", str(page)])
    return {
        "count": count,
        "log": log.stat().st_size / 1e6,
        "text": text,
        "page": html | {"megabytes": page.stat().st_size / 1e6},
    }


def _spent(arguments: list[str]) -> dict[str, float]:
    """Return processor seconds and peak memory of one ``foreshock report``; fail if it does."""
    process = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "foreshock", "report", *arguments],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, used = os.wait4(process, 0)
    if status:
        raise RuntimeError(f"foreshock report {arguments[-1]} ended with {os.waitstatus_to_exitcode(status)}")
    return {"seconds": used.ru_utime + used.ru_stime, "memory": used.ru_maxrss / _MAXIMUM_OF_MANY}


def main() -> int:
    """Measure every log; return 1 if a million rows take more than they may."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reading", description=__doc__)
    parser.add_argument("--publish", action="store_true", help="keep the figures for docs/reliability.md")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for name in LOGS:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measure(name, Path(folder))
        sys.stdout.write(f"{name}: {json.dumps(found[name])}\n")
        sys.stdout.flush()
    if options.publish:
        # A busy machine makes processor time longer, too: its caches are shared.
        record = {"logs": found, "load": round(os.getloadavg()[1], 1)}
        keep("reading", record | {"date": dt.datetime.now(dt.UTC).date().isoformat()})
    million = found["rows"]
    within = all(
        million[how]["seconds"] <= SECONDS and million[how]["memory"] <= MEGABYTES for how in ("text", "page")
    )
    within &= found["measured rows"]["page"]["megabytes"] <= PAGE
    return int(not within)


if __name__ == "__main__":
    sys.exit(main())
