"""What each method costs: time of a step against plain Adam's, and memory for each parameter."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foreshock.demo.threads import one_thread
from foreshock.lab.guardbench.methods import METHODS, PLAIN, Method
from foreshock.lab.guardbench.run import code_hash
from foreshock.lab.guardbench.training import MethodRun
from foreshock.lab.jobs import write_json
from foreshock.lab.spikebench.suite import DEVELOPMENT, RunConfig, adamw, configure

ROUNDS = 40  # steps of each method: enough for a median, and for the rare steps that measure
WARM_UP = 12  # untimed steps, in which state is allocated

SUBJECT = configure(DEVELOPMENT, "language-byte", adamw(1e-3, 0.1), 16, 10_000)
"""A Transformer of 135,000 parameters, of which a step takes 10 ms or more on one core."""

LARGER = configure(
    DEVELOPMENT, "language-byte", adamw(1e-3, 0.1), 16, 10_000, layers=4, width=192, heads=4, length=64
)
"""One of two million parameters, of which a step takes 100 ms or more."""

ALSO_LARGER = (
    PLAIN,
    "stable-adamw",
    "adagc",
    "clip-1",
    "zclip",
    "guard-auto",
    "guard-auto-every-40",
    "guard-secant",
    "guard-mean-square",
)
"""Methods that are also timed on the larger one."""


def measure_costs(
    methods: Sequence[Method] = METHODS, *, subject: RunConfig = SUBJECT, rounds: int = ROUNDS
) -> dict[str, Any]:
    """Time methods against plain Adam: one step of each in turn, in one process and on one thread.

    Each step's time is divided by the mean of plain Adam's just before and just after it, so that a machine
    that gets slower meanwhile slows both. Most steps measure nothing and some do: the median says what a
    usual step costs, the mean what a training costs.

    Args:
        methods: The methods.
        subject: What is trained.
        rounds: How often each takes a step, at least 1.

    Returns:
        ``step``, plain Adam's median time in seconds; ``parameters``, their number; and ``methods``: by name
        the ratios ``median`` and ``mean``, and ``bytes`` kept for each parameter on top of weight and
        gradient.

    Raises:
        ValueError: If `rounds` is below one.
    """
    if not rounds >= 1:
        raise ValueError(f"rounds is {rounds!r}; at least one is needed")
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = MethodRun(subject, 0, METHODS[0])
        others = {one.name: MethodRun(subject, 0, one) for one in methods}
        try:
            base, ratios = _timed(plain, others, rounds)
            size = plain.parameters
            table = {
                name: {
                    "median": statistics.median(ratios[name]),
                    "mean": statistics.fmean(ratios[name]),
                    "bytes": tensor_bytes(training.kept()) / size,
                }
                for name, training in others.items()
            }
        finally:
            for training in (plain, *others.values()):
                training.close()
    return {"step": base, "parameters": size, "plain": PLAIN, "methods": table}


def measure_all_costs() -> dict[str, Any]:
    """Return what `measure_costs` returns, and as ``larger`` that of some methods on a larger model."""
    some = [one for one in METHODS if one.name in ALSO_LARGER]
    return measure_costs() | {"larger": measure_costs(some, subject=LARGER)}


def saved_costs(path: str | os.PathLike[str], *, measure: bool = True) -> dict[str, Any] | None:
    """Return the costs that a file holds; measure all methods and write it if it is missing or outdated.

    Args:
        path: The file.
        measure: Whether to measure at all.

    Returns:
        What `measure_all_costs` returns; None if there is no file and nothing is to be measured.
    """
    code = code_hash(tuple(sorted({module for one in METHODS for module in one.code})))
    target = Path(path)
    read: dict[str, Any] = json.loads(target.read_text("utf-8")) if target.exists() else {}
    if read.get("code") == code or (read and not measure):
        return read
    if not measure:
        return None
    found = measure_all_costs() | {"code": code}
    write_json(found, target)
    return found


def tensor_bytes(value: Any) -> int:
    """Return the bytes of all tensors in nested containers, each tensor once.

    Example:
        >>> weights = torch.zeros(3)
        >>> tensor_bytes({"a": weights, "b": [weights, torch.zeros(2), "text"]})
        20
    """
    found: dict[int, int] = {}
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Tensor):
            found[id(one)] = one.numel() * one.element_size()
        elif isinstance(one, Mapping):
            waiting.extend(one.values())
        elif isinstance(one, list | tuple | set | frozenset):
            waiting.extend(one)
    return sum(found.values())


def _timed(
    plain: MethodRun, others: Mapping[str, MethodRun], rounds: int
) -> tuple[float, dict[str, list[float]]]:
    for training in (plain, *others.values()):
        for _ in range(WARM_UP):
            next(training.steps)
    base: list[float] = [_step(plain)]
    ratios: dict[str, list[float]] = {name: [] for name in others}
    for _ in range(rounds):
        for name, training in others.items():
            taken = _step(training)
            base.append(_step(plain))
            ratios[name].append(2 * taken / (base[-1] + base[-2]))
    return statistics.median(base), ratios


def _step(run: MethodRun) -> float:
    began = time.perf_counter()
    next(run.steps)
    return time.perf_counter() - began
