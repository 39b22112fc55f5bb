"""A run, or several, as one HTML file that needs nothing else."""

from __future__ import annotations

import html
import json
import math
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock._version import __version__
from foreshock.report.charts import to_mapping
from foreshock.report.comparison import comparison_tables
from foreshock.report.comparison import to_mapping as to_aligned
from foreshock.report.glossary import TERMS, anchor, linked
from foreshock.report.overlaid import overlaid_charts
from foreshock.report.placing import placed
from foreshock.report.summary import RunSummary, summarise
from foreshock.report.tables import (
    Table,
    alarm_table,
    explanation_table,
    rank_table,
    spike_table,
    tradeoff_table,
)
from foreshock.report.text import notes
from foreshock.report.tradeoff import molchan_points
from foreshock.report.verdict import Verdict, verdict
from foreshock.report.words import number, percent
from foreshock.representation import short_line
from foreshock.runlog import Run
from foreshock.runlog.labels import labels_of

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from jinja2 import Environment, Template

    from foreshock.explain import Comparison
    from foreshock.report.series import Chart
    from foreshock.spikes import LossEvent, SpikeOutcome

_MOLCHAN = 160  # units of the drawing of the trade-off, in which the page draws its axes
_HERE = Path(__file__).parent
_MOST_META = 200
_IN_VIEW = 420  # characters: six lines of half a page's width


@dataclass(frozen=True)
class _Section:
    """What the template shows of one run."""

    summary: RunSummary
    verdict: Verdict
    tiles: Sequence[tuple[str, str]]
    notes: Sequence[str]
    ranks: Table
    spikes: Table
    windows: Sequence[tuple[int, int]]
    explained: Table
    alarms: Table
    tradeoff: Table
    molchan: str
    label: str
    charts: Sequence[Chart]
    basis: Sequence[tuple[str, str]]
    data: str


def write_html(
    runs: Sequence[Run], path: str | os.PathLike[str], *, compared: Comparison | None = None
) -> Path:
    """Write the report of one run or several into one HTML file; scripts and styles are inside.

    Args:
        runs: Runs as read from their logs, at least one.
        path: File to write; its folder is made if missing.
        compared: What `foreshock.explain.compare_runs` found about them: it comes first, with charts of all
            runs; None for no comparison.

    Returns:
        The file written.

    Raises:
        ImportError: If jinja2 is missing.
        ValueError: If there is no run.
    """
    if not runs:
        raise ValueError("no runs were passed; a report needs at least one, from read_run(folder)")
    template = _template()
    sections = [_section(run, label) for run, label in zip(runs, labels_of(runs), strict=True)]
    page = template.render(
        sections=sections,
        comparison=None if compared is None else _compared(runs, compared),
        overlaid=overlaid_charts([(one.label, one.charts) for one in sections]) if len(runs) > 1 else (),
        title=sections[0].summary.name if len(runs) == 1 else f"{len(runs)} runs",
        version=__version__,
        styles=_asset("uPlot.min.css") + _asset("report.css"),
        glossary=[(anchor(term), term, meaning) for term, meaning in TERMS.items()],
        scripts=[
            _asset(name) for name in ("uPlot.iife.min.js", "axes.js", "overlays.js", "panel.js", "report.js")
        ],
        # Two hyphens could end the comment that the licence stands in.
        licence=html.escape(_asset("uPlot.LICENSE").strip()).replace("--", "- -"),
    )
    target = Path(path)
    with placed(target) as beside:
        beside.write_text(page, encoding="utf-8")
    return target


def _compared(runs: Sequence[Run], found: Comparison) -> dict[str, Any]:
    data = to_aligned(runs, found)
    return {
        "step": found.step,
        "findings": found.findings,
        "tables": comparison_tables(found),
        "charts": [{**one, "description": _description(one)} for one in data["charts"]],
        "data": embed(data),
    }


