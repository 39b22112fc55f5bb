"""Check that a tag, the version, the citation and the changelog name the same release."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Where a version stands, and the line that states it.
PLACES = {
    "src/foreshock/_version.py": '__version__ = "{}"',
    "CITATION.cff": "version: {}",
    "CHANGELOG.md": "## [{}] - ",
}


def problems(tag: str, root: Path = ROOT) -> list[str]:
    """Return what is wrong with a tag, in words; nothing if it may be released.

    Args:
        tag: Such as ``v1.2.3``.
        root: The repository.
    """
    if not re.fullmatch(r"v\d+\.\d+\.\d+((a|b|rc)\d+)?", tag):
        return [f"the tag {tag!r} must be v and a version, for instance v1.2.3 or v1.2.3rc1"]
    version = tag.removeprefix("v")
    found = []
    for place, line in PLACES.items():
        wanted = line.format(version)
        dated = r"\d{4}-\d{2}-\d{2}" if wanted.endswith(" ") else ""
        if not re.search(rf"^{re.escape(wanted)}{dated}$", (root / place).read_text(encoding="utf-8"), re.M):
            example = wanted + ("YYYY-MM-DD" if dated else "")
            found.append(f"{place} must have the line `{example}` for the tag {tag}")
    return found


if __name__ == "__main__":
    if found := problems(sys.argv[1] if len(sys.argv) > 1 else ""):
        sys.exit("\n".join(found))
