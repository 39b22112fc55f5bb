"""Time, products and error of every method along one training run, all in one process.

Before and after each probe one forward and backward pass of the same model is timed: their mean is the F in
which the probe is expressed, so that a machine that slows down slows both. The order of the methods is turned
from probe to probe.
"""

from __future__ import annotations

import dataclasses
import gc
import time
from dataclasses import dataclass
from typing import Any

import torch
from benchmarks.curvature import cases, ours
from benchmarks.curvature.cases import Problem, Snapshot
from benchmarks.curvature.methods import Method
from benchmarks.curvature.reference import reference_pair
from benchmarks.curvature.selection import Probe, Setting, least_setting, relative_error
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

TOLERANCE = 5e-3
SHORTEST_UNIT = 0.02
Row = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """How much is measured.

    Attributes:
        seconds: After this long on one row of a case, no further probe of it.
        skip: Names of methods left out.
    """

    seconds: float = 30.0
    skip: tuple[str, ...] = ()


@dataclass
class _Entry:
    """One row in the making: a method with a setting, and what it gave so far."""

    method: Method
    setting: Setting
    is_default: bool
    vector: Tensor | None = None
    seconds: float = 0.0
    probes: list[Row] = dataclasses.field(default_factory=list)
    failure: str = ""


def unit_seconds(problem: Problem, shortest: float = SHORTEST_UNIT) -> float:
    """Return the seconds of F: one forward and backward pass, the mean of as many as fill `shortest`."""
    began, count = time.perf_counter(), 0
    while True:
        torch.autograd.grad(problem.loss(), problem.parameters)
        count += 1
        elapsed = time.perf_counter() - began
        if elapsed >= shortest:
            return elapsed / count


def measure_case(
    case: cases.Case, methods: list[Method], limits: Limits, known: list[Row] | None = None
) -> list[Row]:
    """Return one row for each method, operator and setting.

    Args:
        case: What is trained and probed.
        methods: Who probes.
        limits: How much is measured.
        known: Rows of the case whose settings are taken over, if it says so.
    """
    problem = cases.start(case)
    points = cases.train(problem, case)
    rows = []
    for preconditioned in (False, True):
        chosen = dataclasses.replace(problem, preconditioned=preconditioned)
        usable = [
            m for m in methods if (m.preconditioned or not preconditioned) and m.name not in limits.skip
        ]
        track = _Track(chosen, points, _references(chosen, points))
        entries = []
        for method in usable:
            entries += _entries(method, track, known if case.settings_of else None)
        _run(entries, track, limits)
        rows += [_row(case, chosen, entry) for entry in entries]
    return rows


@dataclass(frozen=True)
class _Track:
    """The points of a run, and the true eigenpair at each."""

    problem: Problem
    points: list[Snapshot]
    references: list[tuple[float, Tensor]]

    def start(self, method: Method, point: int, last: Tensor | None) -> Tensor | None:
        """Return where a method starts: its last vector, at first the true one of the point before."""
        if not method.warm:
            return None
        return self.references[point - 1][1].float() if last is None else last

    def error(self, point: int, value: float) -> float:
        return relative_error(value, self.references[point][0])

    @property
    def counted(self) -> range:
        """The points that count: a warm start needs one before."""
        return range(1, len(self.points))


def _references(problem: Problem, points: list[Snapshot]) -> list[tuple[float, Tensor]]:
    pairs: list[tuple[float, Tensor]] = []
    for point in points:
        point.restore(problem)
        scale = ours.scale_root(problem) if problem.preconditioned else None
        pairs.append(reference_pair(problem, scale, pairs[-1][1] if pairs else None))
    return pairs


def _entries(method: Method, track: _Track, known: list[Row] | None) -> list[_Entry]:
    defaults = [_Entry(method, {}, is_default=True)] if method.default else []
    setting = calibrate(method, track) if known is None else _known(method, track, known)
    if setting is not None:
        return [_Entry(method, setting, is_default=False), *defaults]
    failed = _Entry(method, method.ladder[-1], is_default=False)
    failed.failure = f"no setting tried meets {TOLERANCE:.1%} at every probe"
    return [failed, *defaults]


def _known(method: Method, track: _Track, rows: list[Row]) -> Setting | None:
    operator = _operator_name(track.problem)
    for row in rows:
        if row["method"] == method.name and row["operator"] == operator and not row["default"]:
            return None if row["failure"] else row["setting"]
    return None


def calibrate(method: Method, track: _Track) -> Setting | None:
    """Return the least setting of a method that is accurate at every point, on a shared fast product."""
    vectors: dict[str, Tensor] = {}
    counted = track.counted
    shared: dict[int, ours.Opened] = {}

    def run(setting: Setting, number: int) -> Probe:
        point = counted[number]
        if point not in shared:
            for opened in shared.values():
                opened.hessian.close()
            shared.clear()
            track.points[point].restore(track.problem)
            shared[point] = ours.open_operator(track.problem)
        start = track.start(method, point, vectors.get(str(setting)) if number else None)
        try:
            with sdpa_kernel(SDPBackend.MATH):
                handle = method.share(track.problem, shared[point])
                outcome = method.solve(handle, setting, start, seed=point)
        except Exception:  # noqa: BLE001 - whatever a peer raises, this setting does not do
            return Probe(float("inf"), 0)
        vectors[str(setting)] = outcome.vector
        return Probe(track.error(point, outcome.value), outcome.products)

    trial = least_setting(method.ladder, run, len(counted), tolerance=TOLERANCE, ordered=method.ordered)
    return None if trial is None else trial.setting


def _run(entries: list[_Entry], track: _Track, limits: Limits) -> None:
    for number in track.counted:
        turn = number * 3 % max(len(entries), 1)
        for entry in entries[turn:] + entries[:turn]:
            if entry.failure or entry.seconds > limits.seconds:
                continue
            track.points[number].restore(track.problem)
            _probe(entry, track, number)
            track.problem.model.zero_grad(set_to_none=True)
            gc.collect()


def _probe(entry: _Entry, track: _Track, number: int) -> None:
    method, problem = entry.method, track.problem
    start = track.start(method, number, entry.vector)
    before = unit_seconds(problem)
    began = time.perf_counter()
    try:
        with sdpa_kernel(SDPBackend.MATH):
            handle = method.open(problem, entry.setting)
            outcome = method.solve(handle, entry.setting, start, seed=number)
    except Exception as error:  # noqa: BLE001 - a peer's failure is a row of the table
        entry.failure = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return
    seconds = time.perf_counter() - began
    del handle
    problem.model.train()
    unit = (before + unit_seconds(problem)) / 2
    entry.seconds += seconds
    entry.vector = outcome.vector
    entry.probes.append(
        {
            "point": number,
            "units": round(seconds / unit, 3),
            "seconds": round(seconds, 5),
            "products": outcome.products,
            "error": float(f"{track.error(number, outcome.value):.3g}"),
        }
    )


def _operator_name(problem: Problem) -> str:
    return "preconditioned" if problem.preconditioned else "raw"


def _row(case: cases.Case, problem: Problem, entry: _Entry) -> Row:
    return {
        "case": case.name,
        "parameters": problem.size,
        "operator": _operator_name(problem),
        "tool": entry.method.tool,
        "method": entry.method.name,
        "warm": entry.method.warm,
        "setting": entry.setting,
        "default": entry.is_default,
        "failure": entry.failure,
        "probes": entry.probes,
    }
