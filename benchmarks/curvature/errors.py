"""How wrong eigenvalues are, over what they claim, on thousands of small networks with known dense Hessians.

Run from the root of the repository::

    python -m benchmarks.curvature.errors --nets 2000 --page docs/benchmarks/errors.md

The figures are kept in benchmarks/curvature/results/errors.json; with ``--nets 0`` the page is written from
them. Peers are measured where they are installed, as they come; hessian-eigenthings at as many steps as it
takes for ten eigenvalues, its default, since for one it would take two.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from benchmarks.curvature.cases import Problem
from benchmarks.curvature.methods import methods
from benchmarks.curvature.nets import Net, random_nets
from benchmarks.curvature.ours import open_operator
from torch import Tensor

import foreshock
from foreshock.curvature import Prober
from foreshock.curvature.form import ONE_CALL_CAUTION
from foreshock.eigen import largest_eigenvalue
from foreshock.isolation import isolated
from foreshock.operators import HessianOperator
from foreshock.preconditioner import read_preconditioner

RESULTS = Path(__file__).parent / "results" / "errors.json"
EDGES = (1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0, 2.0)
"""Of the histogram of true over claimed error."""

OURS = ("one call", "light solver", "first probe", "warm probe")

_ROUNDING = 1e-9  # relative; below it, dense eigenvalues are no better than the product
_KEEP_EVERY = 50  # networks: a run that is stopped has kept what it measured
_STEPS = 5  # of training from a cold probe to the warm one
_LANCZOS_STEPS = 20  # of hessian-eigenthings for ten eigenvalues
_LARGE = (5e-3, 5e-2)  # relative errors that are counted, whatever is claimed


@dataclass(frozen=True)
class Reading:
    """One eigenvalue.

    Attributes:
        way: How it was measured.
        net: Seed of the network.
        true: Relative error against the dense matrix.
        claimed: Relative error that it claims; None if it claims none.
        products: Hessian products spent.
        converged: Whether it claims to have met its tolerance.
    """

    way: str
    net: int
    true: float
    claimed: float | None
    products: int
    converged: bool

    @property
    def ratio(self) -> float:
        """True over claimed error; zero where both are rounding, and NaN where none is claimed."""
        if self.claimed is None:
            return math.nan
        if self.true <= _ROUNDING:
            return 0.0
        return self.true / self.claimed if self.claimed > 0 else math.inf


def measure(net: Net) -> Iterator[Reading]:
    """Yield one reading of each way to measure a network; none where nothing has curvature."""
    net.backward()
    dense = net.hessian()
    top = float(torch.linalg.eigvalsh(dense)[-1])
    if not top > 0:
        return
    found = foreshock.sharpness(net.model, net.loss_fn, net.batch)
    yield _reading("one call", net, top, found)
    yield _reading("light solver", net, top, _light(net))
    yield from _peers(net, top)
    prober = Prober(net.model, net.loss_fn)
    for number, way in enumerate(("first probe", "warm probe")):
        net.backward()
        step = read_preconditioner(net.optimizer)
        root = step.scale_root()
        dense = dense if way == "first probe" else net.hessian()
        ratio = float(torch.linalg.eigvalsh(root[:, None] * dense * root)[-1])
        # Random numbers are new at each step.
        reading = prober.probe(net.batch, step, step=2 * net.seed + number)
        error, spent = reading.error_bound / abs(ratio), reading.products
        true = (ratio - reading.stability_ratio) / abs(ratio)
        yield Reading(way, net.seed, true, error, spent, reading.converged)
        net.step(_STEPS)


def _reading(way: str, net: Net, top: float, found: Any) -> Reading:
    return Reading(
        way, net.seed, (top - found.value) / top, found.error / top, found.products, found.converged
    )


def _light(net: Net) -> Any:
    generator = torch.Generator().manual_seed(net.seed)
    with (
        isolated(net.model),
        HessianOperator(lambda: net.loss_fn(net.model, net.batch), net.parameters) as hessian,
    ):
        shape, dtype = hessian.gradient.shape, hessian.gradient.dtype
        start = torch.randn(shape, generator=generator, dtype=dtype)
        rule = foreshock.StoppingRule(max_products=40, caution=ONE_CALL_CAUTION)
        return largest_eigenvalue(hessian, start, rule, solver="light")


def _peers(net: Net, top: float) -> Iterator[Reading]:
    problem = Problem(net.model, net.criterion, net.batch, net.optimizer)
    for method in methods():
        if method.tool == "foreshock" or method.warm or find_spec(method.tool) is None:
            continue
        setting = {"max_iter": min(_LANCZOS_STEPS, problem.size)} if "lanczos" in method.name else {}
        truth = _modulus_in_evaluation(net) if method.tool == "pyhessian" else top
        if not truth:
            continue
        with isolated(net.model):
            # Each solver on the same exact product, where it takes one.
            shared = method.share(problem, open_operator(problem))
            found = method.solve(shared, setting, None, net.seed)
        true, claimed = abs(truth - found.value) / abs(truth), found.claimed
        claimed = None if claimed is None else claimed / abs(truth)
        yield Reading(method.name, net.seed, true, claimed, found.products, found.converged)


def _modulus_in_evaluation(net: Net) -> float:
    """Return what PyHessian seeks: the eigenvalue of largest modulus, of the model in eval mode."""
    net.model.eval()
    values = torch.linalg.eigvalsh(net.hessian())
    net.model.train()
    return float(values[values.abs().argmax()])


def absent_peers() -> list[str]:
    """Return the tools that are not installed."""
    tools = dict.fromkeys(method.tool for method in methods())
    return [tool for tool in tools if find_spec(tool) is None]


def summarise(readings: list[Reading]) -> dict[str, Any]:
    """Return what the page shows, as plain values: one entry for each way, and the readings beyond."""
    ways: dict[str, Any] = {}
    for way in dict.fromkeys(one.way for one in readings):
        own = [one for one in readings if one.way == way]
        ways[way] = {
            "readings": len(own),
            "products": statistics.fmean(one.products for one in own),
            "most products": max(one.products for one in own),
            "converged": statistics.fmean(one.converged for one in own),
            "large": [statistics.fmean(one.true > limit for one in own) for limit in _LARGE],
            "largest error": max(one.true for one in own),
        }
        if own[0].claimed is not None:
            ways[way] |= {
                "beyond": sum(one.ratio > 1 for one in own),
                "worst": max(one.ratio for one in own),
                "histogram": histogram(own),
            }
    return {
        "nets": len({one.net for one in readings}),
        "absent": absent_peers(),
        "ways": ways,
        "beyond": [asdict(one) for one in readings if one.way in OURS and one.ratio > 1],
    }


def histogram(readings: list[Reading]) -> list[float]:
    """Return the share of the readings between successive edges; the first from zero, the last to infinity.

    Args:
        readings: At least one.
    """
    ratios = torch.tensor([one.ratio for one in readings], dtype=torch.float64)
    places = torch.bucketize(ratios, torch.tensor(EDGES, dtype=torch.float64))
    counts: Tensor = torch.bincount(places, minlength=len(EDGES) + 1)
    return [float(count) / len(readings) for count in counts]


def page(found: dict[str, Any]) -> str:
    """Return the page in Markdown.

    Args:
        found: What `summarise` returned.
    """
    nets, ways = found["nets"], found["ways"]
    lines = [
        "# Curvature: errors, true and claimed",
        "",
        "<!-- Made by benchmarks/curvature/errors.py: change that, not this. -->",
        "",
        f"The largest eigenvalue of {nets:,} small random networks in float64 (MLPs, CNNs, attention; tied,",
        "frozen, batch-normalised; twins whose largest eigenvalues nearly coincide), at their start or after",
        "some training, against the dense Hessian. An eigenvalue is *beyond* if its true error exceeds the",
        "one it claims. Made by",
        f"`python -m benchmarks.curvature.errors --nets {nets} --page docs/benchmarks/errors.md`.",
        "",
        "| | readings | products, mean (most) | says converged | beyond | worst true ÷ claimed "
        "| off by > 0.5 % | > 5 % | largest error |",
        "|" + " --- |" * 9,
        *(_row(way, own) for way, own in ways.items()),
        "",
        "*One call* is `sharpness`, *light solver* the one that holds six vectors, *first probe* what a",
        f"monitor measures at first, *warm probe* what it measures {_STEPS} steps of training later.",
    ]
    if len(ways) > len(OURS):
        lines += [
            "",
            "The others are as they come, but for hessian-eigenthings, whose Lanczos takes the "
            f"{_LANCZOS_STEPS} steps of its",
            "default of ten eigenvalues instead of the two of one. It claims its residual; eigsh claims its",
            "tolerance, which is rounding; PyHessian claims nothing, and is compared with what it seeks, the",
            "eigenvalue of largest modulus in eval mode. The other two run on Foreshock's product: that of",
            "curvlinops refuses batch normalisation in train mode.",
        ]
    if found["absent"]:
        lines.append(f"Not installed where this was made, and not measured: {', '.join(found['absent'])}.")
    claim = {way: own["histogram"] for way, own in ways.items() if "histogram" in own}
    lines += ["", "## True over claimed error, % of the readings", "", f"| | {' | '.join(claim)} |"]
    lines.append("| --- |" + " --- |" * len(claim))
    names = [f"{edge:g}" for edge in EDGES]
    for index, (low, high) in enumerate(zip(["0", *names], [*names, "∞"], strict=True)):
        cells = " | ".join(f"{100 * shares[index]:.2f}" for shares in claim.values())
        lines.append(f"| {low} to {high} | {cells} |")
    return "\n".join(lines) + "\n"


def _row(way: str, own: dict[str, Any]) -> str:
    readings, beyond = own["readings"], own.get("beyond")
    claims = "– | –" if beyond is None else f"{beyond} ({beyond / readings:.2%}) | {own['worst']:.3g}"
    # Figures that were kept before these shares were counted have none.
    large = " | ".join(f"{share:.1%}" for share in own["large"]) if "large" in own else "– | –"
    return (
        f"| {way} | {readings:,} | {own['products']:.1f} ({own['most products']}) | {own['converged']:.1%} "
        f"| {claims} | {large} | {own['largest error']:.2%} |"
    )


def main() -> None:
    """Measure, keep the figures, and write the page."""
    parser = argparse.ArgumentParser(description="true over claimed errors of eigenvalues")
    parser.add_argument("--nets", type=int, default=2000, help="number of networks; 0 to use what is kept")
    parser.add_argument("--first", type=int, default=0, help="seed of the first network")
    parser.add_argument("--page", type=Path, help="where to write the page; none by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="There is a performance drop")
    warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
    readings: list[Reading] = []
    for count, net in enumerate(random_nets(options.nets, options.first), start=1):
        readings += list(measure(net))
        if count % _KEEP_EVERY == 0 or count == options.nets:
            RESULTS.write_text(json.dumps(summarise(readings), indent=1) + "\n")
    text = page(json.loads(RESULTS.read_text()))
    if options.page is not None:
        options.page.write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
