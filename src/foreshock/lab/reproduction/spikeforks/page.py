"""Findings → the page on which spikes do good, a template whose fields are numbers, sentences and tables."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foreshock.lab.reproduction.page_parts import UNKNOWN, coverage, filled, percent, shown, table, template
from foreshock.lab.reproduction.skill import discrimination
from foreshock.lab.reproduction.spikeforks.cells import KINDS, all_cells
from foreshock.lab.reproduction.spikeforks.findings import (
    BAD,
    MAPS,
    Findings,
    Judgement,
    Prevented,
    map_rules,
    price,
    sides_of,
    signs,
    worst,
)
from foreshock.lab.reproduction.spikeforks.picture import CAPTION, PICTURE, draw_effects
from foreshock.lab.reproduction.spikeforks.rules import (
    AFTERWARDS,
    BEFOREHAND,
    Judged,
    Rule,
    Threshold,
)
from foreshock.lab.reproduction.spikemap.findings import OUTCOMES, cell_of

PAGE = Path("explanation") / "harm.md"
_FEWEST = 3  # more spikes of one sort than of the other, before the first paragraph says so of a kind of task


def write_harm(
    lines: Sequence[Mapping[str, Any]],
    target: Path,
    *,
    kept: str,
    pictures: Path,
    surveyed: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write the page and draw its figure.

    Args:
        lines: Lines of the experiment, at least one.
        target: Folder of the pages.
        kept: Where the lines are, as the page names it.
        pictures: Folder of the figures, below that of the pages.
        surveyed: Lines of the map, whose spikes rules are tried on as well.
    """
    path = target / PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    findings = Findings(lines)
    draw_effects(findings, pictures / PICTURE)
    up = (Path("..") / pictures.relative_to(target)).as_posix()
    mapped = map_rules(surveyed) if surveyed else {}
    fixed = mapped["malignant or catastrophic"].rule if mapped else None
    rules, against_rate = findings.rules(fixed), _against_rate(findings)
    fields = {
        **_facts(findings),
        "results": kept,
        "answer": _answer(findings, against_rate["agreement"]),
        "rule": _rule_sentence(rules, mapped),
        "figure": f"![{CAPTION}]({up}/{PICTURE})\n\n*{CAPTION}.*",
        "outcomes": _outcomes(findings),
        **against_rate,
        "telling": _telling(findings),
        "rules": _rules(rules),
        "price": _prices(findings, rules),
        "let go": _let_go(findings),
        "late": _late(findings),
        "map": _map(surveyed, mapped),
    }
    path.write_text(filled(template("harm.md"), fields.__getitem__), encoding="utf-8")
    return path


def _facts(findings: Findings) -> dict[str, str]:
    lines = findings.lines
    cells = len({cell_of(line) for line in lines})
    named = "; ".join(
        f"{kind.network.title} (η = {' or '.join(f'{rate:g}' for rate in kind.network.rates)}, decoupled "
        f"weight decay {' or '.join(f'{decay:g}' for decay in kind.decays)})"
        for kind in KINDS.values()
    )
    sizes = lines[-1]["sizes"]
    after = sorted({kind.after if sizes["after"] is None else sizes["after"] for kind in KINDS.values()})
    return {
        **coverage(lines, cells=cells, every=len(all_cells()), across="kinds"),
        "after": " to ".join(dict.fromkeys((str(after[0]), str(after[-1])))),
        "kinds": f"{named[0].upper()}{named[1:]}.",
        "copies": str(sizes["copies"]),
    }


def _late(findings: Findings) -> str:
    """Return what the spikes do where generalisation comes late."""
    title = KINDS["addition"].network.title
    members = findings.groups()[title]
    lower, higher = signs(members, "best")
    return (
        f"preventing one spike there brings the early-stopped validation loss to "
        f"{shown(price(members, 'best'))} times (geometric mean of {len(members)}; worst "
        f"{shown(worst(members, 'best'))}), by more than chance higher in {lower} and lower in {higher}, and "
        f"the training loss to {shown(price(members, 'loss'))} times"
    )


def _counted(judged: Sequence[Judgement]) -> str:
    counts = Counter(one.outcome for one in judged)
    return ", ".join(f"{counts[name]} {name}" for name in OUTCOMES)


