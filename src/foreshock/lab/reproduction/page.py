"""Results → the page that confronts each claim with what was measured, and the page of principles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foreshock.lab.reproduction.experiment import Claim, Experiment, Verdict
from foreshock.lab.reproduction.experiments import EXPERIMENTS
from foreshock.lab.reproduction.filling import FORKS, MAP, filled_template, write_principles
from foreshock.lab.reproduction.medium.experiments import MEDIUM
from foreshock.lab.reproduction.page_parts import UNKNOWN, shown, table
from foreshock.lab.reproduction.results import Result, load_results
from foreshock.lab.reproduction.spikeforks import findings as forked
from foreshock.lab.reproduction.spikeforks import survey as forking
from foreshock.lab.reproduction.spikeforks.page import write_harm
from foreshock.lab.reproduction.spikemap.findings import summarise
from foreshock.lab.reproduction.spikemap.map_page import write_map
from foreshock.lab.reproduction.spikemap.survey import CELLS, load_lines

PICTURES = Path("images") / "reproduction"
"""Where figures lie in the folder of the pages."""
EXPLORATION = "exploration"
"""Folder of the results of seeds that settings were chosen on."""


_INTRODUCTION = """# The paper's experiments, reproduced

*Adaptive Preconditioners Trigger Loss Spikes in Adam* (Bai et al. 2025, arXiv 2506.04805), run again by
`foreshock reproduce all{option}`. The criteria are part of the code (`foreshock.lab.reproduction`):
**confirmed** if every seed reaches the bar, **confirmed with limits** if the median over seeds reaches
the weaker bar, **not confirmed** otherwise, **not decided** where fewer than half of the seeds had anything
to measure. Where the paper leaves a set-up open, each section says what was chosen; a verdict holds for
the set-up described there. The claims are in our words; *recalled* marks what is quoted of the paper from
memory and was not looked up.

This page is written by `foreshock reproduce page{option} --results {results} --docs docs` from the results
kept there. {scale}
"""
_HISTORY = """## What was fixed when

Settings (η, decay, widths, layers, steps) were chosen on seeds 0 to 2 *because these runs spike*: the
existence of spikes is selected for, their mechanism is not. Criteria also changed while these seeds were
examined:

- `cause`: which crossings are events. At first any three; now only those that a spike follows, since the
  claim is about those. This raised the share of v on `fnn-1d` and `cnn`.
- `quadratic`: the forecast of the first crossing starts once g² no longer affects v, not at the first step;
  "no spikes at β₁ = β₂" counts rises of g² instead of crossings; the grid of the phase diagram became finer.
- `interventions`: a spike counts as postponed if it comes later than without the intervention; steps and
  alarms were cut.
- `criteria`: run on the later seeds alone. Crossings ÷ spikes had to be at most 1.6 at first; after one of
  them it became the distance from 1.43, since widths and rates on both sides of it had been found.
- Verdicts: none where fewer than half of the seeds have anything to measure.

