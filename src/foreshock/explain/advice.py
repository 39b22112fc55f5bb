"""What to do about each cause, in the words of who has to do it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from foreshock.explain.record import Cause, Name, Recovery

_REMEDIES: Mapping[Name, str] = MappingProxyType(
    {
        "preconditioner lag": (
            "Put foreshock.guard(optimizer) on the optimizer: it raises v before the edge. Without it, a β₂ "
            "closer to β₁ (.95 instead of .999) shortens v's memory. A lower learning rate only delays it."
        ),
        "landscape": (
            "Lower the learning rate for good, or decay it earlier: at this rate the loss surface got too "
            "sharp. Less weight decay slows the sharpening; cutting the rate for a while brings it back "
            "later."
        ),
        "learning rate": (
            "Warm up over more steps or to a lower peak; after a restart or a resume, ramp the rate instead "
            "of jumping."
        ),
        "bad batch": (
            "Look at this batch: a wrong label, a broken file, a value off by orders of magnitude. Clip the "
            "gradient norm so that one batch can't do this; the optimizer itself is fine."
        ),
        "data change": (
            "Look at what changed in the data at that step: a new file or source, another order, other "
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
            "Look for what can overflow at that module: exp, log of zero, division by a zero spread, "
            "products in float16. bfloat16 has the range of float32; normalise or clamp before it."
        ),
        "gradient overflow": (
            "Skip steps whose gradient is not finite: torch.amp.GradScaler does, and so does "
            "clip_grad_norm_(…, error_if_nonfinite=True) inside try. The root or norm of zero has no "
            "gradient: add ε inside of it."
        ),
    }
)
_UNKNOWN = (
    "None of the tests holds. Run again from a checkpoint before it with probe_every=5 and ids= in observe: "
    "then the log has what the tests need."
)


def advise(
    causes: Sequence[Cause], recovery: Recovery, onset: int, ids: Sequence[int | str]
) -> tuple[str, ...]:
    """Return what to do, the most urgent first.

    Args:
        causes: The causes.
        recovery: Whether the run recovered.
        onset: First high step.
        ids: What the loader called the examples of the step that did harm.
    """
    found = []
    if recovery.outcome == "catastrophic":
        found.append(f"Go back to a checkpoint from before step {onset:,}, and change what caused it first.")
    elif recovery.outcome == "malignant":
        found.append(f"If a checkpoint from before step {onset:,} is near, it is worth going back to it.")
    if ids and any(cause.name in ("bad batch", "data change") for cause in causes):
        shown = ", ".join(map(str, ids[:8]))
        found.append(f"The examples of that step: {shown}{' …' if len(ids) > 8 else ''}.")
    found += [_REMEDIES[cause.name] for cause in causes]
    if not causes:
        found.append(_UNKNOWN)
    elif recovery.outcome in ("neutral", "benign") and len(found) == len(causes):
        found.insert(0, "The run recovered: nothing needs to be done for it, only against the next one.")
    return tuple(found)
