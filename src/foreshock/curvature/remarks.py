"""What the user should know about batches and their parts, each thing once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from foreshock.curvature.weights import EXAMPLES, MISMATCH, SUM, Weighing

_ATTRIBUTES = ("dropout", "dropout_p", "attention_dropout", "attn_dropout", "attn_pdrop", "resid_pdrop")


@dataclass(frozen=True)
class Remark:
    """Something that the user should know.

    Attributes:
        name: What it is, in a few words; it is said once.
        message: What was found, what is done about it, and what the user can do.
        warning: Whether the measurement suffers from it.
    """

    name: str
    message: str
    warning: bool


class Remarks:
    """Keep what is to be said until somebody takes it; nothing is said twice.

    Attributes:
        known: Names of what was said.

    Example:
        >>> remarks = Remarks()
        >>> remarks.add(Remark("sum loss", "the loss is a sum", warning=False))
        >>> len(remarks.take()), len(remarks.take())
        (1, 0)
    """

    def __init__(self) -> None:
        self._new: list[Remark] = []
        self.known: set[str] = set()

    def add(self, *remarks: Remark) -> None:
        """Keep what is new of some remarks.

        Args:
            remarks: Any number.
        """
        for remark in remarks:
            if remark.name not in self.known:
                self.known.add(remark.name)
                self._new.append(remark)

    def take(self) -> tuple[Remark, ...]:
        """Return what is new since the last call."""
        new, self._new = tuple(self._new), []
        return new


def weighting_remarks(weighing: Weighing, model: nn.Module, *, made: bool) -> list[Remark]:
    """Return what there is to say of how the parts of batches make up their loss.

    Args:
        weighing: What was found out.
        model: The model, whose modules may be the cause.
        made: Whether Foreshock split the batches, rather than that a user passed `MicroBatches`.
    """
    found = []
    if weighing.rule == SUM:
        found.append(Remark("sum loss", _SUM, warning=False))
    elif weighing.rule != EXAMPLES:
        found.append(Remark("token mean", _TOKENS.format(weighing.rule), warning=False))
    if weighing.biased:
        found.append(_mismatch(weighing, batch_normalisations(model), made=made))
    elif weighing.random and abs(weighing.mismatch) > MISMATCH:
        found.append(_chance(weighing, random_modules(model)))
    return found


_SUM = (
    "the loss is a sum over the examples, not a mean: that of the halves is added up, and the noise is right "
    "for this batch size"
)
_TOKENS = (
    "the loss is a mean over what {} counts, not over examples: the halves of a batch are weighted by these "
    "counts"
)


def _mismatch(weighing: Weighing, normalising: list[str], *, made: bool) -> Remark:
    off = f"the loss of a batch is {weighing.spread:.1%} off the mean of that of its parts"
    if normalising:
        return Remark(
            "batch normalisation",
            f"{off}: {_some(normalising)} normalise by the statistics of the batch, and a part has its own. "
            "The noise is overestimated",
            warning=True,
        )
    causes = (
        "it is a mean over tokens (pass MicroBatches(parts, counts=...) with the number of tokens of each), "
        "that of an example depends on the others, as a contrastive one, "
        + (
            "or the examples lie along another dimension than the one that was split (pass MicroBatches)"
            if made
            else "or the loss passed is not the mean of that of the micro-batches, weighted by their counts"
        )
    )
    return Remark("no parts", f"{off}: {causes}. The noise is then wrong, mostly too large", warning=True)


def _chance(weighing: Weighing, dropping: list[str]) -> Remark:
    cause = _some(dropping) if dropping else "the loss function"
    return Remark(
        "random loss",
        f"random numbers are drawn by {cause}: the loss of a batch and that of its parts differ at random, "
        f"by {weighing.spread:.1%} here. That is part of the noise, and no fault",
        warning=False,
    )


def _some(names: list[str]) -> str:
    more = len(names) - 2
    return ", ".join(names[:2]) + (f" and {more} more" if more > 0 else "")


def random_modules(model: nn.Module) -> list[str]:
    """Return the names of the modules that drop activations at random in their present mode.

    Args:
        model: The model.

    Example:
        >>> random_modules(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), nn.Dropout(0.0)))
        ['1 (Dropout, p = 0.1)']
    """
    found = []
    for name, module in model.named_modules():
        if isinstance(module, _DropoutNd):
            rates = [float(module.p)]
        else:
            given = [getattr(module, attribute, None) for attribute in _ATTRIBUTES]
            rates = [one for one in given if isinstance(one, float)]
        rate = max(rates, default=0.0)
        if module.training and 0 < rate <= 1:
            found.append(f"{name or 'model'} ({type(module).__name__}, p = {rate:g})")
    return found


def batch_normalisations(model: nn.Module) -> list[str]:
    """Return the names of the modules that normalise by the statistics of the batch in their present mode.

    Args:
        model: The model.

    Example:
        >>> batch_normalisations(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
        ['1 (BatchNorm1d)']
    """
    return [
        f"{name or 'model'} ({type(module).__name__})"
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and (module.training or not module.track_running_stats)
    ]
