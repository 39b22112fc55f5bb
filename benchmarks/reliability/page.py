"""Write docs/reliability.md from what was measured last: ``python -m benchmarks.reliability.page``.

Each command keeps its counts in ``results/``; the page names the command beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.markdown import table

RESULTS = Path(__file__).with_name("results")
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"

_NOT_ADDED = ("seed", "largest page", "bound on pages")
_TEMPLATE = Path(__file__).with_name("template.md")
_COMMANDS = ("harm", "kills", "snapshot_kills", "fuzz", "reading")


class _Counts(dict[str, Any]):
    """Counts by name; what never occurred is no name of a counter, and zero."""

    def __missing__(self, name: str) -> int:
        return 0


def keep(command: str, record: Mapping[str, Any]) -> None:
    """Keep what a command measured, and write the page anew.

    Cases that go on where the kept ones end are added to them, so that many can be run in several goes; each
    is drawn from its own seed, and the sum is what one go would have counted.

    Args:
        command: Its name in ``results/``.
        record: Its counts, with `seed` and `cases` where it draws cases.
    """
    path = RESULTS / f"{command}.json"
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if kept and "seed" in record and record["seed"] == kept["seed"] + kept["cases"]:
        record = joined(kept, record)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    publish()


def joined(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts of two goes as those of one.

    Args:
        first: Counts of the earlier cases.
        second: Those of the cases that follow.

    Raises:
        ValueError: If the two were not made by the same cases and the same torch.
    """
    for name in ("torch", "variety"):
        if first.get(name) != second.get(name):
            raise ValueError(
                f"{name} was {first.get(name)!r} and is {second.get(name)!r}: the cases can't be added; "
                "begin again with --seed 0"
            )
    counted = {
        name: first.get(name, 0) + value
        for name, value in second.items()
        if type(value) is int and name not in _NOT_ADDED
    }
    largest = {name: max(first[name], second[name]) for name in ("largest page",) if name in second}
    return {**first, **second, **counted, **largest, "seed": first["seed"]}


def publish() -> None:
    """Write the page."""
    found = {name: _counts(RESULTS / f"{name}.json") for name in _COMMANDS}
    PAGE.write_text(_TEMPLATE.read_text(encoding="utf-8").format_map(found), encoding="utf-8")


def reading_table(logs: Mapping[str, Any]) -> str:
    """Return the table of what reading takes.

    Args:
        logs: By name of a log, what ``benchmarks.reading`` measured.
    """
    rows = [
        (
            name,
            f"{found['count']:,}",
            f"{found['log']:,.1f}",
            *(f"{found[how]['seconds']:.1f}, {found[how]['memory']:,.0f}" for how in ("text", "page")),
            f"{found['page']['megabytes']:.2f}",
        )
        for name, found in logs.items()
    ]
    header = ("log", "of", "MB", "text: processor s, MB", "page: processor s, MB", "page, MB")
    return table(header, rows)


def _counts(path: Path) -> _Counts:
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "logs" in record and isinstance(record["logs"], dict):
        record["table"] = reading_table(record["logs"])
    last = record["seed"] + record["cases"] - 1 if "seed" in record else 0
    return _Counts(record | record.get("variety", {}) | {"last": last})


if __name__ == "__main__":
    publish()