def _answer(findings: Findings, agreement: str) -> str:
    """Return the answer in one paragraph: what became of the spikes, and where preventing pays."""
    judged, groups = findings.judged, findings.groups()
    titles = [kind.network.title for kind in KINDS.values()]
    sides: dict[str, list[str]] = {"pays": [], "costs": [], "open": []}
    lower, higher = signs(judged, "best")
    for title in titles:
        members = groups[title]
        bad, good = (
            sum(one.outcome in BAD for one in members),
            sum(one.outcome == "benign" for one in members),
        )
        side = "pays" if bad >= good + _FEWEST else "costs" if good >= bad + _FEWEST else "open"
        sides[side].append(f"{title} ({bad} : {good} of {len(members)})")
    words = {
        "pays": "More were malignant or catastrophic than benign, so that preventing pays, on {}.",
        "costs": "More were benign than malignant or catastrophic, so that preventing costs, on {}.",
        "open": f"Fewer than {_FEWEST} apart, so that nothing is decided: {{}}.",
    }
    where = " ".join(words[side].format("; ".join(found)) for side, found in sides.items() if found)
    return (
        f"**Of {len(judged)} spikes, each let pass and prevented from the same state: {_counted(judged)}.** "
        f"The early-stopped validation loss alone is lower with the spike in {lower} and higher in {higher}, "
        "by more than chance; where it is the same, the training loss decides. "
        f"{where} {agreement} Preventing them all brings the early-stopped "
        "validation loss to "
        f"{shown(price(judged, 'best'))} times, and the training loss to "
        f"{shown(price(judged, 'loss'))} times what they are with the spike (geometric means)."
    )


def _rule_sentence(rules: Mapping[str, Judged], mapped: Mapping[str, Judged]) -> str:
    holding = {name: found for name, found in rules.items() if found.holds}
    holding |= {f"{name}, on the map": found for name, found in mapped.items() if found.holds}
    if not holding:
        tried = [
            f"{_named(found)}, the best rule with one threshold for *{name}* on one half of the cells, is "
            f"right for {percent(found.held)} of the other"
            for name, found in rules.items()
            if isinstance(found.rule, Threshold)
        ]
        ending = f": {'; '.join(tried)} (balanced; 50 % is chance)" if tried else ""
        return f"**Nothing that was tried tells beforehand which is which**{ending}."
    told = "; ".join(
        f"*{name}*: {_named(found)}, right for {_accuracy(found)} (balanced; 50 % is chance)"
        for name, found in holding.items()
    )
    if any(found.holds for found in rules.values()):
        text = f"**What tells beforehand**, on cells that it was not chosen on: {told}."
    else:
        text = (
            "**On these trainings nothing that was tried tells beforehand which is which.** Elsewhere "
            f"something does, on cells that it was not chosen on: {told}."
        )
    elsewhere = rules.get(MAPS)
    if elsewhere is not None and not elsewhere.holds and elsewhere.rule is not None:
        count = elsewhere.members[1], elsewhere.members[1] + elsewhere.others[1]
        text += (
            f" On these trainings the map's rule is right for {_accuracy(elsewhere)}, with {count[0]} "
            f"malignant or catastrophic spikes of {count[1]}: a hint, no more."
        )
    return text


def _named(found: Judged) -> str:
    return str(found.rule) if isinstance(found.rule, Threshold) else "late generalisation, as defined below"


def _accuracy(found: Judged) -> str:
    low, high = found.interval
    return UNKNOWN if math.isnan(found.held) else f"{percent(found.held)} [{100 * low:.0f}, {100 * high:.0f}]"


def _outcomes(findings: Findings) -> str:
    rows = []
    for title, members in findings.groups().items():
        counts = Counter(one.outcome for one in members)
        arrows = [
            f"{lower}↓ {higher}↑"
            for lower, higher in (signs(members, name) for name in ("best", "equal", "loss", "sharpness"))
        ]
        prices = [
            *(shown(price(members, "best")), shown(worst(members, "best"))),
            *(shown(price(members, "loss")), shown(worst(members, "loss"))),
        ]
        rows.append([title, str(len(members)), *(str(counts[name]) for name in OUTCOMES), *prices, *arrows])
    heads = [
        "early-stopped validation, prevented ÷ let pass",
        "worst",
        "training loss, prevented ÷ let pass",
        "worst",
        "early-stopped validation",
        "validation at equal training loss",
        "training loss",
        "λ_max(H)",
    ]
    return table(["", "compared", *OUTCOMES, *heads], rows)


def _against_rate(findings: Findings) -> dict[str, str]:
    own = {id(one.fork): one for one in findings.judge_against("guard")}
    other = findings.judge_against("rate")
    both = [(own[id(one.fork)], one) for one in other if id(one.fork) in own]
    alike = sum(first.outcome == second.outcome for first, second in both)
    against = sum({first.outcome, second.outcome} >= {"benign", "malignant"} for first, second in both)
    sentence = (
        f"Of the {len(both)} spikes that both the guard and half the rate prevent, {alike} get the same word "
        f"from both, and {against} are benign against one and malignant against the other: how a spike is "
        "prevented matters as much as whether."
    )
    return {
        "rate compared": str(len(other)),
        "rate outcomes": _counted(other),
        "agreement": sentence if both else "",
    }


