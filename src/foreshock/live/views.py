"""What the page draws: series in few points, layers over steps, and the report's words on one run."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.explain.layers import layer_name, types_in
from foreshock.live.charts import CHARTS
from foreshock.live.marks import marks
from foreshock.report.html import tiles
from foreshock.report.layermaps import layer_maps
from foreshock.report.tables import Table, alarm_table, rank_table, spike_table
from foreshock.report.text import notes
from foreshock.report.verdict import verdict
from foreshock.representation import short_line
from foreshock.runlog.numbers import as_number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from foreshock.live.analysis import Analysed
    from foreshock.live.run import LiveRun

MOST_POINTS = 20_000


def series(
    run: LiveRun,
    names: Sequence[str],
    *,
    within: tuple[float, float],
    points: int,
    since: Mapping[str, int] | None = None,
) -> tuple[dict[str, Any], list[NDArray[np.float64]]]:
    """Return the series of some charts: what they are, and their numbers.

    Args:
        run: The run.
        names: Names of charts; unknown ones are left out.
        within: First and last step.
        points: About so many points a line.
        since: By chart, how many rows whoever asks has already: only what came after is returned.

    Returns:
        A header – `id` and `generation` of the run, and of each chart its `id`, `rows` (to be given as
        `since` next time), `points` and number of `lines` – and the arrays of it, the steps first.
    """
    arrays, drawn = [], []
    points = min(max(points, 30), MOST_POINTS)
    with run.lock:
        for chart in CHARTS:
            if chart.name not in names:
                continue
            curve = run.curves[chart.kind]
            columns = [column for _, _, column in chart.lines]
            begin = (since or {}).get(chart.name, 0)
            found = curve.view(columns, first=within[0], last=within[1], points=points, since=begin)
            drawn.append(
                {"id": chart.name, "rows": len(curve), "points": len(found[0]), "lines": len(columns)}
            )
            arrays += found
        return {"id": run.key, "generation": run.generation, "charts": drawn}, arrays


def packed(parts: Sequence[tuple[dict[str, Any], list[NDArray[np.float64]]]]) -> bytes:
    """Return headers and numbers of several runs as one message: no number is spelled out in digits.

    The length of the headers as four bytes, the headers as JSON, blanks up to a multiple of eight bytes, and
    all numbers as doubles, the lowest byte first.

    Args:
        parts: Of each run what `series` returns.
    """
    headers = json.dumps([header for header, _ in parts]).encode()
    headers += b" " * (-(len(headers) + 4) % 8)
    numbers = [array.astype("<f8").tobytes() for _, arrays in parts for array in arrays]
    return struct.pack("<I", len(headers)) + headers + b"".join(numbers)


def details(run: LiveRun, analysed: Analysed | None) -> dict[str, Any]:
    """Return what the page says of the run that is in front: plain JSON values.

    Args:
        run: The run.
        analysed: Its summary; None while it is made.
    """
    with run.lock:
        found: dict[str, Any] = {
            "id": run.key,
            "generation": run.generation,
            "version": -1 if analysed is None else analysed.version,
            "marks": marks(run, analysed),
            "basis": _basis(run),
            "tensors": _tensors(run),
        }
    if analysed is not None:
        summary = analysed.summary
        said = verdict(summary)
        found |= {
            "verdict": {"happened": said.happened, "why": said.why, "advice": said.advice},
            "tiles": tiles(summary),
            "notes": notes(summary),
            # The page links the rows of the first to its charts.
            "tables": [_table(of(summary)) for of in (spike_table, alarm_table, rank_table)],
            "onsets": [outcome.spike.onset for outcome in summary.outcomes],
        }
    return found


def heat(run: LiveRun) -> dict[str, Any]:
    """Return quantities by layer over steps, the highest of each stretch: plain JSON values.

    Args:
        run: The run; its readings say where the unstable direction lies, and more where that is logged.

    Returns:
        `steps` of the stretches, and `maps`: each with a `title`, the `layers` from the largest, and
        `values`, a row a layer, null where nothing was measured.
    """
    with run.lock:
        readings, types = run.log.by_layer, types_in(run.meta)
    steps, maps = layer_maps(readings, types)
    return {"id": run.key, "steps": steps, "maps": [asdict(one) for one in maps]}


def _table(table: Table) -> dict[str, Any]:
    return {"title": table.title, "headers": table.headers, "rows": table.rows}


def _tensors(run: LiveRun) -> dict[str, Any] | None:
    """Return what was measured last by layer or tensor, as a table."""
    found = run.log.by_layer
    if not found:
        return None
    step, blocks = found[-1]
    types = types_in(run.meta)
    rows = [
        {
            "name": layer_name(short_line(str(block["name"])), types),
            "values": {
                name: value
                for name, value in block.items()
                if name != "name" and isinstance(value, (int, float)) and math.isfinite(as_number(value))
            },
        }
        for block in blocks
    ]
    return {"step": step, "rows": rows}


def _basis(run: LiveRun) -> list[tuple[str, str]]:
    """Return what the header says of the run, in words."""
    rows = [
        (short_line(str(key).replace("_", " ").capitalize()), short_line(_words(value)))
        for key, value in list(run.meta.items())[:100]
        if key not in ("name", "description", "layers")
    ]
    return [*rows, ("Log", short_line(str(run.path)))]


def _words(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value)
