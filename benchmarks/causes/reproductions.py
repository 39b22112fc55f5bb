"""Do the runs of ``foreshock reproduce`` and of ``foreshock demo`` explain themselves?

Run from the root of the repository::

    foreshock reproduce quadratic --out runs/reproduction
    foreshock reproduce cause --set events=12 --seeds 2 --out runs/reproduction
    foreshock reproduce cause --set events=12 --seeds 1 --first-seed 3 --out runs/reproduction
    foreshock reproduce cnn --seeds 1 --out runs/reproduction
    foreshock reproduce cnn --seeds 1 --first-seed 3 --out runs/reproduction
    ...  # so too transformer and llm
    python -m benchmarks.causes.reproductions runs/reproduction

The demo is trained here, since what it has to be judged by is not kept: the growth of λ_max(Ĥ) over the climb
that an explanation names, measured again with v, and with H, frozen at its beginning. Of the other runs the
experiment *cause* has measured that, over the forty steps before the crossing that a spike follows; the runs
of *cnn*, *transformer* and *llm* are the same trainings, measured more often, and longer. A quadratic has no
landscape that could change. What is found is kept as JSON beside this file, and the page is written from it.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.causes.publish import write_page
from benchmarks.causes.sections import SPLIT, split_section

from foreshock.demo import digits_cnn, stdlib_transformer
from foreshock.demo.run import train_watched
from foreshock.demo.workload import Workload
from foreshock.explain import NOT_EXPLAINED, Explanation, History, explain_run
from foreshock.explain.noise import LAGGED
from foreshock.explain.slow import measure_rise
from foreshock.lab.jobs import write_json
from foreshock.lab.reproduction.experiments.llm import LlmConfig
from foreshock.lab.reproduction.frozen import Growth, Point, point_of, split_growth
from foreshock.lab.reproduction.plan import Moment
from foreshock.runlog import read_run
from foreshock.runlog.values import recorded_losses
from foreshock.spikes import detect_events

_FAR, _AFTER = 150, 5  # steps from the crossing whose growth was split to the onset of its spike
_EVERY = 5  # steps from one point of the demo that is kept to the next
_LEAST = 0.01  # growth of ln λ_max(Ĥ) below which neither part says anything
_DEMO = {"demo: digits": digits_cnn.DigitsConfig, "demo: Transformer": stdlib_transformer.TransformerConfig}
_OWN = ("cnn", "transformer", "llm")  # experiments whose own runs are longer than those of *cause*
_NAMES = {
    "fnn-1d": "network in one dimension",
    "fnn-50d": "network in 50 dimensions",
    "cnn": "CNN",
    "transformer": "Transformer, mini-batches",
    "llm": "bytes, mini-batches",
}

Row = dict[str, Any]


def quadratic(folder: Path) -> Iterator[Row]:
    """Yield the events of the quadratics: all movement of the ratio is that of v.

    Args:
        folder: Folder of the runs.
    """
    for run in sorted(folder.glob("cpu/quadratic/seed*")):
        for event in explain_run(read_run(run)):
            yield _row("quadratic", run.name, event, 1.0)


def trained(folder: Path) -> Iterator[Row]:
    """Yield the events of the trainings of the experiment *cause*, with what it found with v or H frozen.

    Args:
        folder: Folder of the runs.
    """
    for seed in sorted(folder.glob("cpu/cause/seed*")):
        kept = json.loads((seed / "growths.json").read_text(encoding="utf-8"))
        for name, growths in kept.items():
            yield from _events(seed / name, _NAMES[name], seed.name, growths)


def whole(folder: Path) -> Iterator[Row]:
    """Yield the events of the runs of *cnn*, *transformer* and *llm*, with what *cause* found on each.

    Args:
        folder: Folder of the runs.
    """
    for name in _OWN:
        for seed in sorted(folder.glob(f"cpu/{name}/seed*")):
            found = folder / "cpu" / "cause" / seed.name / "growths.json"
            kept = json.loads(found.read_text(encoding="utf-8")).get(name, []) if found.exists() else []
            run = seed / f"beta2-{LlmConfig().beta2:g}" if name == "llm" else seed
            yield from _events(run, f"{_NAMES[name]}: whole run", seed.name, kept)


def _events(run: Path, group: str, name: str, growths: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """Yield the events of a run, each with the growth that was split before it."""
    split = [Growth(**growth) for growth in growths]
    for event in explain_run(read_run(run)):
        near = [one for one in split if -_AFTER <= event.onset - one.step <= _FAR]
        split = [one for one in split if one not in near]  # each is of one spike, the first after it
        yield _row(group, name, event, _share(near[-1] if near else None))


def demo(folder: Path) -> Iterator[Row]:
    """Train the networks of the demo, and yield their events, with the climbs that are named taken apart.

    Args:
        folder: Where logs go.
    """
    for name, config in _DEMO.items():
        module = digits_cnn if config is digits_cnn.DigitsConfig else stdlib_transformer
        workload = module.build(config())
        points, moment = _watched(workload, folder / "demo" / workload.name)
        run = read_run(folder / "demo" / workload.name)
        history = History(run)
        steps, losses = recorded_losses(run)
        events = detect_events(steps.tolist(), losses.tolist())
        for event, found in zip(events, explain_run(run), strict=True):
            rise = measure_rise(history, event)
            ends = [] if rise is None else [_nearest(points, step) for step in (rise.first, rise.last)]
            growth = None
            if len(ends) == 2 and ends[0].step < ends[1].step:
                growth = split_growth(moment, workload.batch, *ends)
            yield _row(name, "seed0", found, _share(growth))


def _watched(workload: Workload, folder: Path) -> tuple[list[Point], Moment]:
    """Train a workload; return points of it, and a moment."""
    points: list[Point] = []

    def moment_at(step: int) -> Moment:
        given = workload.model, workload.loss_fn, workload.optimizer
        return Moment(step, math.nan, workload.batch, math.nan, *given)

    step = iter(range(workload.steps))

    def keep(*_: object) -> None:
        if (at := next(step)) % _EVERY == 0:
            points.append(point_of(moment_at(at)))

    handle = workload.optimizer.register_step_pre_hook(keep)
    train_watched(workload, folder)
    handle.remove()
    return points, moment_at(workload.steps)


def _nearest(points: Sequence[Point], step: int) -> Point:
    return min(points, key=lambda point: abs(point.step - step))


def _share(growth: Growth | None) -> float | None:
    """Return the part of v in a growth; None where there was no growth to speak of."""
    if growth is None or not max(growth.preconditioner, growth.landscape) > _LEAST:
        return None
    return growth.share


def _row(group: str, run: str, event: Explanation, share: float | None) -> Row:
    return {
        "group": group,
        "run": run,
        "onset": event.onset,
        "named": [cause.name for cause in event.causes] or [NOT_EXPLAINED],
        "share": share,
        "of v": _said_of_v(event),
    }


def _said_of_v(event: Explanation) -> float | None:
    """Return the share of v in the rise to the edge of noise, as explained; None if nothing is said."""
    facts = event.causes[0].facts if event.causes and event.causes[0].name == "gradient noise" else ()
    return next((fact.value for fact in facts if fact.words == LAGGED), None)


def main() -> None:
    """Explain what is there, train the demo, keep what was found and write the page."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/reproduction")
    rows = [*quadratic(folder), *trained(folder), *whole(folder)]
    if not rows:
        raise SystemExit(f"{folder} has no runs: see the head of {__file__} for the commands that make them")
    rows += demo(folder)
    write_json(rows, SPLIT)
    write_page()
    sys.stdout.write(split_section(rows))


if __name__ == "__main__":
    main()
