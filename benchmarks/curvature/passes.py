"""What a measurement takes over what it counts: the constants of `foreshock.operators.cost`, checked.

Run from the root of the repository::

    python -m benchmarks.curvature.passes

Each row is the processor time of one operation in F, over the passes that it counts; F is timed before and
after. Medians and extremes of several repetitions on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import torch
from benchmarks.curvature import cases
from benchmarks.curvature.cases import Problem
from benchmarks.curvature.measure import unit_seconds

from foreshock.batches import MicroBatches
from foreshock.curvature import Prober, measure_noise, part_terms
from foreshock.isolation import isolated
from foreshock.operators import DifferenceOperator, HessianOperator, choose_backend
from foreshock.operators.cost import FORWARD_PASSES, GRADIENT_PASSES
from foreshock.preconditioner import read_preconditioner

CASES = ("mlp-9k", "cnn-94k", "gpt-237k", "gpt-1M")
SHORTEST = 0.1  # seconds of one timing

# Runs the operation once and returns the passes that it counted.
Operation = Callable[[], float]


def operations(problem: Problem) -> Iterator[tuple[str, Operation]]:
    """Yield each operation that counts passes, by name."""
    model, parameters, loss = problem.model, problem.parameters, problem.loss

    def forward() -> float:
        loss()
        return FORWARD_PASSES

    def opened(operator: HessianOperator | DifferenceOperator) -> float:
        return operator.passes

    yield "forward", forward
    yield "graph", lambda: opened(HessianOperator(loss, parameters))
    yield "gradient", lambda: opened(DifferenceOperator(loss, parameters, model=model))
    vector = torch.randn(problem.size)
    for name, operator in (
        ("product, graph kept", HessianOperator(loss, parameters)),
        ("product, graph rebuilt", HessianOperator(loss, parameters, model=model, keep_graph=False)),
        ("central difference", DifferenceOperator(loss, parameters, model=model)),
    ):
        operator(vector)  # the first difference searches for its step

        def product(operator: HessianOperator | DifferenceOperator = operator) -> float:
            before = operator.passes
            operator(vector)
            return operator.passes - before

        yield name, product
    yield from _measurements(problem)


def _measurements(problem: Problem) -> Iterator[tuple[str, Operation]]:
    model, (inputs, targets) = problem.model, problem.batch
    loss_fn = lambda model, batch: problem.criterion(model(batch[0]), batch[1])  # noqa: E731
    problem.loss().backward()  # type: ignore[no-untyped-call]
    preconditioner = read_preconditioner(problem.optimizer)

    def choose() -> float:
        with isolated(model):
            return choose_backend(problem.loss, problem.parameters, model=model).passes

    yield "choice of the backend", choose
    yield "first probe", lambda: Prober(model, loss_fn).probe(problem.batch, preconditioner, step=0).passes
    warm = Prober(model, loss_fn)
    warm.probe(problem.batch, preconditioner, step=0)
    yield "probe, warm", lambda: warm.probe(problem.batch, preconditioner, step=0).passes
    halves = zip(inputs.chunk(2), targets.chunk(2), strict=True)
    parts = part_terms(model, loss_fn, MicroBatches(list(halves)))
    if len(inputs) > 1:
        with isolated(model):
            yield "noise", lambda: measure_noise(parts, preconditioner, step=0, model=model)[0].passes


def ratios(problem: Problem, operation: Operation, repeats: int) -> list[float]:
    """Return the time of an operation in F over the passes it counts, once for each repetition."""
    found = []
    operation()
    for _ in range(repeats):
        unit = unit_seconds(problem, SHORTEST)
        began, passes = time.perf_counter(), 0.0
        while time.perf_counter() - began < SHORTEST:
            passes += operation()
        seconds = time.perf_counter() - began
        unit = (unit + unit_seconds(problem, SHORTEST)) / 2
        found.append(seconds / unit / (GRADIENT_PASSES * passes))
    return found


def main() -> None:
    """Print one line for each operation on each model."""
    parser = argparse.ArgumentParser(description="measured cost over counted cost, of each operation")
    parser.add_argument("--case", action="append", choices=list(cases.CASES), help="a model; may be repeated")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each operation")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.case or CASES:
        case = cases.CASES[name]
        problem = cases.start(case)
        cases.train(problem, case)
        sys.stdout.write(f"{name}: F is {1000 * unit_seconds(problem, SHORTEST):.2f} ms\n")
        for label, operation in operations(problem):
            found = ratios(problem, operation, options.repeats)
            spread = f"{min(found):.2f} to {max(found):.2f}"
            sys.stdout.write(f"  {label:24} {statistics.median(found):.2f}   ({spread})\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
