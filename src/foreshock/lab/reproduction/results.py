"""What is kept of an experiment: small JSON, from which pages are made."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreshock.lab.reproduction.experiment import Claim, Verdict


@dataclass(frozen=True)
class Result:
    """One experiment, all seeds.

    Attributes:
        experiment: Its name.
        scale: "cpu" or "paper".
        settings: The configuration, field by field.
        command: What was typed.
        seeds: The seeds.
        measured: Every quantity by name, one value a seed; NaN where there was nothing to measure.
        notes: What a reader must know.
        seconds: Processor time of each seed.
        machine: Versions and device.
    """

    experiment: str
    scale: str
    settings: Mapping[str, Any]
    command: str
    seeds: Sequence[int]
    measured: Mapping[str, Sequence[float]]
    notes: Sequence[str]
    seconds: Sequence[float]
    machine: str

    def values(self, name: str) -> list[float]:
        """Return a quantity, one value a seed; NaN if it was not measured."""
        return list(self.measured.get(name, [math.nan] * len(self.seeds)))

    def median(self, name: str) -> float:
        """Return the median of a quantity over the seeds that have it; NaN if none has."""
        known = [value for value in self.values(name) if not math.isnan(value)]
        return statistics.median(known) if known else math.nan

    def verdict(self, claim: Claim) -> Verdict:
        """Return the verdict on one of the experiment's claims."""
        return claim.judge(self.values(claim.name))


def save_result(result: Result, folder: Path) -> Path:
    """Write a result as JSON, one line a quantity.

    Args:
        result: The result.
        folder: Folder; a folder for the scale is made in it.
    """
    path = folder / result.scale / f"{result.experiment}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: getattr(result, name) for name in result.__dataclass_fields__}
    plain["measured"] = {
        name: [_encode(value) for value in values] for name, values in result.measured.items()
    }
    lines = ",\n".join(f" {json.dumps(key)}: {_layout(value)}" for key, value in plain.items())
    path.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
    return path


def load_result(path: Path) -> Result:
    """Read what `save_result` wrote.

    Args:
        path: The file.

    Raises:
        ValueError: If it is not such a file.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        plain["measured"] = {
            name: [math.nan if value is None else float(value) for value in values]
            for name, values in plain["measured"].items()
        }
        return Result(**plain)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is no result of a reproduction ({error}); run the experiment again"
        ) from error


def load_results(folder: Path, scale: str) -> dict[str, Result]:
    """Return the results of a scale that are there, by experiment.

    Args:
        folder: Folder of the results.
        scale: "cpu" or "paper".
    """
    return {path.stem: load_result(path) for path in sorted((folder / scale).glob("*.json"))}


def _layout(value: Any) -> str:
    if not isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    items = (
        f"  {json.dumps(k, ensure_ascii=False)}: {json.dumps(v, ensure_ascii=False)}"
        for k, v in value.items()
    )
    return "{\n" + ",\n".join(items) + "\n }"


def _encode(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return float(f"{value:.5g}") if math.isfinite(value) else str(value)
