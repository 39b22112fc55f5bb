"""What can be wrong with how a monitor is used: each finding with its numbers and its remedy, in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

from foreshock.monitor.comparison import Comparison


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with how a monitor is used.

    Attributes:
        name: What, in a few words that stay the same.
        message: The numbers that show it, and how to mend it.
        certain: Whether the numbers leave no other explanation; other findings must repeat more often.
        factor: The number that must be the same each time; NaN where there is none.
    """

    name: str
    message: str
    certain: bool = True
    factor: float = math.nan


AFTER_STEP = Finding(
    "after step",
    "the optimizer has already used the present .grad: observe was called after optimizer.step(), so that "
    "the probes measure other weights than the gradient belongs to; call observe between backward() and "
    "step()",
)


def no_gradient(comparison: Comparison) -> Finding:
    """Every ``.grad`` is zero."""
    return Finding(
        "no gradient",
        "every .grad is zero, but the gradient of loss_fn has norm "
        f"{math.sqrt(comparison.squared_probe):.3g}: observe was called after zero_grad() or before "
        "backward(); call it after backward() and before optimizer.step()",
    )


def _losses(comparison: Comparison) -> str:
    return (
        f"observe was given a loss of {comparison.observed_loss:.4g}, loss_fn returns "
        f"{comparison.probe_loss:.4g} on the same batch"
    )


def scaled_loss(comparison: Comparison) -> Finding:
    """Loss and gradient have a common factor: a sum on one side, a mean on the other."""
    ratio = comparison.loss_ratio
    larger = max(abs(ratio), 1 / abs(ratio))
    side = "training" if abs(ratio) > 1 else "loss_fn"
    other = "loss_fn" if abs(ratio) > 1 else "training"
    examples = comparison.examples
    counted = examples is not None and abs(larger / examples - 1) < 0.01
    if ratio < 0:
        guess = "the sign of the loss differs"
    elif counted:
        guess = f"{side} sums over the {examples} examples of the batch, {other} takes their mean"
    else:
        guess = f"{side} takes a sum where {other} takes a mean, or the loss was divided for an accumulation"
    return Finding(
        "sum or mean",
        f"{_losses(comparison)}, and .grad is {comparison.factor:.4g} × its gradient: {guess}; let loss_fn "
        "return the very loss that backward() is called on, or its curvature is off by a factor of "
        f"{larger:.4g}",
        certain=not comparison.random,
        factor=ratio,
    )


def other_value(comparison: Comparison) -> Finding:
    """The gradient is that of `loss_fn`, the loss is not."""
    return Finding(
        "other value of the loss",
        f"{_losses(comparison)}, but .grad is the gradient of the latter: pass observe the loss of this "
        "step, not scaled, not summed over batches, not averaged over steps; of an accumulation the mean "
        "over its micro-batches",
        certain=False,
    )


def forgotten_scale(comparison: Comparison) -> Finding:
    """The gradient still has a gradient scaler's scale."""
    factor = comparison.norm_ratio
    return Finding(
        "gradient_scale",
        f"the losses agree, but .grad is {factor:.4g} × the gradient of loss_fn, with gradient_scale="
        f"{comparison.gradient_scale:g}: a gradient scaler's scale is still on it; pass "
        "gradient_scale=scaler.get_scale(), or call scaler.unscale_(optimizer) before observe",
        certain=not comparison.random,
        factor=factor,
    )


def scaled_twice(comparison: Comparison) -> Finding:
    """`observe` divides by a scale that is not on the gradient."""
    return Finding(
        "gradient_scale",
        f"the losses agree, but .grad is {comparison.norm_ratio * comparison.gradient_scale:.4g} × the "
        f"gradient of loss_fn before it is divided by gradient_scale={comparison.gradient_scale:g}: the "
        "scale is off already; pass gradient_scale=1 (the default) after scaler.unscale_(optimizer), and "
        "clip only after it",
        certain=not comparison.random,
    )


def summed_parts(comparison: Comparison) -> Finding:
    """The gradient is the sum over the micro-batches."""
    return Finding(
        "sum over micro-batches",
        f".grad is {comparison.factor:.4g} × the mean gradient of the {comparison.parts} micro-batches: "
        "the accumulation sums where MicroBatches stands for the mean; divide each loss by "
        f"{comparison.parts} before backward()",
        factor=comparison.factor,
    )


def missing_decay(comparison: Comparison, decay: float) -> Finding:
    """Training adds wd·θ, and `loss_fn` does not."""
    return Finding(
        "missing term",
        f"{_losses(comparison)}, and .grad has {decay:.3g} × the parameters more: training adds an L2 "
        "penalty that loss_fn lacks; let loss_fn return the very loss that backward() is called on",
        factor=decay,
    )


def eval_mode(comparison: Comparison) -> Finding:
    """The probe measured a model in eval mode, training did not."""
    return Finding(
        "eval mode",
        f"{_losses(comparison)}, and .grad is at a cosine of {comparison.cosine:.2f} to its gradient; "
        f"{comparison.eval_modules} in eval mode: probes measure the model as it is at observe; call "
        "model.train() before observe, and leave the mode alone in loss_fn",
        certain=False,
    )


def other_loss(comparison: Comparison) -> Finding:
    """Neither loss nor gradient are those of `loss_fn` on the batch."""
    return Finding(
        "other batch or loss",
        f"{_losses(comparison)}, and .grad is at a cosine of {comparison.cosine:.2f} to its gradient: "
        "observe got another batch than the one trained on, or loss_fn computes another loss (a missing "
        "penalty, other weights, labels in another shape); pass the batch of this step, and let loss_fn "
        "return the very loss that backward() is called on",
        certain=False,
    )


def other_gradient(comparison: Comparison) -> Finding:
    """The loss is that of `loss_fn` on the batch, the gradient is not."""
    return Finding(
        "other gradient",
        f"the losses agree, but .grad is at a cosine of {comparison.cosine:.2f} to the gradient of loss_fn "
        "on the batch: it is accumulated over several micro-batches of which observe got one, or it was "
        "changed after backward(); pass foreshock.MicroBatches([...]) of all micro-batches and their mean "
        "loss, and call observe before .grad is changed otherwise than by clipping",
        certain=False,
    )


def observed_inside_accumulation() -> Finding:
    """The gradient contains the last one, and there was no step."""
    return Finding(
        "observe inside an accumulation",
        ".grad is the gradient of this batch plus .grad at the last call of observe, and the optimizer "
        "made no step in between: call observe once a step, after the last backward() of an accumulation, "
        "with foreshock.MicroBatches([...]) of all its micro-batches and their mean loss",
    )


def no_zero_grad(share: float) -> Finding:
    """The gradient contains the last one, though there was a step."""
    return Finding(
        "no zero_grad",
        f".grad is the gradient of this batch plus {share:.2f} × .grad at the last call of observe: "
        "gradients pile up over the steps; call optimizer.zero_grad() before backward()",
    )


def piled_up(comparison: Comparison) -> Finding:
    """The gradient contains the last one, as far as a random loss lets one know."""
    return Finding(
        "no zero_grad",
        f".grad is {comparison.norm_ratio:.1f} × as large as the gradient of this batch, and differs from "
        ".grad at the last call of observe by no more than that: gradients pile up over the steps; call "
        "optimizer.zero_grad() before backward()",
        certain=False,
    )
