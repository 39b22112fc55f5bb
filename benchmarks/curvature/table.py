"""Turn the JSON of `run` into the Markdown of the documentation. Needs only the standard library.

Run from the root of the repository::

    python -m benchmarks.curvature.table benchmarks/curvature/results/full.json docs/benchmarks/curvature.md
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from benchmarks.markdown import table, write_page

Row = dict[str, Any]
OURS = "foreshock"
TOOLS = {
    OURS: "Foreshock",
    "pyhessian": "PyHessian",
    "hessian_eigenthings": "hessian-eigenthings",
    "curvlinops": "curvlinops + eigsh",
}


def render(record: Row) -> str:
    """Return the page.

    Args:
        record: What `run` wrote.
    """
    parts = [
        _introduction(record),
        "## In short\n\n" + _summary(record["trajectories"], record["tolerance"]),
        *(_case(record, name) for name in _unique(row["case"] for row in record["trajectories"])),
        "## One product\n\n" + _products(record["products"]),
        "## Memory\n\n" + _memory(record["memory"]),
        "## Where tools stop\n\n" + _limits(record["limits"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def ratio_to_ours(row: Row, ours: Row) -> float | None:
    """Return how many times as long a row takes as ours, the median over the points that both have.

    Each side is in units of the F measured beside it, so that a slow minute of the machine cancels.

    Args:
        row: Row of a method.
        ours: Row of Foreshock, of the same case and operator.
    """
    mine = {probe["point"]: probe["units"] for probe in ours["probes"]}
    ratios = [probe["units"] / mine[probe["point"]] for probe in row["probes"] if probe["point"] in mine]
    return statistics.median(ratios) if ratios else None


def _introduction(record: Row) -> str:
    machine = record["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items() if number)
    return f"""# Curvature: speed, accuracy and limits

<!-- Made by benchmarks/curvature/table.py: change that, not this. -->

The largest eigenvalue of the same symmetric matrix, from Foreshock and from three other tools, along real
training runs, at equal accuracy: for every method the cheapest setting is taken whose error against a float64
reference is at most {record["tolerance"]:.1%} at *every* probe. Lines marked *as it comes* show what a tool
does when nothing is set. *raw* is the Hessian, *preconditioned* is Adam's; no other tool has the latter, so
there two of them are handed Foreshock's reading of the optimizer and composed by hand.

F is one forward and backward pass of the same model, timed before and after each probe; the order of the
methods is turned from probe to probe, all in one process. The time contains everything that a probe needs,
from the model to the number. Fused attention is switched off for the others, whose users must do so
themselves. A start from the last vector begins with the true eigenvector one probe earlier, for every method
alike. Errors above the limit are in bold: the largest run takes its settings over from a smaller one.