def _telling(findings: Findings) -> str:
    """Return how well each quantity alone tells a class of spikes, half by half."""
    rows = []
    for name, quantity in {**BEFOREHAND, **AFTERWARDS}.items():
        cells = []
        for outcomes in (("benign",), BAD):
            areas = []
            for side in (False, True):
                half = [one for one in findings.judged if one.held == side]
                labels = [one.outcome in outcomes for one in half]
                areas.append(discrimination([quantity(one.fork) for one in half], labels))
            cells.append(" / ".join(map(shown, areas)))
        late = " (once it has come)" if name in AFTERWARDS else ""
        rows.append([f"{name}{late}", *cells])
    return (
        "The chance that a quantity is larger before a spike of the class than before another, on the half "
        "of the cells that rules are chosen on / the held-out half; 0.5 says nothing.\n\n"
        + table(["known before the spike", "benign", "malignant or catastrophic"], rows)
    )


def _rules(rules: Mapping[str, Judged]) -> str:
    rows = []
    for name, found in rules.items():
        text = "too few of either to choose one" if found.rule is None else _named(found)
        counts = [f"{found.members[half]} : {found.others[half]}" for half in (0, 1)]
        verdict = "holds" if found.holds else "does not hold"
        if math.isnan(found.own):
            counts[0] = UNKNOWN
        cells = [counts[0], percent(found.own), counts[1], _accuracy(found)]
        rows.append([name, text, *cells, UNKNOWN if found.rule is None else verdict])
    heads = ["class : others, chosen on", "right there", "class : others, scored on", "right there", ""]
    return table(["class", "yes where", *heads], rows, texts=2)


def _prices(findings: Findings, rules: Mapping[str, Judged]) -> str:
    held = [one for one in findings.judged if one.held]
    if not held:
        return ""
    rows = [["every spike", *_priced(held)]]
    for name, found in rules.items():
        if found.rule is None:
            continue
        spares = name.startswith("benign")
        title = f"all but where {_named(found)}" if spares else f"where {_named(found)}"
        rows.append([title, *_priced(held, _prevented(found.rule, spares=spares))])
    heads = ["prevented", "early-stopped validation", "training loss"]
    return (
        "What it costs or brings on the held-out half, ÷ what letting every spike pass comes to (geometric "
        "means):\n\n" + table(["prevented are", *heads], rows)
    )


def _prevented(rule: Rule, *, spares: bool) -> Prevented:
    return lambda one: rule(one.fork) != spares


def _priced(held: Sequence[Judgement], prevented: Prevented | None = None) -> list[str]:
    count = len(held) if prevented is None else sum(map(prevented, held))
    return [f"{count} of {len(held)}", *(shown(price(held, name, prevented)) for name in ("best", "loss"))]


def _map(surveyed: Sequence[Mapping[str, Any]], mapped: Mapping[str, Judged]) -> str:
    """Return the same question put to the spikes of the map."""
    if not mapped:
        return "The map has not been run."
    count = next(sum(found.members) + sum(found.others) for found in mapped.values())
    holding = [name for name, found in mapped.items() if found.holds]
    verdict = f"There a rule holds for: {', '.join(holding)}." if holding else "No rule holds there either."
    parts = [
        f"[The map](map.md) compared {count} spikes of other trainings, each once, over a hundred steps, "
        "with v ≥ g² or clipping, and without a floor of chance; validation at equal training loss decides "
        f"first. Rules chosen on every other of its cells and scored on the others: {verdict} Its table of "
        "what tells, over all cells, had been seen before.",
        _rules(mapped),
    ]
    for name, found in mapped.items():
        if found.holds and found.rule is not None:
            rows = []
            for says, numbers in sides_of(surveyed, found.rule).items():
                title = f"{'where' if says else 'elsewhere than where'} {_named(found)}"
                counts = [shown(numbers[key]) for key in ("compared", *OUTCOMES)]
                rows.append([title, *counts, shown(numbers["validation"]), shown(numbers["loss"])])
            heads = [
                "validation at equal training loss, prevented ÷ let pass",
                "training loss, prevented ÷ let pass",
            ]
            parts.append(
                f"What that rule (*{name}*) parts on the held-out half of the map:\n\n"
                + table(["", "compared", *OUTCOMES, *heads], rows)
            )
    return "\n\n".join(parts)


def _let_go(findings: Findings) -> str:
    forks = findings.forks
    chance = [fork for fork in forks if "pass" not in fork["copies"]]
    rest = [fork for fork in forks if "pass" in fork["copies"]]
    never = [fork for fork in rest if not set(fork["copies"]) - {"pass"}]
    guarded, halved = (sum(way in fork["copies"] for fork in rest) for way in ("guard", "rate"))
    return (
        f"{len(forks)} spikes were forked. {len(chance)} did not come in every copy that let them pass: they "
        f"are a matter of chance. Of the other {len(rest)} the guard prevents {guarded} in every copy, half "
        f"the rate {halved}; {len(never)} are prevented by neither and could not be compared."
    )
