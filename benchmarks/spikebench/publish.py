"""Turn the scores of SpikeBench into the pages and the figures of the documentation.

Run from the root of the repository, after ``foreshock bench probability --release``, and without
``--release`` for the development runs::

    python -m benchmarks.spikebench.publish --probability runs/spikebench/probability-test.json

The earlier scores, of dates, heights and rules, come from ``foreshock bench forecast --suite full
--release``::

    python -m benchmarks.spikebench.publish runs/spikebench

What the pages need of the scores is kept as JSON beside this file; the traces, of which the fans are drawn,
are not. Without either the pages are written again from the published scores, for example after their
wording or the points of the probability have changed::

    python -m benchmarks.spikebench.publish
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foreshock.forecast.probability import load_cards
from foreshock.lab.spikebench.page import benchmark_page
from foreshock.lab.spikebench.probability_figures import draw_probability
from foreshock.lab.spikebench.publication import load_scores, write_example, write_figures
from foreshock.lab.spikebench.scorecard_page import scorecard_page
from foreshock.lab.spikebench.trace import Trace

_ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
PAGE = _ROOT / "docs" / "benchmarks" / "forecast.md"
CARD_PAGE = _ROOT / "docs" / "benchmarks" / "scorecard.md"
IMAGES = _ROOT / "docs" / "images" / "spikebench"
# The first seed of two held-out full-batch runs, chosen before their forecasts were seen.
EXAMPLES = ("lstm-digits-0", "language-tiny-whole-0")


def published(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of the scores: kinds of batch in both splits, families in the held-out one.

    Args:
        scores: What ``foreshock bench forecast`` wrote.
    """

    def kept(split: str, group: str) -> bool:
        return group != "all" and (split == "held-out" or not group.startswith("family"))

    def chosen(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        return {
            split: {group: entry for group, entry in groups.items() if kept(split, group)}
            for split, groups in found.items()
        }

    rules = dict(scores["rules"]) | {"scores": chosen(scores["rules"]["scores"])}
    for groups in rules["scores"].values():
        for group, entries in groups.items():
            if group.startswith("family"):
                groups[group] = {name: _brief(entry) for name, entry in entries.items()}
    return dict(scores) | {"rules": rules, "forecasts": chosen(scores["forecasts"])}


def publish(folder: Path) -> None:
    """Keep the earlier scores, and draw their figures.

    Args:
        folder: What ``foreshock bench forecast`` wrote.
    """
    scores = published(load_scores(folder / "scores.json"))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "full.json").write_text(_lines(scores), encoding="utf-8")
    shutil.rmtree(IMAGES, ignore_errors=True)
    IMAGES.mkdir(parents=True)
    for figure in write_figures(scores, "held-out", IMAGES):
        if "family" in figure.name:  # not on the page
            figure.unlink()
    for name in EXAMPLES:
        trace = folder / "traces" / f"{name}.npz"
        write_example(Trace.load(trace), IMAGES / f"fan-{name}.svg")


def keep_probability(path: Path) -> None:
    """Keep the scores of the probability on one split.

    Args:
        path: What ``foreshock bench probability`` wrote.

    Raises:
        ValueError: If the file holds something else.
    """
    scores = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(scores, dict) or not {"split", "sources", "thresholds"} <= scores.keys():
        raise ValueError(
            f"{path} has no scores of the probability; `foreshock bench probability` writes them"
        )
    text = json.dumps(scores, allow_nan=False, separators=(",", ":"))
    for sign in ('{"runs":', '{"alarm_at":', '{"count":'):
        text = text.replace(sign, "\n" + sign)
    (RESULTS / f"probability-{scores['split']}.json").write_text(text + "\n", encoding="utf-8")


def kept_probability() -> list[dict[str, Any]]:
    """Return the scores of the probability that are kept, the test split first."""
    files = (RESULTS / f"probability-{split}.json" for split in ("test", "development"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]


def draw() -> None:
    """Draw the figures of the probability again."""
    for scores in kept_probability():
        draw_probability(scores, IMAGES)


def write_pages() -> None:
    """Write the pages again from the published scores, with the figures that are there."""
    scores = load_scores(RESULTS / "full.json")
    first = json.loads((RESULTS / "first.json").read_text(encoding="utf-8"))
    page = benchmark_page(
        scores,
        sorted(IMAGES.glob("*.svg")),
        images="../images/spikebench",
        first=first,
        probability=kept_probability(),
    )
    PAGE.write_text(page, encoding="utf-8")
    CARD_PAGE.write_text(scorecard_page(load_cards()), encoding="utf-8")


def _brief(entry: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if entry is None else dict(entry) | {"default": None, "calibrated": None}


def _lines(scores: Mapping[str, Any]) -> str:
    """Return JSON with one line a run and a rule, so that changes can be read."""
    text = json.dumps(scores, allow_nan=False, separators=(",", ":"))
    for sign in ('{"name":', '"default":', '"crossing":'):
        text = text.replace(sign, "\n" + sign)
    return text + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Publish the scores of SpikeBench.")
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        help="output folder of `foreshock bench forecast`; by default the published scores are used",
    )
    parser.add_argument(
        "--probability",
        type=Path,
        action="append",
        default=[],
        help="what `foreshock bench probability` wrote; can be repeated",
    )
    given = parser.parse_args()
    for file in given.probability:
        keep_probability(file)
    if given.folder is not None:
        publish(given.folder)
    draw()
    write_pages()
