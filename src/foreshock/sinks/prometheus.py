"""Prometheus: a text file for the textfile collector of its node exporter."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foreshock.sinks.metrics import METRICS, metrics_of

_COUNTED = {
    "foreshock_alarms_total": "alarms and watches that were given",
    "foreshock_guard_actions_total": "actions of the guard",
}


class Prometheus:
    """Keep a text file with the last value of each metric, in the format that Prometheus reads.

    Give it the folder that ``node_exporter --collector.textfile.directory`` names. It is written beside
    itself and moved into place, so that nobody reads half of it. After the end of the run it stays, with
    ``foreshock_running 0``.

    Args:
        path: The file; its name ends in ``.prom``. Each run needs its own.

    Raises:
        ValueError: If its name ends in something else, which the collector would ignore.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        if self._path.suffix != ".prom":
            raise ValueError(f"{self._path} must end in .prom: the textfile collector reads no other files")
        self._name = self._path.stem
        self._values: dict[str, float] = {}
        self._counts: dict[tuple[str, str], int] = {}
        self._step = 0
        self._changed = False

    def write(self, kind: str, record: Mapping[str, Any]) -> None:
        """Remember what a record has of the metrics.

        Args:
            kind: Kind of the record.
            record: Its fields.
        """
        if kind == "header":
            self._name = str(record.get("name") or self._name)
        self._values |= metrics_of(kind, record)
        self._step = max(self._step, int(record.get("step", 0)))
        if kind == "alarm":
            self._count("foreshock_alarms_total", f'level="{_escaped(record.get("level", ""))}"')
        if kind == "guard":
            self._count("foreshock_guard_actions_total", f'remedy="{_escaped(record.get("remedy", ""))}"')
        self._changed = True

    def flush(self) -> None:
        """Write the file, if something changed."""
        if self._changed:
            self._changed = False
            self._replace(running=True)

    def close(self) -> None:
        """Write the file once more: the run has ended."""
        self._replace(running=False)

    def _count(self, name: str, label: str) -> None:
        self._counts[name, label] = self._counts.get((name, label), 0) + 1

    def _replace(self, *, running: bool) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        beside.write_text(self._text(running=running), encoding="utf-8")
        beside.replace(self._path)

    def _text(self, *, running: bool) -> str:
        run = f'run="{_escaped(self._name)}"'
        words = {f"foreshock_{one.name}": one.words for one in METRICS}
        gauges = {f"foreshock_{name}": value for name, value in self._values.items()}
        gauges |= {"foreshock_step": float(self._step), "foreshock_running": float(running)}
        gauges["foreshock_updated_time_seconds"] = round(time.time(), 3)
        words |= {"foreshock_step": "last step", "foreshock_running": "1 while the run goes on"}
        words["foreshock_updated_time_seconds"] = "when this was written"
        lines = []
        for name, value in gauges.items():
            lines += [f"# HELP {name} {words[name]}", f"# TYPE {name} gauge"]
            lines.append(f"{name}{{{run}}} {_number(value)}")
        for name, about in _COUNTED.items():
            counts = {label: count for (one, label), count in self._counts.items() if one == name}
            if counts:
                lines += [f"# HELP {name} {about}", f"# TYPE {name} counter"]
                lines += [f"{name}{{{run},{label}}} {count}" for label, count in counts.items()]
        return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def _escaped(value: Any) -> str:
    # The format knows these three escapes; half a surrogate pair would not go into the file.
    text = str(value).encode(errors="replace").decode()
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