{machine["processor"]}, {machine["threads"]} thread, Python {machine["python"]}, {versions};
{machine["date"]}. Made by `make bench-curvature` (suite *{record["suite"]}*, {record["minutes"]} minutes)."""


def _summary(rows: list[Row], tolerance: float) -> str:
    """Compare Foreshock's warm start with every tool's documented use and with its best."""
    lines = []
    for case, operator, group in _groups(rows):
        ours = _warm_ours(group)
        if ours is None:
            lines.append([case, operator, "no setting accurate", "", "", *[""] * (len(TOOLS) - 1)])
            continue
        cells = []
        for tool in list(TOOLS)[1:]:
            mine = [row for row in group if row["tool"] == tool and not row["default"] and row["probes"]]
            cold = [_times(ratio_to_ours(row, ours)) for row in mine if not row["warm"]]
            warm = [ratio for row in mine if row["warm"] and (ratio := ratio_to_ours(row, ours)) is not None]
            cells.append((cold[0] if cold else "–") + (f" ({_times(min(warm))})" if warm else ""))
        products = statistics.median(probe["products"] for probe in ours["probes"])
        lines.append([case, operator, f"{products:g}", _units(ours), _worst(ours, tolerance), *cells])
    head = ["run", "matrix", "products", "time, F", "largest error", *list(TOOLS.values())[1:]]
    return (
        "Foreshock from the last vector, at equal accuracy; then how many times as long the others take: as "
        "documented, from random numbers, and in brackets the fastest that can be composed by hand from "
        "their parts so that it starts from the last vector.\n\n" + table(head, lines)
    )


def _case(record: Row, case: str) -> str:
    text = []
    for name, operator, group in _groups(record["trajectories"]):
        if name != case:
            continue
        ours = _warm_ours(group)
        lines = [_line(row, ours, record["tolerance"]) for row in group]
        head = ["method", "setting", "products", "time, F", "× Foreshock", "largest error", "probes"]
        text.append(f"### {operator}\n\n" + table(head, lines))
        size = group[0]["parameters"]
    return f"## {case}: {size:,} parameters\n\n" + "\n\n".join(text)


def _line(row: Row, ours: Row | None, tolerance: float) -> list[str]:
    settings = ", ".join(f"{name} = {value}" for name, value in row["setting"].items())
    setting = "*as it comes*" if row["default"] else settings
    if row["failure"]:
        return [row["method"], setting, "", "", "", _escape(row["failure"]), str(len(row["probes"]))]
    products = sorted(probe["products"] for probe in row["probes"])
    spread = f" ({products[0]}–{products[-1]})" if products[0] < products[-1] else ""
    shown = f"{statistics.median(products):g}" + spread
    ratio = "" if ours is None else _times(ratio_to_ours(row, ours))
    return [row["method"], setting, shown, _units(row), ratio, _worst(row, tolerance), str(len(products))]


def _products(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        name = TOOLS[row["tool"]]
        if row["failure"]:
            lines.append([name, "", "", "", _escape(row["failure"])])
            continue
        low, high = row["spread"]
        lines.append(
            [
                name,
                f"{row['parameters']:,}",
                f"{row['unit_seconds'] * 1e3:.3g}",
                f"{row['open']:.1f}",
                f"{row['product']:.2f} ({low:.2f}–{high:.2f})",
            ]
        )
    return (
        "Transformers of growing size on 128 bytes. *Opening* is what comes before the first product, "
        "the graph where a tool keeps one.\n\n"
        + table(["tool", "parameters", "F, ms", "opening, F", "one product, F"], lines)
    )


def _memory(rows: list[Row]) -> str:
    if not rows:
        return "Not measured in this suite."
    lines = []
    for row in rows:
        if row["failure"]:
            lines.append([row["case"], row["method"], "", "", "", _escape(row["failure"])])
            continue
        more = row["peak_mib"] / row["unit_mib"] if row["unit_mib"] else float("nan")
        cells = [f"{row['products']}", f"{row['unit_mib']:.0f}", f"{row['peak_mib']:.0f}", f"{more:.1f}"]
        lines.append([row["case"], row["method"], *cells])
    return (
        "Peak of the resident set above the trained model, raw Hessian, each method in a process of its own; "
        "beside it that of one forward and backward pass. Vectors of Krylov spaces, numpy's included, "
        "are in it.\n\n" + table(["run", "method", "products", "F, MiB", "probe, MiB", "ratio"], lines)
    )


def _limits(rows: list[Row]) -> str:
    tools = [tool for tool in TOOLS if any(row["tool"] == tool for row in rows)]
    lines = []
    for situation in _unique(row["situation"] for row in rows):
        found = {row["tool"]: row for row in rows if row["situation"] == situation}
        lines.append([situation, *(_verdict(found.get(tool), found) for tool in tools)])
    return (
        "Errors against the largest eigenvalue of the loss that training sees: train mode, the mask or the "
        "sub-batch that the seed draws; or the exception, word for word. Below it, what the call left "
        "changed in the user's model and random numbers.\n\n"
        + table(["situation", *(TOOLS[tool] for tool in tools)], lines)
    )


def _verdict(row: Row | None, found: dict[str, Row]) -> str:
    if row is None:
        return _escape(next(iter(found.values()))["failure"])
    if row["failure"]:
        text = f"`{_escape(row['failure'])}`"
    else:
        text = f"{row['error']:.2%}" if row["error"] < 1 else f"{row['value']:.3g} for {row['reference']:.3g}"
        text = text if row["accurate"] else f"**wrong by {text}**" if row["error"] < 1 else f"**{text}**"
    return text + (f"<br>changed: {', '.join(row['changed'])}" if row["changed"] else "")


def _groups(rows: list[Row]) -> list[tuple[str, str, list[Row]]]:
    keys = _unique((row["case"], row["operator"]) for row in rows)
    return [(case, op, [r for r in rows if (r["case"], r["operator"]) == (case, op)]) for case, op in keys]


def _warm_ours(group: list[Row]) -> Row | None:
    for row in group:
        if row["tool"] == OURS and row["warm"] and not row["default"] and row["probes"]:
            return row
    return None


def _unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _units(row: Row) -> str:
    units = sorted(probe["units"] for probe in row["probes"])
    return f"{statistics.median(units):.1f} ({units[0]:.1f}–{units[-1]:.1f})" if units else ""


def _worst(row: Row, tolerance: float) -> str:
    if not row["probes"]:
        return ""
    error = max(probe["error"] for probe in row["probes"])
    return f"{error:.2%}" if error <= tolerance else f"**{error:.2%}**"


def _times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.1f}×"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    write_page(render)
