"""How results show in a notebook: a title, a few lines, and a curve. All text is escaped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from foreshock.representation import short_line
from foreshock.words import number

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WIDTH, _HEIGHT, _EDGE = 560, 120, 4
_STRETCHES = 280
_WIDE = 30.0  # highest over lowest value from which an axis is logarithmic
_BOX = (
    "display:inline-block;padding:.6em .9em;border:1px solid rgba(128,128,128,.45);border-radius:6px;"
    "font:13px/1.5 system-ui,sans-serif;max-width:60em"
)
_NAME = "opacity:.7;white-space:nowrap"
_CELL = "text-align:left;vertical-align:top;padding:0 1em 0 0;font-size:inherit;background:none"


@dataclass(frozen=True)
class Curve:
    """A curve to draw.

    Attributes:
        x: Its places, in order, shape (n,).
        y: Its values, shape (n,); what is not finite is a gap.
        name: What the values are.
        across: What the places are.
        mark: A place to mark with a line; None for none.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    name: str
    across: str
    mark: float | None = None


@dataclass(frozen=True)
class Card:
    """What a result shows of itself in a notebook, and printed as text.

    Attributes:
        title: What it is.
        rows: Names and words, in order; those without words are left out.
        curve: A curve below; None for none.
    """

    title: str
    rows: tuple[tuple[str, str], ...] = ()
    curve: Curve | None = None

    def __str__(self) -> str:
        """Return the title and a line for each row."""
        lines = [f"  {short_line(name)}: {short_line(words)}" for name, words in self.rows if words]
        return "\n".join([short_line(self.title), *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr style="background:none"><td style="{_CELL};{_NAME}">{_text(name)}</td>'
            f'<td style="{_CELL}">{_text(words)}</td></tr>'
            for name, words in self.rows
            if words
        )
        drawn = "" if self.curve is None else draw(self.curve)
        return f'<div style="{_BOX}"><b>{_text(self.title)}</b><table>{rows}</table>{drawn}</div>'


def draw(curve: Curve) -> str:
    """Return a curve as SVG: the lowest and highest of each stretch are kept, and gaps stay gaps.

    Args:
        curve: The curve; empty if nothing of it is finite.
    """
    import numpy as np

    finite = np.isfinite(curve.x) & np.isfinite(curve.y)
    if not finite.any():
        return ""
    left, right = float(curve.x[finite].min()), float(curve.x[finite].max())
    low, high = float(curve.y[finite].min()), float(curve.y[finite].max())
    logarithmic = low > 0 and high > _WIDE * low
    scale = np.log if logarithmic else np.asarray
    bottom, top = float(scale(low)) / 2, float(scale(high)) / 2  # halves: their difference does not overflow

    def across(x: float) -> float:
        return _EDGE + (_WIDTH - 2 * _EDGE) * ((x - left) / (right - left) if right > left else 0.5)

    def up(y: float) -> float:
        share = (float(scale(y)) / 2 - bottom) / (top - bottom) if top > bottom else 0.5
        return _HEIGHT - _EDGE - (_HEIGHT - 2 * _EDGE) * share

    parts = [
        "M" + "L".join(f"{across(x):.1f} {up(y):.1f}" for x, y in part)
        for part in _parts(_thinned(curve, finite))
    ]
    words = f"{curve.name} {number(low)} to {number(high)}{', logarithmic' if logarithmic else ''}"
    words += f"; {curve.across} {number(left)} to {number(right)}"
    mark = ""
    if curve.mark is not None and left <= curve.mark <= right:
        place = f"{across(curve.mark):.1f}"
        mark = f'<path d="M{place} 0V{_HEIGHT}" stroke="#c0392b" stroke-dasharray="3 3" fill="none"/>'
        words += f"; dashed at {number(curve.mark)}"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="{_text(words)}" style="max-width:100%"><path d="{"".join(parts)}" stroke="#7b4fb5" '
        f'stroke-width="1.3" stroke-linecap="round" fill="none"/>{mark}</svg>'
        f'<div style="opacity:.7">{_text(words)}</div>'
    )


def _thinned(curve: Curve, finite: NDArray[Any]) -> list[tuple[float, float] | None]:
    """Return the points to draw, None for a gap."""
    import numpy as np

    kept: list[tuple[float, float] | None] = []
    for places in np.array_split(np.arange(len(curve.x)), min(_STRETCHES, len(curve.x))):
        known = places[finite[places]]
        if not len(known):
            kept.append(None)
            continue
        values = curve.y[known]
        chosen = sorted({int(known[0]), int(known[values.argmin()]), int(known[values.argmax()])})
        kept += [(float(curve.x[one]), float(curve.y[one])) for one in chosen]
    return kept


def _parts(points: list[tuple[float, float] | None]) -> Iterator[list[tuple[float, float]]]:
    part: list[tuple[float, float]] = []
    for point in [*points, None]:
        if point is not None:
            part.append(point)
        elif part:
            # A single point is a line of no length, which round ends make a dot.
            yield part if len(part) > 1 else part * 2
            part = []


def _text(words: str) -> str:
    return escape(short_line(words))
