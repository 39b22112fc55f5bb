"""The page on scaling: what was counted in several processes, and what follows from it at other sizes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmarks.markdown import table
from benchmarks.scaling.model import (
    RUNS,
    SHARDS,
    Cost,
    Machine,
    Measured,
    Run,
    cost_of,
    measured_from,
    passes_of,
)

RESULTS = Path(__file__).parent / "results" / "scaling.json"
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "scaling.md"
_TEMPLATE = Path(__file__).with_name("template.md")
_NAMES = {
    "alone": "one process",
    "ddp": "DDP",
    "fsdp2": "FSDP2",
    SHARDS: "FSDP2, in shards",
    "fsdp2-tp": "FSDP2 × TP",
}


def render(record: Mapping[str, Any]) -> str:
    """Return the page of a record.

    Args:
        record: What was measured, where and when.
    """
    results = record["results"]
    measured, machine = measured_from(results), Machine()
    costs = [(run, cost_of(run, measured, machine)) for run in RUNS]
    words = {
        "MACHINE": record["machine"],
        "EXCHANGED": _exchanged(results),
        "MEMORY": _memory(results),
        "CONSTANTS": _values("measured", measured),
        "ASSUMED": _values("assumed", machine),
        "COSTS": table(_HEAD, [_row(run, cost, machine) for run, cost in costs]),
        "PRODUCTS": f"{measured.products:g}",
        "INTERVAL": f"{passes_of(measured.products) / 0.05:,.0f}",
        "WORLDS": ", ".join(results),
        "SHARD_VECTORS": f"{measured.shard_vectors:.0f}",
        "WHOLE": f"{measured.whole:.0f}",
        "FITS": ", ".join(run.name for run, cost in costs if cost.fits(machine)) or "none",
        "MISFITS": ", ".join(run.name for run, cost in costs if not cost.fits(machine)) or "none",
    }
    page = _TEMPLATE.read_text(encoding="utf-8")
    for name, text in words.items():
        page = page.replace("{{" + name + "}}", text)
    return page


def write_page() -> None:
    """Write the page of the published results."""
    PAGE.write_text(render(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")


def _values(title: str, record: Measured | Machine) -> str:
    """Return the fields of a record as a table, with the words of its docstring."""
    text = " ".join((type(record).__doc__ or "").split())
    names = [one.name for one in fields(record)]
    rows = []
    for place, name in enumerate(names):
        end = f" {names[place + 1]}: " if place + 1 < len(names) else None
        words = text.partition(f" {name}: ")[2]
        words = words.partition(end)[0] if end else words
        rows.append([words.strip().rstrip("."), f"{getattr(record, name):.3g}"])
    return table([title, "value"], rows)


def _name(world: str, way: str) -> str:
    # Of two processes that share layers none is left for the other dimension.
    return "TP" if (world, way) == ("2", "fsdp2-tp") else _NAMES[way]


def _exchanged(results: Mapping[str, Any]) -> str:
    head = [
        "ranks", "way", "products", "sums of whole vectors", "bytes of each ÷ 4n", "short messages",
        "bytes of each", "collectives of the model", "of a training step", "steps between", "product ÷ step",
    ]  # fmt: skip
    rows = []
    for world, ways in results.items():
        for way, row in ways.items():
            probe, n = row["counted"], row["parameters"]
            long, short = probe["long"], probe["short"]
            time = row["timed"]["seconds"] / row["timed"]["products"] / row["step_seconds"]
            rows.append(
                [
                    world,
                    _name(world, way),
                    f"{probe['products']}",
                    f"{long:g}",
                    f"{probe['long_bytes'] / long / (4 * n):.2f}" if long else "–",
                    f"{short:g}",
                    f"{probe['short_bytes'] / short:,.0f}" if short else "–",
                    f"{probe['groups']:g}",
                    "–" if way == "ddp" else f"{row['gradients']['collectives']:g}",  # DDP's own are in C++
                    "nothing" if row["quiet_steps"] == row["steps_between"] else "something",
                    f"{time:.1f}",
                ]
            )
    return table(head, rows)


def _memory(results: Mapping[str, Any]) -> str:
    rows = []
    for world, ways in results.items():
        for way, row in ways.items():
            (few, low), (many, high) = sorted((int(one), peaks) for one, peaks in row["memory"].items())
            slopes = {name: (high[name] - low[name]) / (many - few) for name in ("step", "probe")}
            fixed = (low["probe"] - slopes["probe"] * few) / (4 * row["parameters"])
            rows.append(
                [
                    world,
                    _name(world, way),
                    f"{row['here'] / row['parameters']:.2f} n",
                    f"{fixed:.1f} × 4n",
                    f"{row['counted']['products']}",
                    f"{slopes['probe'] / slopes['step']:.1f}",
                ]
            )
    head = ["ranks", "way", "of a rank", "a probe, without activations", "products", "activations ÷ a step's"]
    return table(head, rows)


_HEAD = [
    "run", "a step, computed", "training holds", "a probe adds", "host", "sent for a product",
    "a product: derivatives + messages", "a probe", "every so many steps", "time of probes",
    "fits 80 GB",
]  # fmt: skip


def _row(run: Run, cost: Cost, machine: Machine) -> list[str]:
    return [
        run.name,
        _seconds(cost.step_seconds),
        _bytes(cost.training_memory),
        _bytes(cost.probe_memory),
        _bytes(cost.host_memory),
        _bytes(cost.sent),
        f"{_seconds(cost.product_compute)} + {_seconds(cost.product_exchange)}",
        _seconds(cost.probe_seconds),
        f"{cost.interval:,.0f}",
        f"{cost.share:.0%}".replace("%", " %"),
        "yes" if cost.fits(machine) else "**no**",
    ]


def _bytes(value: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e3:.3g} kB"


def _seconds(value: float) -> str:
    return f"{value:.2g} s" if value < 100 else f"{value:,.0f} s"