def embed(data: Mapping[str, Any]) -> str:
    r"""Return JSON that may stand inside a script element.

    Args:
        data: Plain values, without NaN and infinity.

    Example:
        >>> print(embed({"name": "</script>"}))
        {"name":"\u003c/script\u003e"}
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _template() -> Template:
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'the HTML report needs jinja2, which is missing: pip install "foreshock[report]"'
        ) from error
    return _environment().get_template("report.html.jinja")


@cache  # it keeps the compiled templates: to compile them takes longer than to fill them
def _environment() -> Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"bound": _bound, "in_view": _in_view}
    return environment


def _in_view(sentences: Sequence[str]) -> int:
    """Return how many sentences of a list are shown at once: more would push the charts out of sight."""
    lengths = np.cumsum([len(sentence) for sentence in sentences])
    return max(int((lengths <= _IN_VIEW).sum()), 1)


def _bound(sentence: str) -> str:
    """Return a sentence that breaks no line between a number and its sign."""
    return sentence.replace(" %", "\N{NO-BREAK SPACE}%").replace(" ×", "\N{NO-BREAK SPACE}×")


def _asset(name: str) -> str:
    return (_HERE / "assets" / name).read_text(encoding="utf-8")


def _section(run: Run, label: str) -> _Section:
    summary = summarise(run)
    data = {**to_mapping(run, summary), "label": label}
    return _Section(
        summary=summary,
        label=label,
        verdict=verdict(summary),
        tiles=tiles(summary),
        notes=notes(summary),
        ranks=rank_table(summary),
        spikes=spike_table(summary),
        windows=[_window(outcome) for outcome in summary.outcomes],
        explained=explanation_table(summary.explanations),
        alarms=alarm_table(summary),
        tradeoff=tradeoff_table(summary.tradeoffs),
        molchan=molchan_points(summary.tradeoffs, width=_MOLCHAN, height=_MOLCHAN),
        charts=[
            {**chart, "description": _description(chart), "words": linked(chart["caption"])}
            for chart in data["charts"]
        ],
        basis=_basis(summary),
        data=embed(data),
    )


def _window(outcome: SpikeOutcome[LossEvent]) -> tuple[int, int]:
    """Return the steps to show around a spike, from before its announcement to after its end."""
    spike = outcome.spike
    first = spike.onset if outcome.announced is None else outcome.announced
    margin = max((spike.end - first) // 2, 30)
    return max(first - margin, 0), spike.end + margin


def tiles(summary: RunSummary) -> Sequence[tuple[str, str]]:
    """Return the numbers of a run that stand below its verdict, as pairs of name and words.

    Args:
        summary: The run in numbers.
    """
    if not summary.steps:
        return []
    found = [("steps", f"{summary.steps:,}")]
    if summary.ranks is not None:
        found.append(("ranks", f"{summary.ranks.size:,}"))
    found.append(("loss", f"{number(summary.first_loss)} → {number(summary.last_loss)}"))
    happened = len(summary.outcomes)
    if not summary.forecasts:
        return [
            *found,
            ("spikes" if happened == len(summary.spikes) else "events of the loss", f"{happened:,}"),
        ]
    found.append(("announced", f"{summary.announced} of {happened}"))
    if summary.announced:
        found.append(("median warning", _steps(summary.median_lead)))
    found.append(("false alarms", f"{len(summary.false_alarms):,}"))
    if summary.answered:
        found.append(("answered by the guard", f"{len(summary.answered):,}"))
    found.append(("steps in alarm", percent(summary.coverage.in_alarm)))
    found.append(("steps unknown", percent(summary.coverage.unknown)))
    if math.isfinite(summary.coverage.age):
        found.append(("mean age of readings", _steps(summary.coverage.age)))
    return found


def _steps(steps: float) -> str:
    """Return a number of steps, which need not be whole: ``1 step``, ``32.5 steps``."""
    return f"{number(steps)} {'step' if steps == 1 else 'steps'}"


def _description(chart: Chart) -> str:
    """Return the chart in words, for those who don't see it."""
    x = chart["x"]
    parts = []
    for series in chart["series"]:
        values = [value for value in series["values"] if value is not None]
        if values:
            parts.append(f"{series['label']} between {number(min(values))} and {number(max(values))}")
    return f"{chart['title']}, steps {x[0]:,} to {x[-1]:,}: {'; '.join(parts)}"


def _basis(summary: RunSummary) -> Sequence[tuple[str, str]]:
    """Return what the numbers of a run rest on, as pairs of name and words."""
    probes, definition = summary.probes, summary.definition
    rows = [("Probes", f"{probes.count:,} with a stability ratio, {probes.failed:,} without")]
    if probes.noise:
        rows.append(("Measurements of the noise of batches", f"{probes.noise:,}"))
    if probes.count:
        rows.append(("Hessian products per probe", f"{number(probes.products)} (median)"))
        error = probes.relative_error
        known = "not recorded" if math.isnan(error) else f"{number(100 * error)} % (median bound)"
        rows.append(("Error of the ratio", known))
        rows.append(("Not converged", f"{probes.unconverged:,}"))
        rows.append(("Products computed by", ", ".join(probes.backends) or "not recorded"))
    if math.isfinite(probes.seconds):
        rows.append(("Time in probes", f"{probes.seconds:.1f} s"))
    rows.append(
        (
            "A spike",
            f"a loss above {definition.factor:g} × the level of {definition.window} calm steps, or "
            f"{definition.sigmas:g} σ of their noise above it, and {definition.least:.0%} at least",
        )
    )
    if summary.guard is not None:
        rows.append(("Steps on which the guard acted", f"{summary.guard[1]:,}"))
    rows += [
        (short_line(key.replace("_", " ").capitalize()), short_line(_words(value)))
        for key, value in list(summary.meta.items())[:_MOST_META]
        if key not in ("name", "description", "layers")
    ]
    rows.append(("Log", f"{summary.source}, started {summary.created or 'at an unknown time'}"))
    if summary.starts > 1:
        rows.append(("Resumed", f"{summary.starts - 1} times"))
    rows.append(("Written by", f"foreshock {summary.version}"))
    rows.append(("Command", f"foreshock report {shlex.quote(str(Path(summary.source).parent))}"))
    return rows


def _words(value: object) -> str:
    if isinstance(value, float):
        return number(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value)
