"""Templates whose fields are numbers of the results: principles, and what is said of claims."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from foreshock.lab.reproduction.experiments import EXPERIMENTS
from foreshock.lab.reproduction.medium.experiments import MEDIUM
from foreshock.lab.reproduction.page_parts import UNKNOWN, filled, percent, shown, template
from foreshock.lab.reproduction.results import Result

MAP = "map"
"""Name of the map, and folder of its lines."""
FORKS = "forks"
"""Name of the forks at spikes, and folder of their lines."""
NAMED = {**EXPERIMENTS, **{f"medium {name}": experiment for name, experiment in MEDIUM.items()}}
"""What a field of a template may name: ``cnn`` is that at CPU scale, ``medium cnn`` the other."""

Surveyed = Mapping[str, Mapping[str, float]]
"""Numbers of what has lines instead of results: of ``map`` and of ``forks``."""


def write_principles(results: Mapping[str, Result], path: Path, *, surveyed: Surveyed | None = None) -> Path:
    """Write the page of principles.

    Args:
        results: Results by experiment.
        path: The Markdown file.
        surveyed: Numbers of the map and of the forks, by name; None if neither has been run.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(filled_template("principles.md", results, surveyed), encoding="utf-8")
    return path


def filled_template(name: str, results: Mapping[str, Result], surveyed: Surveyed | None = None) -> str:
    """Return a template of this package with its fields replaced.

    Args:
        name: Its file.
        results: Results by experiment, a name in `NAMED`.
        surveyed: Numbers of the map and of the forks.
    """
    return fill(template(name), results, surveyed)


def fill(text: str, results: Mapping[str, Result], surveyed: Surveyed | None = None) -> str:
    """Return a template with its fields replaced; a dash stands for a quantity that was not measured.

    Args:
        text: The template.
        results: Results by experiment, a name in `NAMED`.
        surveyed: Numbers of the map and of the forks, for fields such as ``{{map | full: blamed | %}}``.

    Raises:
        ValueError: If a field names no experiment, has an unknown form, or asks for a verdict on no claim.

    Example:
        >>> fill("spikes: {{fnn-1d | spikes}}", {})
        'spikes: –'
    """
    return filled(text, lambda field: _value(field, results, surveyed or {}))


def _value(field: str, results: Mapping[str, Result], surveyed: Surveyed) -> str:
    name, quantity, *form = (part.strip() for part in field.split("|"))
    if name not in (known := (*NAMED, MAP, FORKS)):
        raise ValueError(f"{{{{{field}}}}} names no experiment; there are {', '.join(known)}")
    if form not in ([], ["%"], ["seeds"], ["verdict"]):
        raise ValueError(f"{{{{{field}}}}} has an unknown form; it may be %, seeds or verdict")
    if name in (MAP, FORKS):
        found = surveyed.get(name, {}).get(quantity, math.nan)
        return percent(found) if form == ["%"] else shown(found)
    if name not in results:
        return UNKNOWN
    if form == ["verdict"]:
        claims = [claim for claim in NAMED[name].claims if claim.name == quantity]
        if not claims:
            raise ValueError(f"{{{{{field}}}}} asks for a verdict, but {name} has no such claim")
        return results[name].verdict(claims[0]).value
    if form == ["seeds"]:
        return " / ".join(map(shown, results[name].values(quantity)))
    value = results[name].median(quantity)
    return percent(value) if form else shown(value)
