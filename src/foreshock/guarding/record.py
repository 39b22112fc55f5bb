"""What a guard tells: each action as a record, and all of them as a summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from foreshock.representation import short_repr

Remedy = Literal[
    "raise along", "raise all", "clip", "epsilon", "beta2", "learning rate", "stand aside", "none"
]
"""What an action changes, see `GuardAction`."""

_CHANGES_NOTHING: frozenset[Remedy] = frozenset({"stand aside", "none"})

_WORDS: Mapping[Remedy, str] = {
    "raise along": "raised v along the unstable direction",
    "raise all": "raised all of v",
    "clip": "scaled the gradient",
    "epsilon": "raised ε",
    "beta2": "lowered β₂",
    "learning rate": "lowered the learning rate",
    "stand aside": "stood aside",
    "none": "left a step alone whose gradient was not finite",
}


@dataclass(frozen=True)
class GuardAction:
    """One action of a guard.

    Attributes:
        step: Number of updates that the guard had seen before this one.
        policy: Name of the policy that decided.
        remedy: What was changed: ``"raise along"``, v of the coordinates that carry the unstable direction;
            ``"raise all"``, all of v; ``"clip"``, the gradient; ``"epsilon"``, ``"beta2"`` and ``"learning
            rate"``, that option. Nothing by ``"stand aside"``, which says that raising v does not help, and
            by ``"none"``: the gradient was not finite.
        reason: Why, in words.
        value: What was measured.
        threshold: What it was compared with.
        factor: By how much: of ``"raise along"`` the factor on the directional curvature's denominator, of
            ``"raise all"`` that on √v, of ``"clip"`` and ``"learning rate"`` that on the gradient and on η;
            of the other options their new value.
    """

    step: int
    policy: str
    remedy: Remedy
    reason: str
    value: float
    threshold: float
    factor: float

    __repr__ = short_repr

    def __str__(self) -> str:
        """Return one line for people."""
        return f"step {self.step}: {_WORDS[self.remedy]}, factor {self.factor:.3g}: {self.reason}"

    @property
    def changes_something(self) -> bool:
        """Whether the step was changed: it is not where the guard stands aside or leaves it alone."""
        return self.remedy not in _CHANGES_NOTHING


@dataclass(frozen=True)
class GuardSummary:
    """What a guard did over a run. ``str(summary)`` says it in words.

    Attributes:
        policy: Name of the policy.
        steps: Updates seen.
        acted: Updates on which something was changed.
        remedies: How often each remedy was used.
        largest_raise: The largest factor on √v in one step; 1 if v was never raised.
        strongest_clip: The smallest factor on a gradient; 1 if none was clipped.
        stood_aside: How often it gave up raising v for a while.
        not_finite: Episodes of gradients that were not finite, which the guard leaves alone.
        notes: What the guard could not do, and why.
    """

    policy: str
    steps: int
    acted: int
    remedies: Mapping[Remedy, int] = field(default_factory=dict)
    largest_raise: float = 1.0
    strongest_clip: float = 1.0
    stood_aside: int = 0
    not_finite: int = 0
    notes: tuple[str, ...] = ()

    __repr__ = short_repr

    @property
    def share(self) -> float:
        """Share of the updates on which something was changed; 0 if there were none."""
        return self.acted / self.steps if self.steps else 0.0

    def __str__(self) -> str:
        """Return the summary in words."""
        head = f"guard {self.policy!r}: acted on {self.acted} of {self.steps} steps ({self.share:.2%})"
        parts = [f"{_WORDS[remedy]} {count} ×" for remedy, count in self.remedies.items()]
        if self.largest_raise > 1:
            parts.append(f"largest factor on √v {self.largest_raise:.3g}")
        if self.strongest_clip < 1:
            parts.append(f"smallest factor on a gradient {self.strongest_clip:.3g}")
        if self.stood_aside:
            parts.append(f"{_WORDS['stand aside']} {self.stood_aside} ×")
        if self.not_finite:
            parts.append(f"{_WORDS['none']} {self.not_finite} ×")
        return "; ".join([head, *parts, *self.notes])


class Tally:
    """Count actions as they come.

    Args:
        policy: Name of the guard's policy.
    """

    def __init__(self, policy: str) -> None:
        self._policy = policy
        self._counts: Counter[Remedy] = Counter()
        self._acted, self._last = 0, -1
        self._raise, self._clip = 1.0, 1.0
        self._aside = ""

    @property
    def raised(self) -> bool:
        """Whether v was ever raised."""
        return self._raise > 1

    def add(self, action: GuardAction) -> None:
        """Take one action into account; several of one step count as one step acted on."""
        self._counts[action.remedy] += 1
        if action.remedy == "stand aside":
            self._aside = action.reason
        if not action.changes_something:
            return
        if action.step != self._last:
            self._acted, self._last = self._acted + 1, action.step
        if action.remedy in ("raise along", "raise all"):
            self._raise = max(self._raise, action.factor)
        if action.remedy == "clip":
            self._clip = min(self._clip, action.factor)

    def summary(self, steps: int, notes: tuple[str, ...]) -> GuardSummary:
        """Return the summary of all actions so far.

        Args:
            steps: Updates seen.
            notes: What the guard could not do.
        """
        remedies: dict[Remedy, int] = {
            remedy: count for remedy, count in self._counts.items() if remedy not in _CHANGES_NOTHING
        }
        return GuardSummary(
            policy=self._policy,
            steps=steps,
            acted=self._acted,
            remedies=remedies,
            largest_raise=self._raise,
            strongest_clip=self._clip,
            stood_aside=self._counts["stand aside"],
            not_finite=self._counts["none"],
            notes=(*([self._aside] if self._aside else []), *notes),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed tally needs, as plain values."""
        return {
            "counts": dict(self._counts),
            "acted": self._acted,
            "last": self._last,
            "raise": self._raise,
            "clip": self._clip,
            "aside": self._aside,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._counts = Counter(state["counts"])
        self._acted, self._last = int(state["acted"]), int(state["last"])
        self._aside = str(state["aside"])
        self._raise, self._clip = float(state["raise"]), float(state["clip"])
