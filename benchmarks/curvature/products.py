"""The cost of one Hessian product of each tool, in F."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from benchmarks.curvature.cases import Problem
from benchmarks.curvature.measure import SHORTEST_UNIT, Row, unit_seconds
from benchmarks.curvature.methods import Method
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def measure_product(problem: Problem, methods: list[Method], repeats: int, limit: float) -> list[Row]:
    """Return the cost of opening each tool's operator and of one more product, in F.

    Args:
        problem: The model.
        methods: One method a tool.
        repeats: Number of products.
        limit: Seconds after which a tool gets no further product.
    """
    rows: list[Row] = []
    for method in methods:
        before = unit_seconds(problem)
        try:
            with sdpa_kernel(SDPBackend.MATH):
                began = time.perf_counter()
                handle = method.open(problem, {"check_deterministic": False})
                opened = (time.perf_counter() - began) / before
                vector = torch.randn(problem.size) / problem.size**0.5
                ratios = _product_ratios(_product(method, handle), vector, problem, repeats, limit)
        except Exception as error:  # noqa: BLE001 - a peer's failure is a row of the table
            rows.append({"tool": method.tool, "failure": f"{type(error).__name__}: {error}"[:200]})
            continue
        del handle
        problem.model.zero_grad(set_to_none=True)
        gc.collect()
        rows.append(
            {
                "tool": method.tool,
                "parameters": problem.size,
                "unit_seconds": before,
                "open": opened,
                "product": statistics.median(ratios),
                "spread": [min(ratios), max(ratios)],
                "failure": "",
            }
        )
    return rows


def _product_ratios(
    product: Callable[[Tensor], Any], vector: Tensor, problem: Problem, repeats: int, limit: float
) -> list[float]:
    ratios: list[float] = []
    start = time.perf_counter()
    product(vector)
    while len(ratios) < repeats and (not ratios or time.perf_counter() - start < limit):
        unit = unit_seconds(problem)
        began, count = time.perf_counter(), 0
        while count == 0 or time.perf_counter() - began < SHORTEST_UNIT:
            product(vector)
            count += 1
        seconds = (time.perf_counter() - began) / count
        ratios.append(seconds / ((unit + unit_seconds(problem)) / 2))
    return ratios


def _product(method: Method, handle: Any) -> Callable[[Tensor], Any]:
    if method.tool == "foreshock":
        return handle.operator  # type: ignore[no-any-return]
    if method.tool == "pyhessian":
        from pyhessian.utils import hessian_vector_product

        return lambda vector: hessian_vector_product(
            handle.gradsH, handle.params, _like(vector, handle.params)
        )
    if method.tool == "curvlinops":
        return lambda vector: handle.matvec(vector.numpy())
    return handle.matvec  # type: ignore[no-any-return]


def _like(vector: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    parts = torch.split(vector, [tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
