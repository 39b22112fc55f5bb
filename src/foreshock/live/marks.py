"""What is marked on the charts – spikes, alarms, a guard's actions, events – and what each mark says."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from foreshock.report.charts import joined
from foreshock.report.readings import times, until
from foreshock.report.tables import spike_table
from foreshock.report.verdict import failure
from foreshock.report.words import count, height, number, percent
from foreshock.representation import short_line
from foreshock.runlog.numbers import as_number, as_share

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from foreshock.live.analysis import Analysed
    from foreshock.live.run import LiveRun
    from foreshock.spikes import LossEvent

_MOST = 2000  # marks of one sort: the last
_APART = 20_000  # steps of a run whose actions are joined within twenty
_DIGITS = 20
_SHOWN = 8  # actions that an explanation lists

Mark = dict[str, Any]


def marks(run: LiveRun, analysed: Analysed | None) -> dict[str, Any]:
    """Return what is marked: plain JSON values, each mark with the key that `explanation` takes.

    Args:
        run: The run.
        analysed: Its summary, if there is one: it says what was announced, and which alarms were false.
    """
    with run.lock:
        spikes = [_spike(event, analysed) for event in run.events[-_MOST:]]
        alarms = [_alarm(place, row) for place, row in _last(run.log.alarms)]
        events = [_event(place, row) for place, row in _last(run.log.events)]
        steps = sorted({row["step"] for row in run.log.actions})
        span = (0, max(run.last_step or 1, _APART))  # a list of hundreds of single steps says nothing
    actions = [
        {"key": f"guard-{first}-{last}", "sort": "guard", "step": first, "end": last, "label": "guard"}
        for first, last in joined(steps, span)
    ]
    return {
        "spikes": spikes,
        "alarms": alarms,
        "events": events,
        "actions": actions,
        "guarded": len(steps),
        "falseAlarms": [] if analysed is None else _spans(analysed.summary.false_alarms),
        "answered": [] if analysed is None else _spans(analysed.summary.answered),
    }


def explanation(run: LiveRun, analysed: Analysed | None, key: str) -> dict[str, Any] | None:
    """Return what a mark says: a title, facts as pairs of words, sentences, and the steps around it.

    Args:
        run: The run.
        analysed: Its summary, if there is one.
        key: Of a mark that `marks` returned.

    Returns:
        Plain JSON values; None if there is no such mark.
    """
    sort, _, place = key.partition("-")
    with run.lock:
        if sort == "spike":
            found = [event for event in run.events if str(event.onset) == place]
            return _explained_spike(found[-1], run, analysed) if found else None
        rows = {"alarm": run.log.alarms, "event": run.log.events}.get(sort)
        if rows is not None:
            at = _counted(place)
            row = rows[at] if at is not None and at < len(rows) else None
            explained = _explained_alarm if sort == "alarm" else _explained_event
            return None if row is None else explained(row, run)
        first, last = map(_counted, place.partition("-")[::2])
        if sort == "guard" and first is not None and last is not None:
            return _explained_actions(first, last, run)
    return None


def _counted(digits: str) -> int | None:
    # Of thousands of digits, which a request can have, int() makes an error.
    return int(digits) if digits.isdecimal() and len(digits) < _DIGITS else None


def _last(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    first = max(len(rows) - _MOST, 0)
    return enumerate(rows[first:], start=first)


def _spans(episodes: Sequence[Any]) -> list[dict[str, int]]:
    return [{"start": one.start, "end": one.end} for one in episodes]


def _spike(event: LossEvent, analysed: Analysed | None) -> Mark:
    outcomes = () if analysed is None else analysed.summary.outcomes
    announced = [one.announced for one in outcomes if one.spike.onset == event.onset]
    return {
        "key": f"spike-{event.onset}",
        "sort": event.kind,
        "step": event.onset,
        "onset": event.onset,
        "peak": event.peak,
        "end": event.end,
        "announced": announced[0] if announced else None,
        "label": "NaN" if event.first_non_finite is not None else height(event),
    }


def _alarm(place: int, row: Mapping[str, Any]) -> Mark:
    level = short_line(str(row.get("level") or "alarm"))
    reason = short_line(str(row.get("reason") or ""))
    return {"key": f"alarm-{place}", "sort": "alarm", "step": row["step"], "label": level, "words": reason}


def _event(place: int, row: Mapping[str, Any]) -> Mark:
    name = short_line(str(row.get("name") or "event"))
    end, words = until(row), short_line(str(row.get("message") or ""))
    first = name.partition(":")[0].partition(" ")[0]
    sort = first if first in ("misuse", "rewind", "recovery") else "event"
    return {
        "key": f"event-{place}",
        "sort": sort,
        "step": row["step"],
        "end": end,
        "label": name,
        "words": words,
    }


def _explained_spike(event: LossEvent, run: LiveRun, analysed: Analysed | None) -> dict[str, Any]:
    title = f"{event.kind.capitalize()} at step {event.onset:,}"
    facts = [
        ("Height", height(event)),
        ("Level before", number(event.reference)),
        ("Highest", f"{number(event.reference + event.rise)} at step {event.peak:,}"),
        ("Lasted", count(event.end - event.onset + 1, "step")),
    ]
    text = [] if event.kind == "spike" else [f"{failure(event, run.last_step)}."]
    found = None if analysed is None else analysed.summary.explanation_of(event)
    if analysed is not None and found is not None:
        facts += _measured(event, analysed)
        text += [_sentence(words) for words in found.why]
        text += [_sentence(f"{found.recovery.outcome}: {found.recovery.words}"), *found.advice]
    else:
        text.append("What was known before it is being worked out.")
    margin = max(event.end - event.onset, 60)
    return _explained(title, facts, text, (event.onset - margin, event.end + margin))


def _measured(event: LossEvent, analysed: Analysed) -> list[tuple[str, str]]:
    """Return what the report's table says of a spike, by the names of its columns."""
    table = spike_table(analysed.summary)
    rows = zip(analysed.summary.outcomes, table.rows, strict=True)
    row = next((row for one, row in rows if one.spike.onset == event.onset), ())
    return [(name, cell) for name, cell in zip(table.headers[2:], row[2:], strict=False) if cell != "–"]


