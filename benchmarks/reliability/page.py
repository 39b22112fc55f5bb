"""Write docs/reliability.md from what was measured last: ``python -m benchmarks.reliability.page``.

Each command keeps its counts in ``results/``; the page names the command beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"

_TEMPLATE = Path(__file__).with_name("template.md")
_COMMANDS = ("harm", "interruptions", "fuzz", "reading")


class _Counts(dict[str, Any]):
    """Counts by name; what never occurred is no name of a counter, and zero."""

    def __missing__(self, name: str) -> int:
        return 0


def keep(command: str, record: Mapping[str, Any]) -> None:
    """Keep what a command measured, and write the page anew.

    Args:
        command: Its name in ``results/``.
        record: Its counts, with `seed` and `cases` where it draws cases.
    """
    (RESULTS / f"{command}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    publish()


def publish() -> None:
    """Write the page."""
    found = {name: _counts(RESULTS / f"{name}.json") for name in _COMMANDS}
    PAGE.write_text(_TEMPLATE.read_text(encoding="utf-8").format_map(found), encoding="utf-8")


def _counts(path: Path) -> _Counts:
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    last = record["seed"] + record["cases"] - 1 if "seed" in record else 0
    return _Counts(record | record.get("variety", {}) | {"last": last})


if __name__ == "__main__":
    publish()
