"""Several runs on common axes: which charts there are, and the words below them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from foreshock.report.captions import CAPTIONS, OVERLAID
from foreshock.report.glossary import linked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foreshock.report.series import Chart

_ALONE = ("countdown", "directions")  # of one run they have several lines, which only mean something together


@dataclass(frozen=True)
class OverlaidChart:
    """One chart of several runs.

    Attributes:
        id: Its key, that of the runs' own chart.
        title: Its title.
        words: Its caption as pieces of text, each with the anchor of a term, or none.
        description: What it shows, for those who don't see it.
    """

    id: str
    title: str
    words: Sequence[tuple[str, str]]
    description: str


def overlaid_charts(drawn: Sequence[tuple[str, Sequence[Chart]]]) -> list[OverlaidChart]:
    """Return the charts that can show several runs at once, in reading order.

    Args:
        drawn: Of each run its label and its charts.
    """
    found = []
    for name, words in {**CAPTIONS, **OVERLAID}.items():
        runs = [label for label, charts in drawn if any(one["id"] == name for one in charts)]
        if runs and name not in _ALONE:
            title, caption = words["title"], words["caption"]
            found.append(OverlaidChart(name, title, linked(caption), f"{title} of {', '.join(runs)}"))
    return found
