"""Lines of cells → the page of the map, a template whose fields are numbers, sentences and tables."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from foreshock.lab.reproduction.page_parts import coverage, filled, percent, shown, table, template
from foreshock.lab.reproduction.patterns import median
from foreshock.lab.reproduction.spikemap.cells import DECAYS, KINDS, MEMORIES, all_cells
from foreshock.lab.reproduction.spikemap.findings import (
    BLAMED,
    BORDER,
    OUTCOMES,
    SIGNALS,
    Spike,
    crossed_first,
    fit_formula,
    fraction,
    held,
    judge_formulas,
    removed,
    robust,
    share,
    spikes_of,
    summarise,
    telling,
    with_share,
)
from foreshock.lab.reproduction.spikemap.outcomes import AFTER
from foreshock.lab.reproduction.spikemap.pictures import CAPTIONS, draw_map

PAGE = Path("explanation") / "map.md"
Lines = Sequence[Mapping[str, Any]]
Numbers = Mapping[str, float]
_LEAST_TOLD = 0.65  # a discrimination below this says little
_FIRST_READING = 100


def write_map(lines: Lines, target: Path, *, kept: str, pictures: Path) -> Path:
    """Write the page and draw its figures.

    Args:
        lines: Lines of the map, at least one.
        target: Folder of the pages.
        kept: Where the lines are, as the page names it.
        pictures: Folder of the figures, below that of the pages.
    """
    path = target / PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_map(lines, pictures)
    spikes, numbers = spikes_of(lines), summarise(lines)
    up = (Path("..") / pictures.relative_to(target)).as_posix()
    fields = {
        **_facts(lines, numbers),
        "results": kept,
        "decides": _decides(spikes, numbers),
        "figures": "\n\n".join(f"![{text}]({up}/{name})\n\n*{text}.*" for name, text in CAPTIONS.items()),
        "groups": _groups(numbers),
        "formulas": _formulas(spikes),
        "border": _border(spikes, numbers),
        "crossings": _crossings(spikes),
        "outcomes": _outcomes(spikes),
        "telling": _telling(spikes),
        "told": _told(spikes),
    }
    path.write_text(filled(template("map.md"), fields.__getitem__), encoding="utf-8")
    return path


def _facts(lines: Lines, numbers: Numbers) -> dict[str, str]:
    return {
        **coverage(lines, cells=int(numbers["cells"]), every=len(all_cells()), across="settings"),
        "kinds": str(len(KINDS)),
        "memories": ", ".join(f"{beta2:g}" for beta2 in MEMORIES),
        "decays": " or ".join(f"{decay:g}" for decay in DECAYS),
        "spikes": str(int(numbers["spikes"])),
        **_speeds(numbers),
        "compared": str(sum("outcome" in spike for spike in spikes_of(lines))),
    }


def _speeds(numbers: Numbers) -> dict[str, str]:
    """What the paragraph on what decides quotes of the longest memory and the shortest."""
    fast, slow = (f"β₂ {beta2:g}" for beta2 in (min(MEMORIES), max(MEMORIES)))
    found = {
        f"{part} slow {decay}": shown(100 * numbers.get(f"{slow} {decay}: {part} speed", math.nan))
        for part in ("v", "landscape")
        for decay in ("plain", "decay")
    }
    return {
        **found,
        "removed fast decay": percent(numbers.get(f"{fast} decay: removed", math.nan)),
        **{name: shown(value) for name, value in numbers.items() if name.startswith("pairs")},
    }


def _decides(spikes: Sequence[Spike], numbers: Numbers) -> str:
    def blamed(name: str) -> str:
        return percent(numbers.get(f"{name}: blamed", math.nan))

    sure = [spike for spike in with_share(robust(spikes)) if "frozen" in spike]
    own, other = ([s for s in sure if (share(s) >= BLAMED) == side] for side in (True, False))
    agree = fraction(sure, lambda spike: (share(spike) >= BLAMED) == removed(spike))
    plain, decayed = ([s for s in own if (s["decay"] > 0) == side] for side in (False, True))
    calm = [s for s in with_share(spikes) if s["onset"] + AFTER <= s["steps"]]
    stays, sharp = ([s for s in calm if (share(s) >= BLAMED) == side] for side in (True, False))
    memories = ", ".join(f"{blamed(f'β₂ {beta2:g}')} at β₂ = {beta2:g}" for beta2 in MEMORIES)
    networks = ", ".join(f"{blamed(kind)} ({about.title})" for kind, about in KINDS.items())
    return (
        f"{percent(numbers['spiking'])} of the trainings spike. v has at least half of the rise of "
        f"ln λ_max(Ĥ) before {blamed('all')} of the spikes: {blamed('full')} in full batch, {blamed('mini')} "
        f"in mini-batches. Without weight decay that is {blamed('full plain')} and {blamed('mini plain')}; "
        f"with decay 0.3, {blamed('full decay')} and {blamed('mini decay')}. By memory it is {memories}; by "
        f"network, {networks}.\n\nThe fork says the same in {percent(agree)} of the {len(sure)} robust "
        f"spikes that have both. Freezing v removes {percent(fraction(own, removed))} of the {len(own)} "
        "where "
        f"v has the larger part ({percent(fraction(plain, removed))} without decay, "
        f"{percent(fraction(decayed, removed))} with it), and {percent(fraction(other, removed))} of the "
        f"other {len(other)}.\n\nHolding v up is another matter than holding it still: v ≥ g² from forty "
        "steps "
        f"before the onset keeps the loss calm in {percent(fraction(stays, held))} of the {len(stays)} cases "
        f"where v has the larger part, and in {percent(fraction(sharp, held))} of the {len(sharp)} where the "
        "landscape has it. What raises v in time works whoever is to blame."
    )


def _groups(numbers: Numbers) -> str:
    names = {
        "plain": "no decay",
        "decay": "decay 0.3",
        "full plain": "full batch, no decay",
        "full decay": "full batch, decay 0.3",
        "mini plain": "mini-batches, no decay",
        "mini decay": "mini-batches, decay 0.3",
        **{f"β₂ {beta2:g} plain": f"β₂ = {beta2:g}, no decay" for beta2 in MEMORIES},
        **{f"β₂ {beta2:g} decay": f"β₂ = {beta2:g}, decay 0.3" for beta2 in MEMORIES},
        **{kind: about.title for kind, about in KINDS.items()},
    }
    columns: dict[str, Callable[[float], str]] = {
        "spikes": shown,
        "v speed": lambda value: shown(100 * value),
        "landscape speed": lambda value: shown(100 * value),
        "share": percent,
        "blamed": percent,
        "removed": percent,
        "robust": shown,
    }
    rows = [
        [title, *(show(numbers.get(f"{name}: {column}", math.nan)) for column, show in columns.items())]
        for name, title in names.items()
    ]
    heads = ["v, % a step", "landscape, % a step", "part of v, median", "v has at least half"]
    return table(["", "spikes", *heads, "removed by freezing v", "of robust spikes"], rows)


def _formulas(spikes: Sequence[Spike]) -> str:
    rows = []
    for judged in judge_formulas(spikes):
        first, *weights = judged.formula.weights
        pairs = zip(weights, judged.formula.names, strict=True)
        text = " ".join([f"{first:.2g}", *(f"{weight:+.2g}·{name}" for weight, name in pairs)])
        found = (judged.same, judged.other, judged.cells, judged.elsewhere)
        rows.append([f"{text.replace('-', '−')} > 0", *map(percent, found)])
    heads = ["seed of the fit", "other seeds", "other cells", "other networks"]
    return table(["v is to blame where", *heads], rows)


def _border(spikes: Sequence[Spike], numbers: Numbers) -> str:
    """Return the border in one sentence."""
    formula = fit_formula(with_share(spikes), BORDER)
    if formula is None:
        return "No formula was fitted: all spikes lie on one side of the border."
    fixed, *weights = formula.weights
    terms = " ".join(f"{weight:+.2g}·{name}" for weight, name in zip(weights, BORDER, strict=True))
    return (
        f"Fitted on all spikes, v is to blame where {fixed:.2g} {terms} > 0".replace("-", "−")
        + ", with s = ½(1 − β₂)/(1 − β₂ᵗ), the speed at which a v that only decays moves ln λ_max(Ĥ), and "
        "ηw, the speed at which decoupled weight decay shrinks the weights. Fitted without them it is right "
        f"for {percent(numbers.get('border: cells', math.nan))} of the spikes of cells, and "
        f"{percent(numbers.get('border: networks', math.nan))} of those of kinds of networks, that were left "
        "out (balanced; 50 % is chance)."
    )


def _crossings(spikes: Sequence[Spike]) -> str:
    rows = []
    for batch, name in (("full", "ratio"), ("full", "gradient_ratio"), *(("mini", name) for name in SIGNALS)):
        members = [spike for spike in spikes if spike["batch"] == batch and "ratio_lead" in spike]
        known = [lead for spike in members if not math.isnan(lead := spike[f"{name}_lead"])]
        early = [lead for lead in known if lead >= _FIRST_READING]
        first = fraction(members, lambda spike, name=name: crossed_first(spike) == name)  # type: ignore[misc]
        parts = [len(part) / len(members) if members else math.nan for part in (known, early)]
        cells = [percent(parts[0]), percent(first), percent(parts[1]), shown(median(known))]
        rows.append([f"{SIGNALS[name]}, {batch} batch", *cells])
    heads = ["at or above one before the onset", "is so first", "at the first reading", "median lead, steps"]
    return table(["", *heads], rows)


def _outcomes(spikes: Sequence[Spike]) -> str:
    known = [spike for spike in spikes if "outcome" in spike]
    groups = {
        "all": known,
        **{about.title: [s for s in known if s["kind"] == kind] for kind, about in KINDS.items()},
        "no decay": [s for s in known if not s["decay"]],
        "decay 0.3": [s for s in known if s["decay"]],
        "full batch": [s for s in known if s["batch"] == "full"],
        "mini-batches": [s for s in known if s["batch"] == "mini"],
    }
    rows = []
    for title, members in groups.items():
        counts = Counter(spike["outcome"] for spike in members)
        effects = [
            median([spike[name] for spike in members]) for name in ("validation_effect", "loss_effect")
        ]
        ratios = [shown(math.exp(min(effect, 700.0))) for effect in effects]
        rows.append([title, str(len(members)), *(str(counts[name]) for name in OUTCOMES), *ratios])
    heads = ["validation, with ÷ without", "training loss, with ÷ without"]
    return table(["", "compared", *OUTCOMES, *heads], rows)


_BAD = ("malignant", "catastrophic")


def _telling(spikes: Sequence[Spike]) -> str:
    bad, good = telling(spikes, _BAD), telling(spikes, ("benign",))
    rows = [[name, *(" / ".join(map(shown, found[name])) for found in (bad, good))] for name in bad]
    return table(["known before the spike", "malignant or catastrophic", "benign"], rows)


def _told(spikes: Sequence[Spike]) -> str:
    return (
        "Beyond 0.65, or below 0.35, in every seed, and so perhaps more than chance: before malignant or "
        f"catastrophic spikes {_beyond_chance(telling(spikes, _BAD))}; before benign ones "
        f"{_beyond_chance(telling(spikes, ('benign',)))}."
    )


def _beyond_chance(found: Mapping[str, Sequence[float]]) -> str:
    sure = []
    for name, values in found.items():
        known = bool(values) and not any(map(math.isnan, values))
        if known and min(values) >= _LEAST_TOLD:
            sure.append(f"a larger {name}")
        elif known and max(values) <= 1 - _LEAST_TOLD:
            sure.append(f"a smaller {name}")
    return ", ".join(sure) if sure else "nothing"
