"""The scores of the probability → the first part of the benchmark's page. Every number is of the scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from foreshock.lab.spikebench.probability import DEFAULT, ORACLE
from foreshock.lab.spikebench.tables import UNKNOWN, number, share, table

GROUPS = {"full": "Full batch", "mini": "Mini-batch", "language": "Like language models"}
_CALM = "Controls without spikes"
_UNBOUNDED = "1"
_WHO = """\
A forecast says how probable it is that a spike, a loss above 3 × its level, begins within 50 steps, and
from {alarm_at} on it is an alarm, until it falls below half of that. {split} Spikes of all runs count
alike; time is that outside spikes, on runs that spike or were meant to; controls that do stay calm have
rows of their own. A spike is caught if an alarm was on in the 50 steps before it, precision is the
share of steps in alarm after which a spike did begin within 50, and the lead is counted from the start
of that alarm. Brackets are 95 % intervals over runs, drawn anew {draws} times; runs of one
configuration are alike, so the true ones are wider.
"""
_TEST = """\
The runs are those of the third split: networks and losses that the development runs have none of,
frozen before the points were fitted, and scored by one command."""
_DEVELOPMENT = """\
These are development runs: each configuration is judged by points that were fitted without it, but
which signs there are was chosen on all of them, so that the figures are optimistic."""
_FRONT = """\
What each budget buys, in forward and backward passes (F) a step of measurements. The oracle is fitted,
on development runs, to the recordings: the stability ratio of a full batch every four steps, pairs of
half-batches every ten, a trial of each third step. It is no bound, but what more measuring of this type
would bring. *At 12 %*: spikes caught by the threshold, chosen afterwards, that is in alarm for 12 % of
the time.
"""
_TRADE = """\
What `alarm_at` trades, with the default budget. Missed spikes, the share of steps in alarm, precision
and median lead:
"""
_RULES = """\
The same for the rules of practice and of the literature, each with the threshold, chosen afterwards, at
which it catches as many spikes as the forecast does by default: *in alarm* is the share of steps that
this takes. A rule that sees the loss or the gradient leave their level catches a spike one or two steps
before it is one, and is in alarm for hardly any time; who wants to act needs more. *Early* is therefore
the same without alarms of the last ten steps before a spike, at the share of spikes that the forecast
catches so early. A rule stays at its highest for ten steps, as long as a forecast is held; *at wrong
times* is the area skill of the same scores shifted against the spikes, which is what flickering alone
is worth.
"""
_SHIFTED = """\
*Area skill* is one less twice the area below the Molchan curve. An alarm that flickers beats the
diagonal without knowing anything, because it need be on only once in 50 steps: the same probabilities
at wrong times in their runs, dashed in the figures, have an area skill of {values}.
"""


@dataclass(frozen=True)
class Target:
    """What a number was meant to be.

    Attributes:
        group: A group, or ``calm``.
        name: Of the number.
        title: In words.
        at_least: Smallest value that meets it; None for any.
        at_most: Largest; None for any. Without either it is no target, but shown beside them.
        form: How the number is written: ``share``, ``fine share``, ``number`` or ``steps``.
    """

    group: str
    name: str
    title: str
    at_least: float | None = None
    at_most: float | None = None
    form: Literal["share", "fine share", "number", "steps"] = "share"

    def verdict(self, value: float | None) -> str:
        """Return whether a value meets it, in a word; an unknown one does not."""
        if self.at_least is None and self.at_most is None:
            return ""
        high_enough = value is not None and (self.at_least is None or value >= self.at_least)
        low_enough = value is not None and (self.at_most is None or value <= self.at_most)
        return "met" if high_enough and low_enough else "**missed**"

    @property
    def text(self) -> str:
        """The target as it is written."""
        ends = [] if self.at_least is None else [f"≥ {self.shown(self.at_least)}"]
        ends += [] if self.at_most is None else [f"≤ {self.shown(self.at_most)}"]
        return ", ".join(ends)

    def shown(self, value: float | None) -> str:
        """Return a value as it is written."""
        if self.form == "share":
            return share(value)
        if self.form == "fine share":
            return _percent(value)
        if self.form == "steps" and value is not None:
            return f"{value:.0f} steps"
        return UNKNOWN if value is None else f"{value:.2f}"


def _caught(group: str, recall: float | None, tall: float) -> tuple[Target, ...]:
    return (
        Target(group, "recall", "spikes caught", at_least=recall),
        Target(group, "recall_tall", "of those ≥ 8×", at_least=tall),
    )


def _probable(group: str, brier: float) -> tuple[Target, ...]:
    return (
        Target(group, "brier_skill", "Brier skill", at_least=brier, form="number"),
        Target(group, "slope", "reliability slope", at_least=0.8, at_most=1.25, form="number"),
        Target(group, "lead", "lead, median", at_least=20, form="steps"),
    )


TARGETS = (
    Target("full", "auroc_within", "AUROC within runs, median", at_least=0.92, form="number"),
    *_caught("full", 0.95, 1.0),
    Target("full", "precision", "precision in steps", at_least=0.7),
    Target("full", "share", "steps in alarm"),
    *_probable("full", 0.35),
    Target("dates", "50", "date 50 steps ahead, median error", at_most=0.15),
    Target("mini", "auroc_within", "AUROC within runs, median", at_least=0.85, form="number"),
    *_caught("mini", 0.85, 0.95),
    Target("mini", "share", "steps in alarm", at_most=0.12),
    Target("mini", "precision", "precision in steps"),
    *_probable("mini", 0.2),
    Target("language", "auroc_within", "AUROC within runs, median", at_least=0.88, form="number"),
    *_caught("language", None, 0.95),
    Target("language", "share", "steps in alarm", at_most=0.12),
    Target("language", "precision", "precision in steps"),
    *_probable("language", 0.2),
    Target("calm", "episodes", "alarms per 1,000 steps", at_most=0.2, form="number"),
    Target("calm", "share", "steps in alarm", at_most=0.01, form="fine share"),
)
"""What was wanted of the default budget before anything was fitted."""


def probability_part(scores: Mapping[str, Any], figures: Mapping[str, str]) -> str:
    """Return the part of the page about one split.

    Args:
        scores: What `foreshock.lab.spikebench.probability.score_probability` returned.
        figures: By name of a figure, where it is as seen from the page.
    """
    split = scores["split"]
    told = _TEST if split == "test" else _DEVELOPMENT
    skills = ", ".join(
        f"{scores['shifted'][group]['area_skill']:.2f} ({title.lower()})"
        for group, title in GROUPS.items()
        if group in scores["shifted"]
    )
    parts = [
        _WHO.format(alarm_at=scores["alarm_at"], split=" ".join(told.split()), draws=200),
        about_table(scores),
        f"### At the default budget, {split}\n\n{target_table(scores)}",
        *(f"![{_alt(stem)}]({figures[stem]})" for stem in _stems(scores) if stem in figures),
        _SHIFTED.format(values=skills),
        f"### What a price buys, {split}\n\n{_FRONT}\n{front_table(scores)}",
        f"### What a threshold trades, {split}\n\n{_TRADE}\n{threshold_table(scores)}",
    ]
    if any(scores["rules"].values()):
        parts.append(f"### Rules on the same axes, {split}\n\n{_RULES}\n{rules_table(scores)}")
    return "\n\n".join(part.strip() for part in parts)


def summary(scores: Mapping[str, Any]) -> str:
    """Return the tables of one split, for a terminal."""
    parts = [about_table(scores), target_table(scores), front_table(scores), threshold_table(scores)]
    if any(scores["rules"].values()):
        parts.append(rules_table(scores))
    return "\n\n".join(parts) + "\n"


def about_table(scores: Mapping[str, Any]) -> str:
    """Return one row a group: its runs and its spikes."""
    header = ("", "runs", "configurations", "spikes", "≥ 8×", "steps judged", "F a step")
    cost = scores["sources"][DEFAULT]["groups"]
    rows = [
        (GROUPS[group], str(found["runs"]), str(found["configurations"]), str(found["spikes"]),
         str(found["tall"]), f"{found['steps']:,}", number(cost[group]["cost"]))
        for group, found in scores["groups"].items()
    ]  # fmt: skip
    calm = scores["sources"][DEFAULT]["calm"]
    if calm["runs"]:
        rows.append((_CALM, str(calm["runs"]), "", "0", "0", f"{calm['steps']:,}", ""))
    return table(header, rows)


def target_table(scores: Mapping[str, Any]) -> str:
    """Return one row a target, with what was reached; missed ones are marked."""
    default = scores["sources"][DEFAULT]
    rows = []
    for target in TARGETS:
        found = _entry(scores, default, target.group)
        if found is not None:
            value, ends = found.get(target.name), found.get("interval", {}).get(target.name)
            inside = "" if ends is None else f" ({target.shown(ends[0])} to {target.shown(ends[1])})"
            cells = (target.title, target.shown(value) + inside, target.text, target.verdict(value))
            rows.append((_title(target.group), *cells))
    header = ("", "number", "reached (95 %)", "target", "")
    return table(header, rows, words=("number", "target", ""))


def front_table(scores: Mapping[str, Any]) -> str:
    """Return one row a group and budget, the oracle last."""
    header = (
        *("", "budget", "runs", "F a step", "AUROC within", "AUROC", "area skill (early)"),
        *("Brier skill", "slope", "caught", "10 before", "caught ≥ 8×", "in alarm", "precision"),
        *("caught at 12 %", "≥ 8× at 12 %"),
    )
    rows = []
    for group, title in GROUPS.items():
        for name, source in scores["sources"].items():
            found = source["groups"].get(group)
            if found is None:
                continue
            decimals = [
                _two(found[key]) for key in ("auroc_within", "auroc", "area_skill", "brier_skill", "slope")
            ]
            decimals[2] += f" ({_two(found['area_skill_early'])})"
            keys = (
                "recall",
                "recall_early",
                "recall_tall",
                "share",
                "precision",
                "recall_at",
                "recall_tall_at",
            )
            rows.append((title, _budget(name), str(found["runs"]), number(found["cost"]), *decimals,
                         *(share(found[key]) for key in keys)))  # fmt: skip
    return table(header, rows, words=("budget",))


def threshold_table(scores: Mapping[str, Any]) -> str:
    """Return one row a threshold: missed, in alarm, precision and lead by group, and the controls."""
    header = (
        "`alarm_at`",
        *(GROUPS[group] for group in scores["groups"]),
        "Controls: in alarm, alarms/1,000",
    )
    rows = []
    for found in scores["thresholds"]:
        cells = []
        for group in scores["groups"]:
            one = found["groups"][group]
            missed = None if one["recall"] is None else 1 - one["recall"]
            lead = UNKNOWN if one["lead"] is None else f"{one['lead']:.0f}"
            cells.append(f"{share(missed)} · {share(one['share'])} · {share(one['precision'])} · {lead}")
        calm = found["calm"]
        rows.append(
            (f"{found['alarm_at']:g}", *cells, f"{_percent(calm['share'])} · {number(calm['episodes'])}")
        )
    return table(header, rows)


def rules_table(scores: Mapping[str, Any]) -> str:
    """Return one row a rule: of each group its AUROC within runs, area skill and steps in alarm."""
    groups = list(scores["groups"])
    header = (
        "rule",
        *(
            f"{GROUPS[group]}: F · AUROC within · area skill (at wrong times) · in alarm (early)"
            for group in groups
        ),
    )
    default = scores["sources"][DEFAULT]["groups"]
    rows: list[tuple[str, ...]] = []
    for name, found in scores["rules"].items():
        cells = []
        for group in groups:
            one = found.get(group)
            if one is None:
                cells.append(UNKNOWN)
                continue
            cells.append(
                f"{number(one['cost'])} · {_two(one['auroc_within'])} · {_two(one['area_skill'])} "
                f"({_two(one['chance'])}) · {share(one['share_at_recall'])} "
                f"({share(one['share_at_recall_early'])})"
            )
        rows.append((name, *cells))
    own = [
        f"{number(default[group]['cost'])} · {_two(default[group]['auroc_within'])} · "
        f"{_two(default[group]['area_skill'])} "
        f"({_two(scores['shifted'][group]['area_skill'])}) · "
        f"{share(default[group]['share'])}"
        for group in groups
    ]
    rows.append(("**forecast, default**", *own))
    return table(header, rows)


def _entry(scores: Mapping[str, Any], default: Mapping[str, Any], group: str) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None
    if group == "calm":
        found = default["calm"]
        return found if found and found["runs"] else None
    if group == "dates":
        return {"50": scores["dates"]["50"]["median"]} if scores["dates"]["runs"] else None
    found = default["groups"].get(group)
    return found


def _title(group: str) -> str:
    return {**GROUPS, "calm": _CALM, "dates": GROUPS["full"]}[group]


def _budget(name: str) -> str:
    if name == ORACLE:
        return "oracle"
    if name == _UNBOUNDED:
        return "no bound"
    return f"**{name}**, default" if name == DEFAULT else name


def _stems(scores: Mapping[str, Any]) -> list[str]:
    split = scores["split"]
    return [*(f"molchan-{split}-{group}" for group in scores["groups"]), f"probability-{split}"]


def _alt(stem: str) -> str:
    kind, _, rest = stem.partition("-")
    names = {
        "molchan": "Spikes missed against time in alarm",
        "probability": "Forecast and observed frequency",
    }
    return f"{names[kind]}: {rest.replace('-', ', ')}"


def _two(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return UNKNOWN if value is None else f"{100 * value:.1f} %"
