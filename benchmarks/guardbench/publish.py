"""Turn the scores of GuardBench into the page and the figures of the documentation.

Run from the root of the repository, after ``foreshock bench guard --suite full --release``::

    python -m benchmarks.guardbench.publish runs/guardbench

With ``--keep`` methods that were not trained in that folder keep the rows that are published, so that one
method can be added without training the others again. The scores are kept beside this file, and those of the
first scoring of the held-out half. With ``--perturbed`` the folder holds trainings of the present
guard from perturbed starts, kept as `perturbed.json`: they stand first on the pages, and in the table of
`docs/explanation/guard.md`, until the whole suite is run again. With ``--more`` it holds trainings with the
full batch from many more starts, made by ``foreshock bench guard --suite full --release --group full --starts
10 --method guard-alone``, which are put beside those. Without a folder the pages are written again
from the published scores, for example after their wording has changed::

    python -m benchmarks.guardbench.publish --suite normalised
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.guardbench.merging import merge
from benchmarks.markdown import replace_between

from foreshock.lab.guardbench.publication import load_scores, page_of, write_pages
from foreshock.lab.guardbench.starts import MORE, short_table, starts_table, titles_of
from foreshock.lab.guardbench.suite import SUITES
from foreshock.lab.guardbench.tables import method_table, methods_run
from foreshock.lab.spikebench.page import GROUPS
from foreshock.lab.spikebench.suite import HELD_OUT

RESULTS = Path(__file__).parent / "results"
PERTURBED = RESULTS / "perturbed.json"
DOCS = Path(__file__).parents[2] / "docs"
PAGES = DOCS / "benchmarks"
EXPLANATION = DOCS / "explanation" / "guard.md"
_TABLES = {
    "full": ("<!-- Table of benchmarks/guardbench/publish.py -->", "<!-- End of the table -->"),
    "drawn": ("<!-- Table of the drawn tasks -->", "<!-- End of the table of the drawn tasks -->"),
}
_NOTE_OF_MORE = "\n\n*More starts*: "
_OF_EARLIER_GUARD = """\
The guards of this page are those before clipping was for gradients that come alone, before v was raised when
the gradient grows, and before the policy `rising`. The present ones are not scored on these tasks yet."""
_HISTORY = """\
## How the held-out half was scored before

It was scored more than once. After the first scoring, of seed 0, the guard was changed because of what all
three seeds of the development half showed. A Transformer far above the edge spiked in spite of it: the last
displacement showed the instability only after the loss had doubled. Since then fast growth of the gradient
makes the guard act earlier, and outliers are scaled down to the running reference instead of to four times
that. Still later the order of summation changed, `auto` pauses where it would raise v on more than half of
the steps, and far below the edge the secant is measured every eighth step instead of every fourth; the rows
of `guard-epsilon`, `guard-beta2` and `guard-auto-beta2-0.95` were made before that.
Nothing was chosen on the held-out half, but its figures above are no longer those of an untouched one.
Those of the first scoring, of seed 0, are:"""

_EARLIER_DRAWS = {
    "drawn_9000.json": """\
## Other draws

Above, full batches are those of the draws 9000 to 9255, since whose scoring the rules of `guard-alone` have
not changed, from four starts (`--group full --starts 3 --method guard-alone`); the others are those of the
draws 10000 to 10255, from two. Each draw was scored once. Below are further ones, of the same ranges: so much
is chance. On the mini-batches and sequence models of 9000 to 9255 `guard-monitor` acted on a forecast however
far from the edge the noise was, and measured that half as often, and the noise of contrastive losses was
acted on:""",
    "drawn_8000.json": """\
And draws before those, with the same rules of `guard-alone` and `guard-auto`, from as many starts:""",
    "drawn_7000.json": """\
## What the rules before left

These were scored once with the rules before. Since then an eightfold gradient at one step alone counts only
where batches do not differ as much by themselves: the worst run below, 66 times Adam's training loss, was
made by that. `guard-alone-late` and `guard-auto-late` are the guards with `wait=False`. Draws before these,
with still earlier rules, are in the history of the repository.""",
}


def history_of_drawn(earlier: Mapping[str, dict[str, Any]]) -> str:
    """Return the last sections of the page of drawn tasks.

    Args:
        earlier: Scores of other draws, by what is said of them, the last ones first.
    """
    parts = []
    for words, scores in earlier.items():
        groups = scores["perturbed"][HELD_OUT]
        titles = titles_of(groups).items()
        parts += [words, *(f"{title}:\n\n{starts_table(groups[group])}" for group, title in titles)]
    return "\n\n".join(parts)


def history(first: dict[str, Any]) -> str:
    """Return the last section of the page: the first scoring of the held-out half.

    Args:
        first: Scores of the first scoring.
    """
    parts = [_HISTORY]
    for group, title in GROUPS.items():
        parts.append(f"{title}:\n\n{method_table(first, 'held-out', group)}")
    return "\n\n".join(parts)


def _history_of(suite: str) -> str:
    """Return the last section of a suite's page; nothing if its held-out half was scored once."""
    if suite == "full":
        return history(load_scores(RESULTS / "first.json"))
    if suite == "drawn":
        read = {words: (RESULTS / name).read_text("utf-8") for name, words in _EARLIER_DRAWS.items()}
        return history_of_drawn({words: json.loads(text) for words, text in read.items()})
    return ""


