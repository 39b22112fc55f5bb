"""From results to the two pages."""

from __future__ import annotations

from pathlib import Path

from foreshock.lab.reproduction.page import write_page
from foreshock.lab.reproduction.principles import write_principles
from foreshock.lab.reproduction.results import load_results

PICTURES = Path("images") / "reproduction"
"""Where pictures lie in the folder of the pages."""

EXPLORATION = "exploration"
"""Folder of the results of seeds that settings were chosen on."""


def publish(kept: Path, scale: str, target: Path) -> list[Path]:
    """Write the page of verdicts and the page of principles.

    Args:
        kept: Folder of the results; those of the seeds that settings were chosen on are in its folder
            ``exploration``, if there is one.
        scale: "cpu" or "paper".
        target: Folder of the pages; pictures are expected in ``images/reproduction`` below it.

    Raises:
        ValueError: If there are no results of that scale.
    """
    results = load_results(kept, scale)
    if not results:
        raise ValueError(
            f"there are no results in {kept / scale}; run foreshock reproduce NAME or all first, or pass "
            "--results"
        )
    explored = load_results(kept / EXPLORATION, scale)
    told = kept.as_posix() if not kept.is_absolute() else kept.name
    return [
        write_page(results, explored, target / "reproduction.md", kept=told, pictures=target / PICTURES),
        write_principles(results, target / "explanation" / "principles.md"),
    ]