Then everything was fixed and run on seeds that had never been run (`quadratic` has no randomness:
its seeds are three starts, again). The verdicts are of those seeds alone; the last column of the table
counts those that seeds 0 to 2 had given under the same criteria.
"""
_SCALES = {
    "cpu": "These are runs at CPU scale: minutes on two cores, one thread each.",
    "paper": "These are runs at the paper's sizes.",
}
_MEDIUM = """ Beside them stands a middle scale (`foreshock reproduce all --scale
medium`): networks of up to seven million weights in mini-batches, hours on two cores, minutes on a GPU. All
of its trainings are judged by the same claims; what a claim gave at CPU scale stands beside it. For the
Transformer and for bytes, η and decay are the first of five pairs with which seed 0 spiked twice within about
a thousand steps, or once if none spiked twice; curvature was measured as often as three seeds allow in eight
minutes of one GPU. The section of the CNN says how its setting was found."""


def write_page(
    results: Mapping[str, Result],
    explored: Mapping[str, Result],
    path: Path,
    *,
    kept: str,
    pictures: Path,
    medium: Mapping[str, Result] | None = None,
) -> Path:
    """Write the page.

    Args:
        results: Results by experiment; experiments without one are named as missing.
        explored: Results of the seeds that settings were chosen on, by experiment; may be empty.
        path: The Markdown file.
        kept: Where the results are, as the page names it.
        pictures: Folder of the figures, below that of the page.
        medium: Results at the middle scale, by experiment.

    Raises:
        ValueError: If there is not a single result.
    """
    medium = medium or {}
    if not results and not medium:
        raise ValueError("there is no result to write a page of")
    [scale] = {result.scale for result in results.values()} or {"cpu"}
    option = "" if scale == "cpu" else f" --scale {scale}"
    beside = _MEDIUM if medium else ""
    parts = [
        _INTRODUCTION.format(option=option, results=kept, scale=_SCALES[scale] + beside),
        _overview(results, explored, medium),
    ]
    if explored:
        parts.append(_HISTORY)
    if medium:
        named = {f"medium {name}": result for name, result in medium.items()}
        parts.append(filled_template("explained.md", {**results, **named}))
    for name in dict.fromkeys((*EXPERIMENTS, *MEDIUM)):
        if name in results:
            parts.append(_section(EXPERIMENTS[name], results[name], path.parent, pictures))
        if name in medium:
            parts.append(_medium_section(medium[name], results, path.parent, pictures))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def _overview(
    results: Mapping[str, Result], explored: Mapping[str, Result], medium: Mapping[str, Result]
) -> str:
    rows = []
    for name, experiment in EXPERIMENTS.items():
        if name not in results:
            rows.append([f"`{name}`", *[UNKNOWN] * len(Verdict), "not run", UNKNOWN])
            continue
        result, before = results[name], explored.get(name)
        minutes = f"{sum(result.seconds) / 60:.1f} min"
        earlier = UNKNOWN if before is None else " / ".join(_counts(experiment, before))
        rows.append([f"[`{name}`](#reproduce-{name})", *_counts(experiment, result), minutes, earlier])
    for name, result in sorted(medium.items(), key=lambda pair: list(MEDIUM).index(pair[0])):
        minutes = f"{sum(result.seconds) / 60:.1f} min"
        named = f"[`{name}`, middle scale](#reproduce-{name}-medium)"
        rows.append([named, *_counts(MEDIUM[name], result), minutes, UNKNOWN])
    verdicts = [verdict.value for verdict in Verdict]
    heads = ["experiment", *verdicts, "processor time, all seeds", "counts on seeds 0 to 2"]
    return table(heads, rows) + "\n"


def _counts(experiment: Experiment, result: Result) -> list[str]:
    verdicts = [result.verdict(claim) for claim in experiment.claims]
    return [str(verdicts.count(verdict)) for verdict in Verdict]


def _section(experiment: Experiment, result: Result, base: Path, pictures: Path) -> str:
    return _laid_out(
        experiment, result, _claims(experiment, result), base, pictures, label=f"reproduce-{experiment.name}"
    )


def _medium_section(result: Result, results: Mapping[str, Result], base: Path, pictures: Path) -> str:
    experiment = MEDIUM[result.experiment]
    label = f"reproduce-{experiment.name}-medium"
    return _laid_out(
        experiment, result, _side_by_side(experiment, result, results), base, pictures, label=label
    )


def _side_by_side(experiment: Experiment, result: Result, results: Mapping[str, Result]) -> str:
    rows = []
    for claim in experiment.claims:
        cells = ["", ""]
        found = counterpart(experiment.name, claim.name, results)
        if found is not None:
            other, smaller = found
            cells = [" / ".join(map(shown, other.values(smaller.name))), other.verdict(smaller).value]
        values = " / ".join(map(shown, result.values(claim.name)))
        rows.append([claim.statement, claim.criterion, *cells, values, f"**{result.verdict(claim).value}**"])
    heads = ["claim", "criterion", "CPU scale", "verdict there", "middle scale", "verdict"]
    return table(heads, rows, texts=6)


def counterpart(name: str, claim: str, results: Mapping[str, Result]) -> tuple[Result, Claim] | None:
    """Return what the same claim gave at CPU scale: the result that has it, and the claim there.

    Args:
        name: Experiment at the middle scale.
        claim: Name of its claim.
        results: Results at CPU scale.

    Returns:
        Both; None if nothing at CPU scale is about it, or it was not run.
    """
    for experiment, wanted in ((name, claim), ("cause", f"{name}: {claim}")):
        if experiment in results:
            for own in EXPERIMENTS[experiment].claims:
                if own.name == wanted:
                    return results[experiment], own
    return None


def _laid_out(
    experiment: Experiment, result: Result, claims: str, base: Path, pictures: Path, *, label: str
) -> str:
    seconds = ", ".join(f"{value:.0f}" for value in result.seconds)
    parts = [
        f"({label})=\n## {experiment.title}",
        experiment.setup,
        " ".join(
            [
                f"`{result.command}`: seeds {', '.join(map(str, result.seeds))}, {seconds} s of processor "
                "time.",
                *result.notes,
                f"{result.machine}.",
            ]
        ),
        claims,
        _others(experiment, result),
    ]
    for file, caption in experiment.figures.items():
        if (pictures / file).exists():
            parts.append(f"![{caption}]({(pictures / file).relative_to(base).as_posix()})\n\n*{caption}.*")
    return "\n\n".join(part for part in parts if part) + "\n"


def _claims(experiment: Experiment, result: Result) -> str:
    rows = [
        [
            claim.statement,
            claim.criterion,
            " / ".join(shown(value) for value in result.values(claim.name)),
            f"**{result.verdict(claim).value}**",
        ]
        for claim in experiment.claims
    ]
    return table(["claim", "criterion", "measured, by seed", "verdict"], rows, texts=4)


def _others(experiment: Experiment, result: Result) -> str:
    """Return what else was measured: names such as ``measure: quantity`` become rows and columns."""
    judged = {claim.name for claim in experiment.claims}
    paired = [name for name in result.measured if ": " in name]
    single = [name for name in result.measured if ": " not in name and name not in judged]
    parts = []
    if single:
        rows = [[_words(name), " / ".join(map(shown, result.values(name)))] for name in single]
        parts.append("Also measured:\n\n" + table(["quantity", "by seed"], rows))
    if paired:
        parts.append("Medians over the seeds:\n\n" + _crossed(paired, result))
    return "\n\n".join(parts)


def _crossed(names: list[str], result: Result) -> str:
    split = [name.split(": ", 1) for name in names]
    rows, columns = (list(dict.fromkeys(part[i] for part in split)) for i in (0, 1))
    cells: list[Any] = [
        [row, *(shown(result.median(f"{row}: {column}")) for column in columns)] for row in rows
    ]
    return table(["", *columns], cells)


def _words(name: str) -> str:
    return name.replace("_", " ")


def publish(kept: Path, scale: str, target: Path) -> list[Path]:
    """Write the page of verdicts, those of the map and of the forks if they have lines, and the principles.

    Args:
        kept: Folder of the results; those of the seeds that settings were chosen on are in its folder
            ``exploration``, if there is one, the lines of the map in ``map`` and those of forks in ``forks``.
        scale: "cpu" or "paper"; with "medium" the page is that of the CPU scale. Results at the middle scale
            stand beside in any case.
        target: Folder of the pages; figures are expected in ``images/reproduction`` below it.

    Raises:
        ValueError: If there are neither results of that scale nor lines of the map or of the forks.
    """
    scale = "cpu" if scale == "medium" else scale
    results = load_results(kept, scale)
    medium, lines = load_results(kept, "medium"), load_lines(kept / MAP / CELLS)
    forks = forking.load_lines(kept / FORKS / forking.FORKS)
    if not results and not lines and not medium and not forks:
        raise ValueError(
            f"there are no results in {kept / scale}; run foreshock reproduce NAME or all first, or pass "
            "--results"
        )
    named = kept.as_posix() if not kept.is_absolute() else kept.name
    pictures = target / PICTURES
    pages = []
    if results or medium:
        explored = load_results(kept / EXPLORATION, scale)
        path = target / "reproduction.md"
        pages.append(write_page(results, explored, path, kept=named, pictures=pictures, medium=medium))
    if lines:
        pages.append(write_map(lines, target, kept=named, pictures=pictures))
    if forks:
        pages.append(write_harm(forks, target, kept=named, pictures=pictures, surveyed=lines))
    principles = target / "explanation" / "principles.md"
    surveyed = {MAP: summarise(lines), FORKS: forked.summarise(forks, lines)}
    return [*pages, write_principles(results, principles, surveyed=surveyed)]
