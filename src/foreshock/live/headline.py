"""The state of a run in one line, and what to do: what a reader must know before any chart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from foreshock.explain import GUARDED_AGAINST, go_back, remedy
from foreshock.forecast import FLAT
from foreshock.report.advice import GIVE_LOSS, WATCH_FLAT, WATCH_NEXT
from foreshock.report.evidence import OLDEST
from foreshock.report.verdict import OBSERVE, failure
from foreshock.report.words import announced, count, height, number, percent
from foreshock.representation import short_line
from foreshock.runlog.numbers import as_number, as_share
from foreshock.words import first_few

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from foreshock.explain import Explanation, Name
    from foreshock.spikes import LossEvent

State = Literal[
    "waiting",
    "unreadable",
    "diverged",
    "spiked",
    "danger",
    "rising",
    "departing",
    "recovering",
    "calm",
    "unknown",
]
_STAYED = 0.5  # share of a rise: a loss that has lost more of it has come back


@dataclass(frozen=True)
class Headline:
    """The state of a run.

    Attributes:
        state: In one word.
        words: In one sentence without a full stop, with its numbers.
        advice: What to do; empty where that is plain.
    """

    state: State
    words: str
    advice: str


@dataclass(frozen=True)
class Situation:
    """What the state of a run is judged by.

    Attributes:
        last_step: Last step of the log; None before the first.
        losses: The last losses, shape (n,).
        events: What happened to the loss and is over, in order.
        going_on: What has begun and is not over.
        explained: Explanation of the last of them; None while it is made.
        lead: Steps from the beginning of the alarm that was on before the last of them to its onset; None if
            it was not announced.
        forecast: The last forecast; None before the first.
        alarm: Step of the last alarm; None before the first.
        measured: Whether losses were recorded.
        horizon: Steps within which an instability is announced; NaN if the log does not say.
        guarded: Whether a guard is at work.
        steps_a_second: Speed of the run; NaN if unknown.
        imported: Whether the log was made from that of another tool.
        departing: Ranks that depart from the others, as far as they were compared.
    """

    last_step: int | None
    losses: NDArray[np.float64]
    events: Sequence[LossEvent] = ()
    going_on: LossEvent | None = None
    explained: Explanation | None = None
    lead: int | None = None
    forecast: Mapping[str, Any] | None = None
    alarm: int | None = None
    measured: bool = True
    horizon: float = math.nan
    guarded: bool = False
    steps_a_second: float = math.nan
    imported: bool = False
    departing: Sequence[int] = ()

    @property
    def reach(self) -> int:
        """Steps for which what happened is news: the horizon."""
        return int(self.horizon) if 1 <= self.horizon < 1e9 else OLDEST


def headline(now: Situation) -> Headline:
    """Return the state of a run: what has happened goes before what may.

    Args:
        now: What it is judged by.

    Example:
        >>> forecast = {"step": 90, "state": "stable", "stability_ratio": 0.62, "measured": 80}
        >>> headline(Situation(90, np.ones(90), forecast=forecast)).words
        'Calm: the stability ratio is 0.62 of the edge, measured 10 steps ago'
    """
    if now.last_step is None:
        return Headline("waiting", "Waiting for the first step", "")
    found = _of_one_log(now, now.last_step)
    return found if not now.departing else _of_all_ranks(found, sorted(set(now.departing)))


def _of_one_log(now: Situation, last_step: int) -> Headline:
    happened = _diverged(now, last_step) or _spiked(now, last_step)
    foreseen = happened or _foreseen(now, last_step)
    if now.measured or foreseen.state in ("danger", "rising"):
        return foreseen
    last = "" if now.alarm is None else f"; the last alarm was at step {now.alarm:,}"
    return Headline("unknown", f"Not known: no losses were recorded{last}", OBSERVE)


def _of_all_ranks(found: Headline, ranks: Sequence[int]) -> Headline:
    """Return the state of a run of which some ranks depart from the others: it is not calm."""
    who = f"rank {ranks[0]} departs" if len(ranks) == 1 else f"ranks {first_few(ranks)} depart"
    if found.state in ("calm", "recovering"):
        words = f"{who[:1].upper()}{who[1:]} from the others; {found.words.partition(': ')[2]}"
        return Headline("departing", words, _LOOK)
    advice = found.advice.removeprefix("Nothing yet: ")
    words = f"{found.words}; {who} from the others"
    return Headline(found.state, words, f"{advice[:1].upper()}{advice[1:]} {_LOOK}".strip())


def _diverged(now: Situation, last_step: int) -> Headline | None:
    event = now.going_on or (now.events[-1] if now.events else None)
    if event is None:
        return None
    lost = event.kind == "non-finite" and event.end == last_step
    if event.kind == "divergence":
        finite = now.losses[np.isfinite(now.losses)][-20:]
        lost = bool(finite.size) and float(np.median(finite)) > event.reference + _STAYED * event.rise
    if not lost:
        return None
    advice = f"{go_back(event.onset, level=event.reference)} {_against(now, event)}".strip()
    return Headline("diverged", f"{failure(event, last_step)}{_named(now, event)}", advice)


def _spiked(now: Situation, last_step: int) -> Headline | None:
    event = now.going_on or (now.events[-1] if now.events else None)
    if event is None or event.kind == "climb" or last_step - event.end > now.reach:
        return None
    # Without forecasts nothing was missed.
    known = "" if now.forecast is None else f", {announced(now.lead)}"
    still = "still high" if now.going_on is not None else f"back since step {event.end + 1:,}"
    words = f"Spiked at step {event.onset:,} to {height(event)} the level before{known}, {still}"
    if event.kind == "non-finite" or height(event).startswith("+"):
        words = f"Spiked at step {event.onset:,} ({height(event)}){known}, {still}"
    words += _named(now, event)
    wait = "Wait for it to come back before you judge it. " if now.going_on is not None else ""
    if now.guarded and not _against(now, event):
        return Headline("spiked", words, "The guard is at work: see what it did below.")
    advice = _against(now, event) or (
        "foreshock explain says what was known before it."
        if _named(now, event)
        else "foreshock explain says what caused it, as far as the log knows."
    )
    return Headline("spiked", words, wait + advice)


def _named(now: Situation, event: LossEvent) -> str:
    """Return the causes of an event in a part of a sentence; empty while they are being looked for."""
    if now.explained is None or now.explained.onset != event.onset:
        return ""
    found = now.explained
    return f"; cause: {found.named}" if found.causes else f"; {found.named}"


def _against(now: Situation, event: LossEvent) -> str:
    """Return what helps against the cause of an event; empty if it is unknown, or the guard does it."""
    if now.explained is None or now.explained.onset != event.onset or not now.explained.causes:
        return ""
    cause = now.explained.causes[0]
    return "" if now.guarded and cause.name in GUARDED_AGAINST else remedy(cause.name, [event.onset])


def _foreseen(now: Situation, last_step: int) -> Headline:
    forecast = now.forecast
    if forecast is None:
        if now.imported:
            return Headline("unknown", "Imported: only what was logged is known", WATCH_NEXT)
        return Headline("unknown", "No forecast yet: only the loss is known", GIVE_LOSS)
    age = last_step - forecast["step"]
    state = str(forecast.get("state"))
    if age > now.reach:
        return Headline("unknown", f"Not known: the last forecast is {count(age, 'step')} old", _MEASURE)
    if state == "unknown":
        basis = short_line(str(forecast.get("basis") or "the readings don't say"))
        failed = basis.startswith("the probe failed")
        at = f" at step {forecast['step']:,}" if age else ""  # what is so many steps ago was so by then
        advice = WATCH_FLAT if FLAT in basis else _MEND if failed else _MEASURE
        return Headline("unknown", f"Not known{at}: {basis}", advice)
    ratio = _ratio(forecast, last_step)
    if _is_danger(forecast, state):
        words = "; ".join(filter(None, (f"In danger: {_odds(now, forecast)}", ratio, _date(now, forecast))))
        return Headline("danger", words.replace("In danger: ; ", "In danger: "), _act(now))
    if state in ("rising", "edge", "armed") or forecast.get("level") == "watch":
        words = "; ".join(filter(None, (f"Rising: {ratio}", _date(now, forecast), _odds(now, forecast))))
        return Headline("rising", words, "Nothing yet: watch the date, and keep a recent checkpoint.")
    if state == "recovery":
        return Headline("recovering", f"Recovering: {ratio}", "Nothing needs to be done.")
    odds = _odds(now, forecast)
    words = f"Calm: {ratio}" + (f"; {odds}" if odds else "")
    return Headline("calm", words, "Nothing needs to be done.")


def _is_danger(forecast: Mapping[str, Any], state: str) -> bool:
    """Whether a forecast is an alarm: by its level, or in logs of versions that had none by the edge."""
    if "level" in forecast:
        return forecast["level"] == "alarm" or state == "spike"
    return state in ("edge", "armed", "spike")


_LOOK = "Ranks are not all alike: foreshock report says what to do about it."
_MEASURE = "Not known is not safe: measure more often (budget=, probe_every=)."
_MEND = "Not known is not safe: mend the probe; foreshock report says what failed."


def _ratio(forecast: Mapping[str, Any], last_step: int) -> str:
    typical = as_number(forecast.get("typical_mean_square_ratio"))
    ratio = as_number(forecast.get("stability_ratio"))
    if math.isfinite(typical):
        words = f"the typical mean-square ratio is {number(typical)}"
    elif math.isfinite(ratio):
        words = f"the stability ratio is {number(ratio)} of the edge"
    else:
        return "no ratio was measured"
    measured = as_number(forecast.get("measured"))
    age = last_step - measured
    return f"{words}, measured {count(int(age), 'step')} ago" if 0 < age < 2**53 else words


def _odds(now: Situation, forecast: Mapping[str, Any]) -> str:
    probability = as_share(forecast.get("probability"))
    if math.isnan(probability):
        return ""
    horizon = as_number(forecast.get("horizon"))
    within = horizon if math.isfinite(horizon) else now.horizon
    words = f" within {count(int(within), 'step')}" if 1 <= within < 1e9 else ""
    return f"a spike{words} has probability {percent(probability)}"


def _date(now: Situation, forecast: Mapping[str, Any]) -> str:
    """Return when the edge is reached: the step, its interval, and the time of day's distance."""
    ahead, low, high = (
        as_number(forecast.get(name)) for name in ("steps_to_instability", "interval_low", "interval_high")
    )
    step = forecast["step"]
    if not math.isfinite(ahead) or ahead > 1e7:
        return ""
    if ahead <= 0:
        return "the edge is passed"
    least = f"{step + low:,.0f}" if math.isfinite(low) else "?"
    most = f"{step + high:,.0f}" if math.isfinite(high) else "open"
    words = f"the edge is expected at about step {step + ahead:,.0f} ({least} – {most})"
    seconds = (step + ahead - (now.last_step or step)) / now.steps_a_second
    return f"{words}, in about {_duration(seconds)}" if seconds > 5 and math.isfinite(seconds) else words


def _duration(seconds: float) -> str:
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 1.5 * size:
            return count(round(seconds / size), unit)
    return count(round(seconds), "second")


def _act(now: Situation) -> str:
    if now.guarded:
        return "The guard acts by itself. Keep a recent checkpoint."
    return f"Keep a checkpoint of now. {_remedy(now)}".strip()


def _remedy(now: Situation) -> str:
    """Return what helps against what drives the run, by the hint of its last forecast."""
    forecast = now.forecast or {}
    if math.isfinite(as_number(forecast.get("typical_mean_square_ratio"))):
        return remedy("gradient noise")
    driver = _hinted(short_line(str(forecast.get("cause_hint") or "")))
    return "" if driver is None else remedy(driver)


def _hinted(hint: str) -> Name | None:
    """Return what a forecast's hint says drives the ratio; None if it says nothing."""
    if not (hint.startswith(("no faster", "the", "v ")) or "as fast as" in hint):
        return None
    decays = hint.startswith("no faster than v decays") or "the preconditioner drives" in hint
    return "preconditioner lag" if decays else "landscape"
