"""What to do about each cause, in the words of who has to do it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from foreshock.explain.noise import SHARPENED
from foreshock.explain.overflow import BATCH
from foreshock.explain.rhythm import find_period
from foreshock.words import first_few, listed

if TYPE_CHECKING:
    from foreshock.explain.record import Cause, Explanation, Name

GUARDED_AGAINST: tuple[Name, ...] = ("preconditioner lag", "gradient noise")
"""Causes against which a guard helps: where one is at work it is not advised."""

_REMEDIES: Mapping[Name, str] = MappingProxyType(
    {
        "preconditioner lag": (
            "Put foreshock.guard(optimizer) on the optimizer: it raises v before the edge. Without it, a β₂ "
            "closer to β₁ (.95 instead of .999) shortens v's memory. A lower learning rate only delays it."
        ),
        "landscape": (
            "Lower the learning rate for good, or decay it earlier: at this rate the loss surface got too "
            "sharp. Less weight decay slows the sharpening; cutting the rate for a while brings it back "
            "later. Raising v in time holds the spike off as well (docs: explanation/map)."
        ),
        "learning rate": (
            "Warm up over more steps or to a lower peak; after a restart or a resume, ramp the rate instead "
            "of jumping."
        ),
        "bad batch": (
            "Look at the batch of {at}: a wrong label, a broken file, a value that is far off. Clip the "
            "gradient norm so that one batch can't do this; the optimizer itself is fine."
        ),
        "data change": (
            "Look at what changed in the data at {at}: a new file or source, another order, other "
            "preprocessing. Shuffle or mix sources; if the change is wanted, warm the rate up through it."
        ),
        "batch shape": (
            "Keep batch size and sequence length: drop_last=True leaves out a short last batch; change "
            "lengths in small steps, and scale the learning rate with the batch size."
        ),
        "lost optimizer state": (
            "Load the optimizer's state from the same checkpoint as the weights: "
            "optimizer.load_state_dict(checkpoint['optimizer']). If it is lost, warm up again over some "
            "hundred steps. foreshock doctor CHECKPOINT tells whether v is there."
        ),
        "parameters changed": (
            "Give new or unfrozen parameters a warm-up of their own, or a smaller learning rate: their v "
            "starts at zero, and the others have settled without them."
        ),
        "options changed": (
            "Don't switch β₂, ε, momentum or weight decay in one step: each rescales the update at once. "
            "Lower the learning rate by the same factor, or move in small steps."
        ),
        "forward overflow": (
            "See whether inputs and labels are finite (torch.isfinite). Then look for what can overflow in "
            "the forward pass, at the module that is named if one is: exp, log "
            "of zero, division by a zero spread, products in float16. bfloat16 has the range of float32; "
            "normalise or clamp before it. Weights that were not finite already were written by the update "
            "before, or by what else writes weights: a checkpoint, an average."
        ),
        "gradient overflow": (
            "Skip steps whose gradient is not finite: torch.amp.GradScaler does, and so does "
            "clip_grad_norm_(…, error_if_nonfinite=True) inside try. The root or norm of zero has no "
            "gradient: add ε inside of it."
        ),
        "gradient noise": (
            "Take larger batches, or average the gradients of several; foreshock.guard(optimizer) raises v "
            "before the edge, and a β₂ closer to β₁ shortens v's memory. A lower learning rate helps too."
        ),
    }
)

_NOT_FINITE = (
    "Look at the batch of {at}: an input or a label in it is not finite (torch.isfinite). Leave such "
    "examples out where they are loaded; ids= in observe names them."
)
_SHARPENING = (
    " Before {at} it was the curvature of the batches that rose, so larger batches alone may only postpone "
    "it: a lower learning rate, or less weight decay, acts on the rise itself."
)
_GUARDED = (
    "The guard was at work and did not prevent what happened at {at}: the learning rate may be too high in "
    "itself."
)
_UNKNOWN = (
    "At {at}, none of the tests holds. Run again from a checkpoint before {it} with probe_every=5 and ids= "
    "in observe: then the log has what the tests need."
)
_NOTHING_BEFORE = "The log has no good step to go back to: change what caused it, and start again."
_LOST = "Look at the batch and the weights of {at}; in half precision, at what can overflow."
_CLIMBED = "Try a lower learning rate from before {at} on, and see whether the data changed there."
_RECOVERED = "The run recovered: nothing needs to be done for it, only against the next one."
_REGULAR = (
    "{at} are {period:,} steps apart, or multiples of that: look at what the training does at such steps – "
    "a target network or teacher that is updated, an epoch or file that begins, a stage of a curriculum."
)
_OF_THE_DATA = ("bad batch", "data change")
_IDS, _NAMED = 8, 3  # examples that are named, and events whose examples are


def advise(found: Sequence[Explanation], *, guarded: bool = False) -> tuple[str, ...]:
    """Return what to do about one event, or about all of a run, the most urgent first.

    Args:
        found: Explanations; their own advice is not looked at.
        guarded: Whether a guard was at work: it is not advised again.
    """
    if not found:
        return ()
    said = list(_go_back(found))
    recovered = ("neutral", "benign")
    if all(one.recovery.outcome in recovered or one.recovery.regained is not None for one in found):
        said.append(_RECOVERED)
    return (*said, *_regular(found), *_examples(found), *_against(found, guarded=guarded))


def remedy(name: Name, steps: Sequence[int] = ()) -> str:
    """Return what helps against a cause.

    Args:
        name: The cause.
        steps: Steps at which it acted; without any, the words are of steps to come.
    """
    return _REMEDIES[name].replace("{at}", listed(list(steps)) if steps else "that step")


def go_back(onset: int, *, level: float) -> str:
    """Return what an event asks for from which a run does not recover.

    Args:
        onset: Its first high step.
        level: Level of the loss before it; NaN if there was none.
    """
    if math.isnan(level):
        return _NOTHING_BEFORE
    return f"Go back to a checkpoint from before step {onset:,}, and change what caused it first."


def _go_back(found: Sequence[Explanation]) -> list[str]:
    lost = [one for one in found if one.recovery.regained is None]
    for one in lost:
        if one.recovery.outcome == "catastrophic":
            return [go_back(one.onset, level=one.reference)]
    for one in lost:
        if one.recovery.outcome == "malignant":
            return [f"If a checkpoint from before step {one.onset:,} is near, it is worth going back to it."]
    return []


def _regular(found: Sequence[Explanation]) -> list[str]:
    """Return what else to look at where what the data are blamed for comes at regular steps."""
    steps = [one.onset for one in found if not one.causes or any(c.name in _OF_THE_DATA for c in one.causes)]
    period = find_period(steps)
    return [] if period is None else [_REGULAR.format(at=listed(steps).capitalize(), period=period)]


def _examples(found: Sequence[Explanation]) -> list[str]:
    """Return the names of the examples of steps whose data did harm."""
    said = []
    for one in found:
        steps = [cause.step for cause in one.causes if cause.name in _OF_THE_DATA and cause.step is not None]
        if one.ids and steps:
            said.append(f"The examples of step {steps[0]:,}: {first_few(one.ids, most=_IDS)}.")
    return said[:_NAMED]


def _against(found: Sequence[Explanation], *, guarded: bool) -> list[str]:
    """Return what helps against each cause, that of most events first, then what to do without one."""
    at: dict[str, list[int]] = {}
    unknown: dict[str, list[int]] = {}
    for one in found:
        for cause in one.causes:
            words = _REMEDIES[cause.name] + (_SHARPENING if _sharpened(cause) else "")
            if guarded and cause.name in GUARDED_AGAINST:
                words = _GUARDED
            step = cause.step if cause.name in _OF_THE_DATA and cause.step is not None else one.onset
            batch = next((fact.step for fact in cause.facts if fact.words == BATCH), None)
            if batch is not None:
                words, step = _NOT_FINITE, batch
            at.setdefault(words, []).append(step)
        if not one.causes:
            words = {"climb": _CLIMBED, "non-finite": _LOST}.get(one.kind, _UNKNOWN)
            unknown.setdefault(words, []).append(one.onset)
    ranked = sorted(at.items(), key=lambda item: -len(item[1]))
    return [_at(words, sorted(set(steps))) for words, steps in (*ranked, *unknown.items())]


def _sharpened(cause: Cause) -> bool:
    """Return whether noise was past its edge since the curvature of the batches had risen."""
    return any(fact.words == SHARPENED and fact.value > fact.limit for fact in cause.facts)


def _at(words: str, steps: list[int]) -> str:
    return words.replace("{at}", listed(steps)).replace("{it}", "it" if len(steps) == 1 else "them")
