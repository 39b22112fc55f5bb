"""Which column of a log is the step, the loss, the learning rate, the gradient norm: guessed by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

# In order: of two names that a log has, the earlier is meant.
_NAMES = {
    "step": (
        "foreshock/step",
        "step",
        "global_step",
        "train/global_step",
        "trainer/global_step",
        "_step",
        "iteration",
        "iter",
    ),
    "loss": ("loss", "train_loss", "train/loss", "training_loss", "loss/train", "train/train_loss"),
    "learning_rate": ("learning_rate", "lr", "train/learning_rate", "train/lr", "train_lr"),
    "gradient_norm": ("gradient_norm", "grad_norm", "train/grad_norm", "train/gradient_norm", "gnorm"),
}
_PARTS = {
    "loss": r"loss",
    "learning_rate": r"learning.?rate|\blr\b|(?<![a-z])lr",
    "gradient_norm": r"grad.*norm",
}
_OTHER = re.compile(r"eval|val(?![a-z]*ue)|test|dev", re.IGNORECASE)


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a log.

    Attributes:
        loss: The training loss.
        step: The step; None if rows are counted.
        learning_rate: The learning rate; None if there is none.
        gradient_norm: The norm of the gradient; None if there is none.
    """

    loss: str
    step: str | None = None
    learning_rate: str | None = None
    gradient_norm: str | None = None


def guess_columns(counts: Mapping[str, int], *, given: Mapping[str, str | None] | None = None) -> Columns:
    """Return which columns are meant.

    Args:
        counts: How many numbers each column has, by its name.
        given: Names that are known: ``{"loss": "train/nll"}``.

    Raises:
        ValueError: If a given column has no numbers, or no column looks like a training loss.

    Example:
        >>> guess_columns({"global_step": 9, "train/loss": 9, "eval/loss": 1, "lr-AdamW": 9})
        Columns(loss='train/loss', step='global_step', learning_rate='lr-AdamW', gradient_norm=None)
    """
    chosen = {name: value for name, value in (given or {}).items() if value is not None}
    for what, name in chosen.items():
        if not counts.get(name):
            raise ValueError(f"there is no column {name!r} with numbers to be the {what}; {_there(counts)}")
    found = {what: chosen.get(what) or _best(what, counts) for what in _NAMES}
    loss = found.pop("loss")
    if loss is None:
        raise ValueError(f"no column looks like a training loss: name it with --loss; {_there(counts)}")
    return Columns(loss, **found)


def _best(what: str, counts: Mapping[str, int]) -> str | None:
    known = {name.lower(): name for name in counts if counts[name]}
    exact = next((known[name] for name in _NAMES[what] if name in known), None)
    if exact is not None or what not in _PARTS:
        return exact
    like = [
        name for name in known.values() if re.search(_PARTS[what], name.lower()) and not _OTHER.search(name)
    ]
    # Of several that look like it the one that was logged most, and of these the shortest.
    return min(like, key=lambda name: (-counts[name], len(name), name), default=None)


def _there(counts: Mapping[str, int]) -> str:
    names = sorted(name for name in counts if counts[name])
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"it has {', '.join(map(repr, names[:20])) or 'no numbers at all'}{more}"
