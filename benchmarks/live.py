"""Measure how fast the live page is, and how late.

Run from the root of the repository, with chromium at hand::

    python -m benchmarks.live --points 1000000 --runs 50

The last column says what was measured: processor time, which other work on the machine hardly changes, or
wall time, which it does. Rows:

- *reading* a log for the first time, and once more what was added to it;
- *points in few*: a whole run of so many steps → what is sent of its loss, every extreme kept;
- *drawn*: the same in the browser, from asking for it to the last pixel;
- *late*: from the moment a row was written to the frame of the page that shows it, while many runs grow.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.markdown import table

from foreshock.live.curve import Curve
from foreshock.live.run import LiveRun
from foreshock.live.server import LivePage
from foreshock.live.views import packed, series
from foreshock.runlog import RunLogWriter

_REPEATS = 7
_CHROMIUM = "/usr/bin/chromium"
_LOSS = "foreshockPage.charts.find(chart => chart.style.id === 'loss').plot"
Row = tuple[str, str, str]


def rows(first: int, last: int, *, spike: int = -1) -> list[tuple[str, dict[str, Any]]]:
    """Return step records as a monitor writes them, with one spike of a single step."""
    noise = np.random.default_rng(first).normal(size=last - first)
    return [
        (
            "step",
            {
                "step": step,
                "loss": (1 + 9 * math.exp(-step / 1e5)) * (1 + 0.02 * tremble) * (8 if step == spike else 1),
                "gradient_norm": 1 + 0.1 * tremble,
                "learning_rate": 1e-3,
                "instant_lag": 1.5,
                "decay_exponent": 0.2,
            },
        )
        for step, tremble in zip(range(first, last), noise.tolist(), strict=True)
    ]


def write(writer: RunLogWriter, points: int) -> int:
    """Write a run of so many steps; return the step of its spike."""
    spike = points // 2 + 1
    for first in range(0, points, 20_000):
        writer.write_many(rows(first, min(first + 20_000, points), spike=spike))
    return spike


def processor(repeats: int, work: Any) -> float:
    """Return the median processor time of this thread for some work, ms."""
    found = []
    for _ in range(repeats):
        began = time.thread_time()
        work()
        found.append(1000 * (time.thread_time() - began))
    return statistics.median(found)


def reading(log: Path, points: int) -> tuple[LiveRun, Row]:
    """Read a log; return the run and how long it took."""
    run = LiveRun(log, name="large")
    began = time.thread_time()
    while run.look():
        pass
    seconds = time.thread_time() - began
    return run, ("reading a log for the first time", f"{points / seconds / 1000:,.0f} rows/ms", "processor")


def reducing(run: LiveRun, points: int, spike: int) -> Iterator[Row]:
    """Yield how long it takes to reduce a run to what is drawn, of one chart and of all."""
    for what, names in (
        ("loss", ["loss"]),
        ("five charts", ["loss", "gradient-norm", "learning-rate", "lag", "decay"]),
    ):

        def reduce(names: list[str] = names) -> bytes:
            return packed([series(run, names, within=(-math.inf, math.inf), points=2000)])

        taken = processor(_REPEATS, reduce)
        each = points * len(names) / taken
        yield f"{points:,} points of {what} in 2,000", f"{taken:.0f} ms, {each:,.0f} points/ms", "processor"
    header, arrays = series(run, ["loss"], within=(-math.inf, math.inf), points=2000)
    if spike not in arrays[0] or header["charts"][0]["points"] > 2100:
        raise RuntimeError("the spike of one step was left out, or too many points were kept")


def appending() -> Row:
    """Return how long one new row of a run of a million takes to be taken up."""
    curve = Curve(["loss"])
    curve.extend(np.arange(1e6), [np.ones(10**6)])
    place = iter(range(10**6, 10**7))

    def append() -> None:
        curve.extend(np.array([float(next(place))]), [np.ones(1)])
        curve.view(["loss"], first=-math.inf, last=math.inf, points=2000, since=len(curve) - 1)

    return "a new row of a run of 1,000,000", f"{1000 * processor(101, append):.0f} µs", "processor"


@contextmanager
def served(place: Path) -> Iterator[tuple[LivePage, Any]]:
    """Serve a place and open it in a browser."""
    from playwright.sync_api import sync_playwright

    page = LivePage(place, port=0)
    thread = threading.Thread(target=page.serve)
    thread.start()
    try:
        with sync_playwright() as engine:
            browser = engine.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
            seen = browser.new_page(viewport={"width": 1280, "height": 900})
            seen.goto(page.address)
            yield page, seen
            browser.close()
    finally:
        page.stop()
        thread.join()


def until(seen: Any, true: str) -> None:
    """Wait until an expression of the page is true."""
    while not seen.evaluate(f"Boolean({true})"):
        time.sleep(0.02)


def descendants() -> float:
    """Return the processor time of all processes below this one that are still there, seconds (Linux)."""
    parents, times = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:  # it ended
            continue
        parents[int(folder.name)] = int(fields[1])
        times[int(folder.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    below, found = {os.getpid()}, 0.0
    while new := {child for child, parent in parents.items() if parent in below} - below:
        below |= new
        found += sum(times[child] for child in new)
    return found


def drawing(place: Path, points: int) -> Iterator[Row]:
    """Yield how long the browser takes from asking for a whole run to its picture."""
    with served(place) as (_, seen):
        until(seen, f"window.foreshockPage && {_LOSS} && {_LOSS}.data[0].at(-1) === {points - 1}")
        time.sleep(5)  # until the verdict is written
        used = descendants()
        taken = seen.evaluate(
            """async (repeats) => {
              const page = foreshockPage, found = [];
              const frame = () => new Promise(requestAnimationFrame);
              for (let i = 0; i < repeats; i++) {
                while (page.store.busy || page.drawing) await frame();
                for (const held of page.store.held.values()) Object.assign(held, { version: -1, rows: {} });
                const began = performance.now();
                page.changed();
                while (page.store.busy || page.drawing) await frame();
                found.push(performance.now() - began);
              }
              return found;
            }""",
            _REPEATS,
        )
        work = (descendants() - used) / _REPEATS
    yield f"{points:,} points asked for, sent and drawn", f"{statistics.median(taken):.0f} ms", "wall"
    yield "the same, all processes of the browser", f"{1000 * work:.0f} ms", "processor"


def lateness(place: Path, runs: int, seconds: float) -> Iterator[Row]:
    """Yield how late rows are on the page, and what the server needs, while so many runs grow."""
    writers = [RunLogWriter(place / f"run-{i:03d}", meta={"name": f"run {i:03d}"}) for i in range(runs)]
    for writer in writers:
        writer.write_many(rows(0, 500))
    with served(place) as (_, seen):
        until(seen, f"window.foreshockPage && foreshockPage.list.order?.length === {runs} && {_LOSS}")
        name = seen.evaluate("foreshockPage.list.runs.get(foreshockPage.front).name")
        written: dict[int, float] = {}
        seen.evaluate(
            f"""() => {{ window.seen = {{}};
              const note = () => {{
                const [steps, ...lines] = {_LOSS}.data, front = lines.at(-1);
                const last = front.findLastIndex(value => value != null);
                window.seen[steps[last]] ??= Date.now();
                requestAnimationFrame(note);
              }}; note(); }}"""
        )
        used, drawn, began = time.process_time(), descendants(), time.time()
        step = 500
        while time.time() - began < seconds:
            for i, writer in enumerate(writers):
                writer.write_many(rows(step, step + 1))
                if f"run {i:03d}" == name:
                    written[step] = time.time()
            step += 1
            time.sleep(0.1)
        wall = time.time() - began
        used, drawn = time.process_time() - used, descendants() - drawn
        time.sleep(3)
        shown = {int(k): v / 1000 for k, v in seen.evaluate("window.seen").items()}
    # What is on the page with a step has all before it.
    late = [
        min(t for s, t in shown.items() if s >= step) - at
        for step, at in written.items()
        if any(s >= step for s in shown)
    ]
    middle, worst = 1000 * statistics.median(late), 1000 * max(late)
    growing = "1 run growing" if runs == 1 else f"{runs} runs growing"
    yield f"from write to page, {growing}", f"{middle:.0f} ms, at most {worst:.0f} ms", "wall"
    yield f"server and writers, {growing}", f"{100 * used / wall:.0f} % of one core", "processor"
    yield f"browser, {growing}", f"{100 * drawn / wall:.0f} % of one core", "processor"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=1_000_000, help="steps of the large run")
    parser.add_argument("--runs", type=int, nargs="*", default=[1, 50], help="numbers of runs that grow")
    parser.add_argument("--seconds", type=float, default=15.0, help="for which they grow")
    parser.add_argument("--json", type=Path, help="also write the rows into this file")
    options = parser.parse_args()
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder, "large")
        writer = RunLogWriter(large)
        spike = write(writer, options.points)
        writer.close()
        run, row = reading(writer.path, options.points)
        found += [row, *reducing(run, options.points, spike), appending()]
        found += drawing(large, options.points)
    for runs in options.runs:
        with tempfile.TemporaryDirectory() as folder:
            found += lateness(Path(folder), runs, options.seconds)
    print(table(("what", "measured", "time"), found))  # noqa: T201 - a script
    if options.json:
        options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
