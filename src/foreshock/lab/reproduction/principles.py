"""The page of design principles: a template whose figures come from results.

In the template ``{{experiment | quantity}}`` becomes the median over seeds; a third part is ``%`` for a
share in per cent, or ``verdict`` for the verdict on the claim of that name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from foreshock.lab.reproduction.catalogue import EXPERIMENTS
from foreshock.lab.reproduction.numbers import UNKNOWN, percent, shown
from foreshock.lab.reproduction.results import Result

_FIELD = re.compile(r"\{\{(.*?)\}\}")


def write_principles(results: Mapping[str, Result], path: Path) -> Path:
    """Write the page of principles.

    Args:
        results: Results by experiment.
        path: The Markdown file.
    """
    template = (
        files("foreshock.lab.reproduction").joinpath("templates/principles.md").read_text(encoding="utf-8")
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(fill(template, results), encoding="utf-8")
    return path


def fill(template: str, results: Mapping[str, Result]) -> str:
    """Return a template with its fields replaced; a dash stands for what was not measured.

    Args:
        template: The text.
        results: Results by experiment.

    Raises:
        ValueError: If a field names no experiment, has an unknown form, or asks for a verdict on no claim.

    Example:
        >>> fill("spikes: {{fnn-1d | spikes}}", {})
        'spikes: –'
    """
    return _FIELD.sub(lambda match: _value(match[1], results), template)


def _value(field: str, results: Mapping[str, Result]) -> str:
    name, quantity, *form = (part.strip() for part in field.split("|"))
    if name not in EXPERIMENTS:
        raise ValueError(f"{{{{{field}}}}} names no experiment; there are {', '.join(EXPERIMENTS)}")
    if form not in ([], ["%"], ["seeds"], ["verdict"]):
        raise ValueError(f"{{{{{field}}}}} has an unknown form; it may be %, seeds or verdict")
    if name not in results:
        return UNKNOWN
    if form == ["verdict"]:
        claims = [claim for claim in EXPERIMENTS[name].claims if claim.name == quantity]
        if not claims:
            raise ValueError(f"{{{{{field}}}}} asks for a verdict, but {name} has no such claim")
        return results[name].verdict(claims[0]).value
    if form == ["seeds"]:
        return " / ".join(map(shown, results[name].values(quantity)))
    value = results[name].median(quantity)
    return percent(value) if form else shown(value)