def _explained_alarm(row: Mapping[str, Any], run: LiveRun) -> dict[str, Any]:
    step = row["step"]
    forecast = row.get("forecast") or {}
    named = {
        "Stability ratio": number(as_number(forecast.get("stability_ratio"))),
        "Typical mean-square ratio": number(as_number(forecast.get("typical_mean_square_ratio"))),
        "Probability": percent(as_share(forecast.get("probability"))),
        "Edge expected in": _steps(as_number(forecast.get("steps_to_instability"))),
        "At least, at most (80 %)": " – ".join(
            _steps(as_number(forecast.get(name))) for name in ("interval_low", "interval_high")
        ),
        "Lag of v": number(as_number(forecast.get("lag"))),
        "Stage": short_line(str(forecast.get("stage") or "")).replace("_", " "),
        "Basis": short_line(str(forecast.get("basis") or "")),
        "Doubt": short_line(str(forecast.get("doubt") or "")),
    }
    facts = [(name, words) for name, words in named.items() if words.strip(" –") not in _NOTHING]
    hint = short_line(str(forecast.get("cause_hint") or ""))
    text = [_sentence(short_line(str(row.get("reason") or ""))), _sentence(hint), _outcome(step, run)]
    title = f"{short_line(str(row.get('level') or 'alarm')).capitalize()} at step {step:,}"
    return _explained(title, facts, text, (step - 100, step + 200))


_NOTHING = ("", "NaN", "unknown", "NaN – NaN")


def _outcome(step: int, run: LiveRun) -> str:
    """What came after an alarm, as far as the log goes."""
    after = [event for event in run.events if event.onset >= step]
    if after:
        event = after[0]
        later = count(event.onset - step, "step")
        return f"Next, the loss: {event.kind} at step {event.onset:,}, {later} later."
    passed = (run.last_step or step) - step
    return f"No spike in the {count(passed, 'step')} since." if passed > 0 else ""


def _explained_event(row: Mapping[str, Any], run: LiveRun) -> dict[str, Any]:
    del run
    step, end, often = row["step"], until(row), times(row)
    facts = [("Steps", f"{step:,} – {end:,}"), ("Times", f"{often:,}")] if often > 1 else []
    words = _sentence(short_line(str(row.get("message") or "")))
    title = f"{_sentence(short_line(str(row.get('name') or 'event'))).rstrip('.')}, step {step:,}"
    return _explained(title, facts, [words], (step - 100, end + 100))


def _explained_actions(first: int, last: int, run: LiveRun) -> dict[str, Any] | None:
    rows = [row for row in run.log.actions if first <= row["step"] <= last]
    if not rows:
        return None
    shown = [
        (
            f"Step {row['step']:,}",
            f"{short_line(str(row.get('remedy') or 'acted'))}, "
            f"factor {number(as_number(row.get('factor')))}: {short_line(str(row.get('reason') or ''))}",
        )
        for row in rows[:_SHOWN]
    ]
    left = len(rows) - len(shown)
    text = [f"And {count(left, 'more action')} up to step {last:,}."] if left > 0 else []
    policy = short_line(str(rows[0].get("policy") or ""))
    title = f"Guard{f' ({policy})' if policy else ''}, {count(len(rows), 'action')} from step {first:,}"
    return _explained(title, shown, text, (first - 100, last + 100))


def _explained(
    title: str, facts: Sequence[tuple[str, str]], text: Sequence[str], around: tuple[float, float]
) -> dict[str, Any]:
    window = [max(around[0], 0), around[1]]
    return {"title": title, "facts": facts, "text": [words for words in text if words], "window": window}


def _sentence(words: str) -> str:
    words = words.strip()
    return f"{words[:1].upper()}{words[1:]}{'' if words.endswith(('.', '!', '?')) else '.'}" if words else ""


def _steps(value: float) -> str:
    return "" if math.isnan(value) else f"{number(value)} steps"