def _chosen(scores: dict[str, Any]) -> str:
    """Return the options that choose the methods that were run; nothing if all were."""
    run = methods_run(scores)
    left_out = scores["methods"].keys() - run
    return "".join(f" --method {name}" for name in scores["methods"] if name in run) if left_out else ""


def publish(folder: Path | None, *, suite: str = "full", keep: bool = False) -> None:
    """Write scores, pages and figures.

    Args:
        folder: What ``foreshock bench guard`` wrote; None to use the published scores.
        suite: Of which suite that is.
        keep: Whether methods that were not trained there keep the rows that are published.

    Raises:
        ValueError: If rows are to be kept, and plain Adam did not do the same there.
    """
    published = RESULTS / f"{suite}.json"
    scores = load_scores(folder / "scores.json" if folder is not None else published)
    if keep:
        scores = merge(scores, load_scores(published))
        scores.pop("command", None)  # that of the methods that were trained now
    _save(scores, published)
    present = load_scores(PERTURBED) if suite == "full" and not scores.get("perturbed") else None
    if suite in _TABLES:
        _write_table(scores if present is None else present, *_TABLES[suite])
    write_pages(
        scores,
        PAGES,
        command=scores.get("command", f"foreshock bench guard --suite {suite} --release{_chosen(scores)}"),
        history=_history_of(suite),
        name=page_of(suite),
        present=present,
        caution=_OF_EARLIER_GUARD if suite == "normalised" else "",
    )


def keep_perturbed(folder: Path, *, note: str) -> None:
    """Keep the scores of the present guard from perturbed starts beside this file.

    Args:
        folder: What ``foreshock bench guard`` wrote.
        note: Where and how far they were made, in sentences.

    Raises:
        ValueError: If none of them is from a perturbed start.
    """
    scores = load_scores(folder / "scores.json")
    if not scores.get("perturbed"):
        raise ValueError(f"{folder} has no training from a perturbed start: run it with --starts 3")
    chosen = "".join(f" --method {name}" for name in methods_run(scores) - {"adam"})
    command = f"foreshock bench guard --suite full --release{chosen}"
    _save({**scores, "costs": None, "command": command, "note": note}, PERTURBED)


def add_starts(folder: Path, *, note: str) -> None:
    """Put full-batch runs from more starts beside the scores from perturbed starts that are kept.

    Args:
        folder: What ``foreshock bench guard --release --group full --starts …`` wrote.
        note: Where and how far they were made, in sentences.

    Raises:
        ValueError: If it has no full-batch run of the held-out half from a perturbed start.
    """
    more = load_scores(folder / "scores.json").get("perturbed", {}).get(HELD_OUT, {})
    if "full" not in more:
        raise ValueError(
            f"{folder} has no full-batch training of the held-out half from a perturbed start: run it with "
            "--release --group full --starts 10"
        )
    kept = load_scores(PERTURBED)
    kept["perturbed"][HELD_OUT][MORE] = more["full"]
    _save(
        {**kept, "note": f"{kept['note'].partition(_NOTE_OF_MORE)[0].rstrip()}{_NOTE_OF_MORE}{note}"},
        PERTURBED,
    )


def _save(scores: dict[str, Any], path: Path) -> None:
    text = json.dumps(scores, allow_nan=False, separators=(",", ":")).replace('{"config":', '\n{"config":')
    path.write_text(text + "\n", encoding="utf-8")


def _write_table(scores: dict[str, Any], begin: str, end: str) -> None:
    """Put the table of the held-out half into the explanation of the guard, between two comments."""
    table = short_table(scores, "held-out")
    text = replace_between(EXPLANATION.read_text("utf-8"), begin, end, table)
    EXPLANATION.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Publish the scores of GuardBench.")
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        help="output folder of `foreshock bench guard`; by default the published scores are used",
    )
    parser.add_argument("--suite", default="full", choices=SUITES, help="which suite that is")
    parser.add_argument("--keep", action="store_true", help="keep the published rows of other methods")
    parser.add_argument(
        "--perturbed",
        metavar="NOTE",
        help="the folder holds the present guard from perturbed starts; the note says where it was run",
    )
    parser.add_argument(
        "--more", metavar="NOTE", help="the folder holds full-batch runs from more starts; the note as before"
    )
    given = parser.parse_args()
    if given.perturbed is not None:
        keep_perturbed(given.folder, note=given.perturbed)
        given.folder = None
    if given.more is not None:
        add_starts(given.folder, note=given.more)
        given.folder = None
    publish(given.folder, suite=given.suite, keep=given.keep)
