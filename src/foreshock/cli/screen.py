"""How a run is doing, for a terminal of any width, with colour or without."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from foreshock.cli.console import natural_width
from foreshock.report.text import unreadable
from foreshock.representation import short_line
from foreshock.runlog.labels import cut
from foreshock.words import count, first_few, number, percent

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from foreshock.live.status import RunStatus

STATE_STYLES = {
    "diverged": "bold red",
    "unreadable": "bold red",
    "spiked": "bold red",
    "danger": "bold red",
    "rising": "yellow",
    "departing": "yellow",
    "recovering": "cyan",
    "calm": "green",
}
_BARS = "▁▂▃▄▅▆▇█"
_WIDE = 52  # columns from which on a label and its words share a line
_LONGEST_NAME, _SHORT_NAME, _SHORTEST_NAME = 48, 20, 8
_HEIGHT = "Spikes, how high"
_DEPARTURES = 3  # of ranks that are said in full
# What a narrow terminal goes without, the first first.
_SPARE = (
    "Last write",
    "Guard",
    "Ratio",
    "Watches",
    "Failed",
    _HEIGHT,
    "Alarms",
    "Loss",
    "Spike ahead",
    "Step",
)


def screen(status: RunStatus, console: Console, *, losses: Sequence[float] = ()) -> RenderableType:
    """Return one screen about a run: the verdict first, then its numbers.

    Args:
        status: How the run is doing.
        console: Where it is printed to.
        losses: Losses to draw in one line; none for no line.
    """
    lines: list[RenderableType] = [
        Text(status.name, "bold"),
        Text(status.words, STATE_STYLES.get(status.state, "bold")),
    ]
    if status.advice:
        lines.append(Text.assemble(("→ ", "bold"), status.advice))
    lines += [Text.assemble(("! ", "bold red"), words) for words in status.misuse[:3]]
    lines += ["", _grid(_rows(status), console)]
    if status.skipped:
        lines += ["", Text(f"Note: {unreadable(status.skipped)}")]
    if len(losses):
        lines += ["", Text.assemble(("loss ", "dim"), sparkline(losses, width=max(console.width - 6, 10)))]
    return Group(*lines)


def runs_table(statuses: Sequence[RunStatus], console: Console) -> Table:
    """Return a table of runs, a row each; what does not fit the terminal is left out, the least first.

    Args:
        statuses: How the runs are doing.
        console: Where it is printed to.
    """
    # A long path must not cost a narrow terminal the columns that say something.
    longest = min(_LONGEST_NAME, max(console.width // 3, _SHORT_NAME))
    rows = [_cells(status, longest) for status in statuses]
    headers = list(rows[0]) if rows else []
    for spare in _SPARE:
        table = _table(headers, rows)
        if not headers or natural_width(console, table) <= console.width:
            break
        if spare == _HEIGHT:
            rows = [
                cells | {"Spikes": Text(f"{one.spikes:,}")} for cells, one in zip(rows, statuses, strict=True)
            ]
        else:
            headers.remove(spare)
    excess = natural_width(console, _table(headers, rows)) - console.width if headers else 0
    if excess > 0:  # of a path the end tells runs apart
        longest = max(len(cells["Run"]) for cells in rows)
        for cells in rows:
            cells["Run"] = Text(cut(cells["Run"].plain, max(longest - excess, _SHORTEST_NAME)))
    return _table(headers, rows)


def sparkline(values: Sequence[float], *, width: int) -> str:
    """Return values as one line of bars, logarithmic if all are positive; of each stretch the highest.

    Args:
        values: Values; one that is not finite is drawn as ×.
        width: Characters at most.

    Example:
        >>> sparkline([1.0, 2.0, 4.0, 8.0, math.nan], width=10)
        '▁▃▆█×'
    """
    shown = len(values) if len(values) <= width else width
    stretches = [
        values[len(values) * i // shown : max(len(values) * (i + 1) // shown, 1)] for i in range(shown)
    ]
    tops = [math.nan if not all(map(math.isfinite, part)) else max(part) for part in stretches]
    finite = [top for top in tops if math.isfinite(top)]
    logarithmic = bool(finite) and min(finite) > 0
    scaled = [math.log(top) if logarithmic and top > 0 else top for top in tops]
    known = [one for one in scaled if math.isfinite(one)]
    low, span = (min(known), max(known) - min(known)) if known else (0.0, 0.0)
    return "".join(
        _BARS[round((one - low) / span * (len(_BARS) - 1)) if 0 < span < math.inf else 0]
        if math.isfinite(one)
        else "×"
        for one in scaled
    )


def ago(seconds: float) -> str:
    """Return how long ago something was, in one unit: ``12 s``, ``3 min``, ``5 h``, ``9 d``.

    Args:
        seconds: Seconds; NaN gives ``–``.

    Example:
        >>> ago(7300.0)
        '2 h'
    """
    if not math.isfinite(seconds):
        return "–"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{round(seconds / size):,} {unit}"
    return f"{round(seconds)} s"


def _rows(status: RunStatus) -> list[tuple[str, str]]:
    """Return the numbers of a run as pairs of label and words."""
    return [
        ("step", _step(status)),
        ("loss", _loss(status) + _lowest(status)),
        ("spike ahead", _chance(status)),
        (status.ratio_name, _ratio(status)),
        ("alarms", _counted(status.alarms, status.last_alarm) + _watches(status)),
        ("spikes", _counted(status.spikes, status.last_spike) + _height(status)),
        ("diverged, NaN", f"{status.failures:,}" if status.failures else "no"),
        ("guard", _guard(status)),
        ("measuring", _measuring(status)),
        *_ranks(status),
        ("log", f"{status.log}, written {ago(status.idle_seconds)} ago"),
    ]


def _ranks(status: RunStatus) -> list[tuple[str, str]]:
    if status.ranks is None:
        return []
    behind, found = first_few(status.ranks_behind), status.departures
    if found is None:
        words = f", of which {behind} ended or wrote no log: see foreshock report" if behind else ""
        return [("ranks", f"{status.ranks:,}{words}")]
    if not found:
        return [("ranks", f"{status.ranks:,}, which agree")]
    more = f"; {count(len(found) - _DEPARTURES, 'more departure')}: see foreshock report"
    rows = [("ranks", f"{status.ranks:,}, not all alike" + (more if len(found) > _DEPARTURES else ""))]
    return [*rows, *(("", short_line(one)) for one in found[:_DEPARTURES])]


def _step(status: RunStatus) -> str:
    if status.step is None:
        return "–"
    planned = f" of {status.steps:,}" if status.steps is not None else ""
    speed = status.steps_a_second
    return f"{status.step:,}{planned}" + (f", {number(speed)} steps/s" if math.isfinite(speed) else "")


def _loss(status: RunStatus) -> str:
    """Return the last loss; one that is NaN was measured, one that is not known was not."""
    return "NaN" if math.isnan(status.loss) and status.failures else _known(status.loss)


def _lowest(status: RunStatus) -> str:
    return f" (lowest {number(status.lowest_loss)})" if math.isfinite(status.lowest_loss) else ""


def _chance(status: RunStatus) -> str:
    if math.isnan(status.probability):
        return "not known"
    within = f" within {status.horizon:,} steps" if status.horizon is not None else ""
    limit = f", alarm at {percent(status.alarm_at)}" if math.isfinite(status.alarm_at) else ""
    level = f"  [{status.level.upper()}]" if status.level else ""
    return f"{percent(status.probability)}{within}{limit}{level}"


def _ratio(status: RunStatus) -> str:
    if not math.isfinite(status.ratio):
        return "not known"
    words = f"{number(status.ratio)}, the edge is {status.edge:g}"
    if status.ratio_step is not None and status.step is not None:
        words += f", measured {count(max(status.step - status.ratio_step, 0), 'step')} ago"
    if math.isfinite(status.edge_at) and status.step is not None and status.edge_at > status.step:
        high = f"{status.edge_high:,.0f}" if math.isfinite(status.edge_high) else "open"
        words += f"; the edge is expected at step {status.edge_at:,.0f} ({status.edge_low:,.0f} – {high})"
    return words


def _counted(n: int, last: int | None) -> str:
    return "none" if last is None else f"{n:,}, the last at step {last:,}"


def _watches(status: RunStatus) -> str:
    return f"; {count(status.watches, 'watch', 'watches')}" if status.watches else ""


def _height(status: RunStatus) -> str:
    height = _high(status)
    return f", up to {height}" if height else ""


def _high(status: RunStatus) -> str:
    if math.isfinite(status.highest_rise):
        return f"+{number(status.highest_rise)}"
    return f"{number(status.highest)}×" if math.isfinite(status.highest) else ""


def _guard(status: RunStatus) -> str:
    if status.last_guard_step is not None:
        acted = count(status.guard_steps, "step")
        return f"{status.guard} acted on {acted}, the last {status.last_guard_step:,}"
    return f"{status.guard}, not acted" if status.guard else "none"


def _measuring(status: RunStatus) -> str:
    if not status.probes:
        return "no measurement"
    words = f"{count(status.probes, 'measurement')}, {number(status.probe_seconds)} s"
    if math.isfinite(status.overhead):
        words += f", {percent(status.overhead)} of the run's time"
    if math.isfinite(status.products_per_step):
        words += f"; {number(status.products_per_step)} Hessian products a step"
    return words


def _known(value: float) -> str:
    return "–" if math.isnan(value) else number(value)


def _grid(rows: Sequence[tuple[str, str]], console: Console) -> RenderableType:
    if console.width < _WIDE:
        return Group(*(Text.assemble((f"{label}: ", "dim"), words) for label, words in rows))
    if not console.is_terminal:  # where a table would end its lines with blanks
        width = max(len(label) for label, _ in rows)
        return Group(*(Text(f"{label:{width}}  {words}") for label, words in rows))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, words in rows:
        grid.add_row(Text(label), Text(words))
    return grid


def _cells(status: RunStatus, longest: int) -> dict[str, Text]:
    chance = "–" if math.isnan(status.probability) else percent(status.probability)
    name = status.place if status.name in status.place else f"{status.place} ({status.name})"
    shown = {
        "Run": cut(name, longest),
        "State": status.state,
        "Step": "–" if status.step is None else f"{status.step:,}",
        "Loss": _loss(status),
        "Spike ahead": chance,
        "Ratio": _known(status.ratio),
        "Alarms": f"{status.alarms:,}",
        "Watches": f"{status.watches:,}",
        "Spikes": f"{status.spikes:,}" + (f" ({_high(status)})" if _high(status) else ""),
        "Failed": f"{status.failures:,}",
        "Guard": f"{status.guard_steps:,}" if status.guard or status.guard_steps else "–",
        "Last write": ago(status.idle_seconds),
    }
    cells = {label: Text(words) for label, words in shown.items()}
    cells["State"].stylize(STATE_STYLES.get(status.state, ""))
    if status.level == "alarm":
        cells["Spike ahead"].stylize("bold red")
    return cells


def _table(headers: Sequence[str], rows: Sequence[dict[str, Text]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        left = header in ("Run", "State")
        table.add_column(header, justify="left" if left else "right", no_wrap=True, overflow="ellipsis")
    for cells in rows:
        table.add_row(*(cells[header] for header in headers))
    return table
