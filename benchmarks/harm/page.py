"""Write docs/reliability.md from the counts of the last published run: ``python -m benchmarks.harm.page``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULT = Path(__file__).with_name("result.json")
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"

_TEMPLATE = Path(__file__).with_name("reliability.template")


def publish() -> None:
    """Write the page."""
    record: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8"))
    names = ("acted", "different", "ended", "not trainable")
    values = (
        dict.fromkeys(names, 0) | record | record["variety"] | {"last": record["seed"] + record["cases"] - 1}
    )
    PAGE.write_text(_TEMPLATE.read_text(encoding="utf-8").format_map(values), encoding="utf-8")


if __name__ == "__main__":
    publish()
