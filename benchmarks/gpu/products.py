"""What a Hessian-vector product costs against a gradient, from 10⁶ to 10⁹ parameters, in time and in memory.

The gradient is that of a training step: one forward and one backward pass under bfloat16 autocast, with
torch's fused attention. Double backward runs attention in its math kernel, which has a second derivative.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from benchmarks.gpu.models import TINY, Size, bfloat16_loss, count_parameters, make_batches, make_model
from benchmarks.gpu.setting import Keep, Result, Setting, peak_memory, synchronize
from torch import Tensor, nn

from foreshock.operators import DifferenceOperator, DifferenceScheme, HessianOperator

_SIZES = (
    Size(width=128, layers=5, heads=4, length=512, sequences=8, vocabulary=256),
    Size(width=320, layers=8, heads=5, length=512, sequences=8, vocabulary=1024),
    Size(width=768, layers=12, heads=12, length=512, sequences=8, vocabulary=16_384),
    Size(width=1536, layers=10, heads=12, length=512, sequences=8, vocabulary=16_384),
    Size(width=2048, layers=18, heads=16, length=512, sequences=8, vocabulary=32_768),
)
_REPEATED = 5


def measure(setting: Setting, keep: Keep) -> None:
    """Measure one size after the other, the smallest first."""
    rows: list[Result] = []
    for size in (TINY,) if setting.tiny else _SIZES:
        rows.append(_row(size, setting))
        keep({"rows": rows})
        gc.collect()
        if setting.is_cuda:
            torch.cuda.empty_cache()


def _row(size: Size, setting: Setting) -> Result:
    model = make_model(size, setting)
    [batch] = make_batches(size, setting, count=1)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loss = partial(bfloat16_loss, model, batch)
    row: Result = {"parameters": count_parameters(model), "tokens": size.length * size.sequences}
    row["weights"] = 4 * row["parameters"]
    with peak_memory(setting) as peak:
        row["gradient_ms"] = _milliseconds(lambda: _gradient(model, loss), setting)
        row["gradient_memory"] = peak()
    for parameter in parameters:
        parameter.grad = None
    vector = torch.randn(row["parameters"], device=setting.device)
    vector /= torch.linalg.vector_norm(vector)
    products: dict[str, Tensor] = {}
    scheme = DifferenceScheme(precision=torch.bfloat16)
    ways: dict[str, Callable[[], Any]] = {
        "double_backward": lambda: HessianOperator(loss, parameters, model=model),
        "differences": lambda: DifferenceOperator(loss, parameters, model=model, scheme=scheme),
    }
    for name, open_ in ways.items():
        row |= _product(name, open_, vector, setting, products)
    if len(products) == 2:
        exact, other = products["double_backward"], products["differences"]
        row["apart"] = float(torch.linalg.vector_norm(exact - other) / torch.linalg.vector_norm(exact))
    return row


def _product(
    name: str, open_: Callable[[], Any], vector: Tensor, setting: Setting, products: dict[str, Tensor]
) -> Result:
    """Return the time and the peak of one way, under its name; what does not fit says so."""
    try:
        with peak_memory(setting) as peak:
            synchronize(setting)
            began = time.perf_counter()
            with open_() as operator:
                product = operator(vector)
                synchronize(setting)
                first = time.perf_counter() - began
                ms = _milliseconds(lambda: operator(vector), setting)
            products[name] = product.cpu()  # the next way is to have the device for itself
            return {f"{name}_ms": ms, f"{name}_first_ms": 1e3 * first, f"{name}_memory": peak()}
    except torch.OutOfMemoryError as error:
        return {f"{name}_failed": str(error).partition(". ")[0]}


def _gradient(model: nn.Module, loss: Callable[[], Tensor]) -> None:
    model.zero_grad()
    loss().backward()  # type: ignore[no-untyped-call]


def _milliseconds(run: Callable[[], Any], setting: Setting) -> float:
    """Return the median time of some calls, the first of which is not counted."""
    found = []
    for _ in range(1 + _REPEATED):
        synchronize(setting)
        began = time.perf_counter()
        run()
        synchronize(setting)
        found.append(1e3 * (time.perf_counter() - began))
    return statistics.median(found[1:])
