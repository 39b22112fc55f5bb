"""An explanation as plain text, for a terminal or a log."""

from __future__ import annotations

import math

from foreshock.explain.record import Explanation
from foreshock.explain.tensors import TensorTable
from foreshock.representation import printable
from foreshock.words import count, number

_ROWS, _IDS = 6, 64


def explanation_text(found: Explanation) -> str:
    """Return an explanation as lines of text, safe to print on a terminal whoever wrote the log.

    Args:
        found: The explanation of one event.
    """
    lines = [f"{_headline(found)}", ""]
    lines += [f"Cause: {sentence}." for sentence in found.why]
    lines.append(f"Recovery: {found.recovery.outcome}: {found.recovery.words}.")
    for title, rows in (("Where", found.where), ("What to do", found.advice), ("Missing", found.missing)):
        lines += _listed(title, rows)
    if found.ids:
        more = len(found.ids) - _IDS
        shown = ", ".join(map(str, found.ids[:_IDS]))
        lines.append(f"Examples of that step: {shown}{f' and {more:,} more (--json)' if more > 0 else ''}")
    if found.signals:
        lines += ["", "What was visible when"]
        for signal in found.signals:
            value = "" if math.isnan(signal.value) else f"  ({number(signal.value)})"
            lines.append(f"  step {signal.step:>7,}  {_lead(signal.lead):>18}  {signal.words}{value}")
    if found.stages:
        lines += ["", "Stages"]
        lines += [
            f"  steps {span.first:,}–{span.last:,}  {span.stage.replace('_', ' ')}" for span in found.stages
        ]
    if found.tensors is not None and found.tensors.rows:
        lines += ["", *table_text(found.tensors)]
    if found.examination is not None:
        lines += ["", f"Tested by training again from step {found.examination.start:,}:"]
        lines += [f"  - {words[0].upper()}{words[1:]}." for words in found.examination.words]
    return "\n".join(map(printable, lines)) + "\n"


def table_text(table: TensorTable) -> list[str]:
    """Return a table of tensors as lines of text, its first rows by its own order.

    Args:
        table: The table.
    """
    headers = ("tensor", "update RMS", "‖Δθ‖/‖θ‖", "v/g²", "RMS g/√v", "eigenvector", "‖θ‖ growth", "")
    cells: list[tuple[str, ...]] = [headers]
    for row in table.rows[:_ROWS]:
        share = "–" if math.isnan(row.share) else f"{100 * row.share:.0f} %"
        values = (row.update_rms, row.relative_update, row.lag, row.burst)
        shown = ["–" if math.isnan(value) else number(value) for value in values]
        growth = "–" if math.isnan(row.norm_growth) else f"{row.norm_growth:.2f}×"
        lost = f"{row.non_finite} not finite" if row.non_finite else ""
        cells.append((row.name, *shown, share, growth, lost))
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    lines = [
        ("  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))).rstrip()
        for row in cells
    ]
    more = len(table.rows) + table.left_out - _ROWS
    title = f"Tensors at step {table.step:,}" + (f" (and {more:,} more)" if more > 0 else "")
    return [title, *lines]


def _headline(found: Explanation) -> str:
    if found.kind == "non-finite":
        return f"Step {found.onset:,}: the loss was not finite"
    height = f", {number(found.height)} × its level" if math.isfinite(found.height) else ""
    what = {"spike": "a spike", "divergence": "the loss rose and stayed up", "climb": "the loss climbed"}
    span = f"steps {found.onset:,}–{found.end:,}" if found.end > found.onset else f"step {found.onset:,}"
    return f"{span[0].upper()}{span[1:]}: {what[found.kind]}{height}, highest at step {found.peak:,}"


def _lead(steps: int) -> str:
    if not steps:
        return "at the onset"
    return f"{count(abs(steps), 'step')} {'ahead' if steps > 0 else 'after'}"


def _listed(title: str, rows: tuple[str, ...]) -> list[str]:
    if len(rows) == 1:
        return [f"{title}: {rows[0]}"]
    return [f"{title}:", *(f"  - {row}" for row in rows)] if rows else []
