"""Numbers and tables as the pages show them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

UNKNOWN = "–"
_FIELD = re.compile(r"\{\{(.*?)\}\}")


def shown(value: float) -> str:
    """Return a number with three digits.

    Example:
        >>> [shown(value) for value in (0.12345, 10000.0, 1234567.0, float("nan"), float("inf"))]
        ['0.123', '10,000', '1.23e+06', '–', '∞']
    """
    if math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
    return text.replace("-", "−") if text.startswith("-") else text


def percent(value: float) -> str:
    """Return a share in per cent.

    Example:
        >>> percent(0.6667), percent(float("nan"))
        ('67 %', '–')
    """
    return UNKNOWN if math.isnan(value) else f"{100 * value:.0f} %"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1) -> str:
    """Return a Markdown table, its first columns aligned to the left and the others to the right.

    Args:
        headers: Heads of the columns.
        rows: Cells, one text a column.
        texts: How many columns are texts, aligned to the left.
    """
    rule = [*["---"] * texts, *["---:"] * (len(headers) - texts)]
    lines = [headers, rule, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def coverage(lines: Collection[Mapping[str, Any]], *, cells: int, every: int, across: str) -> dict[str, str]:
    """Return how much of a survey there is: trainings, cells, seeds, minutes, and what is missing.

    Args:
        lines: Lines of the survey, one a training.
        cells: Cells that have one.
        every: Cells in all.
        across: What the cells differ in, in the plural.

    Example:
        >>> found = coverage([{"seed": 0, "seconds": 90.0}], cells=1, every=2, across="settings")
        >>> found["cells"], found["all cells"], found["missing"][:28]
        ('1', '2', '1 cells have not been run: t')
    """
    missing = (
        f"{every - cells} cells have not been run: the order is mixed, so that what is there covers all "
        f"{across} thinly, and the command goes on where it stopped."
    )
    return {
        "trainings": str(len(lines)),
        "cells": str(cells),
        "all cells": str(every),
        "seeds": " and ".join(str(seed) for seed in sorted({line["seed"] for line in lines})),
        "minutes": f"{sum(line['seconds'] for line in lines) / 60:.0f}",
        "missing": missing if cells < every else "",
    }


def template(name: str) -> str:
    """Return the text of a template of this package.

    Args:
        name: Its file.
    """
    return files("foreshock.lab.reproduction").joinpath(f"templates/{name}").read_text(encoding="utf-8")


def filled(text: str, value: Callable[[str], str]) -> str:
    """Return a template with each field ``{{name}}`` replaced.

    Args:
        text: The template.
        value: What stands for the field of a name.

    Example:
        >>> filled("{{spikes}} spikes", {"spikes": "3"}.__getitem__)
        '3 spikes'
    """
    return _FIELD.sub(lambda match: value(match[1]), text)
