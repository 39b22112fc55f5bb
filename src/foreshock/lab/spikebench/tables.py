"""Scores → Markdown tables."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

from foreshock.lab.spikebench.scores.forecasts import LEADS, SPIKE_LEADS

At = Literal["default", "calibrated"]
Cells = Sequence[str]

UNKNOWN = "–"
_ALARMS = (
    "rule",
    "threshold",
    "cost, F/step",
    "spikes",
    "recall",
    "recall ≥ 8×",
    "recall, lead ≥ 10",
    "lead, median (10 %)",
    "false/1000, spiky",
    "false/1000, control",
    "in alarm, spiky",
    "in alarm, control",
    "AUROC",
)
_FORECASTS = (
    "runs",
    "traces",
    *(f"error {lead} ahead" for lead in LEADS),
    "80 % held, leads",
    "80 % held, ≤ 300",
    *(f"spike, error {lead} ahead" for lead in SPIKE_LEADS),
    "height ρ",
)


def rule_table(
    scores: Mapping[str, Any],
    split: str,
    group: str,
    *,
    at: At = "default",
    spikes: str = "3x",
    forecasts: Mapping[str, Any] | None = None,
) -> str:
    """Return one row a rule, and one each for watch and alarm of the forecasts.

    Args:
        scores: What :func:`foreshock.lab.spikebench.scores.score_rules` returned.
        split: development or held-out.
        group: all, full, mini, language or ``family NAME``.
        at: The rules' default thresholds, or those calibrated on development controls.
        spikes: Class of spikes: ``3x``, on text also ``+20 %`` or ``+3 % sustained``.
        forecasts: What :func:`foreshock.lab.spikebench.scores.score_forecasts` returned; may be left out.

    Raises:
        ValueError: If there is no such split or group.

    Example:
        >>> print(rule_table({"rules": {}, "scores": {"held-out": {"all": {}}}}, "held-out", "all"))
        | rule | threshold | cost, F/step | spikes | recall | ...
    """
    found = _pick(scores["scores"], split, group)
    rows = [
        _rule_row(name, entry, _threshold(scores["rules"][name], at, entry), at, spikes)
        for name, entry in found.items()
    ]
    if forecasts is not None:
        entry = _pick(forecasts, split, group)
        for state in ("watch", "alarm"):
            made = {state: entry[state], "auroc": entry["auroc"], "cost": entry["cost"]}
            rows.append(_rule_row(f"forecast: {state}", made, UNKNOWN, state, spikes))
    return table(_ALARMS, rows)


def forecast_table(forecasts: Mapping[str, Any], split: str) -> str:
    """Return one row a group: median relative error of the crossing time with its count, coverage, height.

    Args:
        forecasts: What :func:`foreshock.lab.spikebench.scores.score_forecasts` returned.
        split: development or held-out.

    Raises:
        ValueError: If there is no such split.
    """
    if split not in forecasts:
        raise ValueError(f"split is {split!r}; scored were {', '.join(forecasts)}")
    return table(_FORECASTS, (_forecast_row(group, entry) for group, entry in forecasts[split].items()))


def markdown(scores: Mapping[str, Any], forecasts: Mapping[str, Any] | None = None) -> str:
    """Return all tables: of each split and group, at both thresholds, for every class of spikes."""
    parts: list[str] = []
    for split, found in scores["scores"].items():
        if forecasts is not None:
            parts += [f"## Forecasts, {split}", forecast_table(forecasts, split)]
        for group, entries in found.items():
            for at, spikes in _sections(entries):
                parts.append(f"## {split}, {group}: spikes {spikes}, {at} thresholds")
                parts.append(rule_table(scores, split, group, at=at, spikes=spikes, forecasts=forecasts))
    return "\n\n".join(parts) + "\n"


def table(header: Cells, rows: Iterable[Cells], *, words: Collection[str] = ()) -> str:
    """Return a Markdown table; the first column and those of words are aligned left, the others right.

    Args:
        header: The names of the columns.
        rows: The cells.
        words: Names of the columns that hold words.

    Example:
        >>> print(table(("a", "b"), [("x", "1")]))
        | a | b |
        |---|--:|
        | x | 1 |
    """
    rule = "|---|" + "".join("---|" if name in words else "--:|" for name in header[1:])
    return "\n".join((_line(header), rule, *(_line(row) for row in rows)))


def _line(cells: Cells) -> str:
    return "| " + " | ".join(cells) + " |"


def _sections(entries: Mapping[str, Any]) -> list[tuple[At, str]]:
    classes = dict.fromkeys(name for entry in entries.values() if entry for name in entry["default"])
    ats: tuple[At, At] = ("default", "calibrated")
    return [(at, name) for name in classes for at in ats]


def _pick(scores: Mapping[str, Any], split: str, group: str) -> Mapping[str, Any]:
    if group not in scores.get(split, {}):
        known = "; ".join(f"{name}: {', '.join(groups)}" for name, groups in scores.items())
        raise ValueError(f"there is no group {group!r} of split {split!r}; scored were {known}")
    picked: Mapping[str, Any] = scores[split][group]
    return picked


def _threshold(about: Mapping[str, Any], at: At, entry: Mapping[str, Any] | None) -> str:
    if at == "default":
        return number(about["default"])
    if entry is None or entry["calibrated"] is None:
        return UNKNOWN
    return ", ".join(
        f"{kind} {number(value) if value is not None else 'none'}"
        for kind, value in about["calibrated"].items()
    )


def _rule_row(name: str, entry: Mapping[str, Any] | None, threshold: str, at: str, spikes: str) -> Cells:
    counted = ((entry or {}).get(at) or {}).get(spikes)
    if entry is None or counted is None:
        return (name, threshold, *[UNKNOWN] * (len(_ALARMS) - 2))
    lead = f"{number(counted['lead_median'])} ({number(counted['lead_10'])})" if counted["hits"] else UNKNOWN
    return (
        name,
        threshold,
        number(entry.get("cost")),
        str(counted["spikes"]),
        share(counted["recall"]),
        share(counted["tall"]["recall"]),
        share(counted["recall_early"]),
        lead,
        number(counted["false_spiky"]),
        number(counted["false_control"]),
        share(counted["share_spiky"]),
        share(counted["share_control"]),
        number(entry["auroc"], digits=3),
    )


def _forecast_row(group: str, entry: Mapping[str, Any]) -> Cells:
    errors = [_error(entry["crossing"][str(lead)]) for lead in LEADS]
    spikes = [_error(entry["spike"][str(lead)]) for lead in SPIKE_LEADS]
    held = [
        f"{share(entry['coverage'][name]['share'])} ({entry['coverage'][name]['count']})"
        for name in ("at_leads", "within_300")
    ]
    height = f"{number(entry['height']['spearman'])} ({entry['height']['count']})"
    return (group, str(entry["traces"]), *errors, *held, *spikes, height)


def _error(error: Mapping[str, Any]) -> str:
    return f"{share(error['median'])} ({error['count']} of {error['count'] + error['without']})"


def share(value: float | None) -> str:
    """Return a share in per cent."""
    return UNKNOWN if value is None else f"{100 * value:.0f} %"


def number(value: float | None, digits: int = 2) -> str:
    """Return a number to some significant digits, without an exponent."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0"
    return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"
