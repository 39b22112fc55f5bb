"""What a guard reports: each action as a record, the last of them, and all of them as a summary."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

from foreshock.representation import short_repr

Remedy = Literal["raise along", "raise all", "clip", "epsilon", "beta2", "learning rate", "cooldown", "none"]
"""What an action changes, see `GuardAction`."""

_CHANGES_NOTHING: frozenset[Remedy] = frozenset({"cooldown", "none"})

_WORDS: Mapping[Remedy, str] = {
    "raise along": "raised v along the unstable direction",
    "raise all": "raised all of v",
    "clip": "scaled the gradient",
    "epsilon": "raised ε",
    "beta2": "lowered β₂",
    "learning rate": "lowered the learning rate",
    "cooldown": "found the learning rate too high",
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
            rate"``, that option. Nothing by ``"cooldown"``, which says why all of v is raised: it had to be
            raised again and again; and by ``"none"``: the gradient was not finite.
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
        """Whether the step was changed: it is not by a cooldown, nor where the gradient was not finite."""
        return self.remedy not in _CHANGES_NOTHING


class ActionLog(Sequence[GuardAction]):
    """The last actions of a guard, the oldest first; slices of it are lists.

    Args:
        limit: How many to keep, ≥ 1.

    Example:
        >>> log = ActionLog(limit=2)
        >>> for step in (3, 5, 8):
        ...     log.append(GuardAction(step, "secant", "raise along", "why", 0.99, 0.9, 1.1))
        >>> log
        <2 actions, the last one 'raise along' at step 8>
        >>> [action.step for action in log[-2:]]
        [5, 8]
    """

    def __init__(self, limit: int) -> None:
        self._actions: deque[GuardAction] = deque(maxlen=limit)

    def append(self, action: GuardAction) -> None:
        """Keep one more action; the oldest one goes where there are too many."""
        self._actions.append(action)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._actions)

    @overload
    def __getitem__(self, index: int) -> GuardAction: ...

    @overload
    def __getitem__(self, index: slice) -> list[GuardAction]: ...

    def __getitem__(self, index: int | slice) -> GuardAction | list[GuardAction]:
        """Return one action, or a list of some."""
        if isinstance(index, slice):
            return list(self._actions)[index]
        return self._actions[index]

    def __iter__(self) -> Iterator[GuardAction]:
        """Iterate over them, the oldest first."""
        return iter(self._actions)

    def __eq__(self, other: object) -> bool:
        """Return whether the actions are the same, as those of another log or of a list."""
        if not isinstance(other, ActionLog | list):
            return NotImplemented
        return list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Return how many there are, and the last one."""
        return f"<{self.describe()}>"

    def describe(self) -> str:
        """Return in words how many there are, and the last one."""
        if not self._actions:
            return "no actions"
        count, last = len(self), self._actions[-1]
        return f"{count} action{'s' if count > 1 else ''}, the last one {last.remedy!r} at step {last.step}"


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
        cooldowns: How often it found the learning rate too high in itself.
        not_finite: Episodes of gradients that were not finite, which the guard leaves alone.
        notes: What the guard could not do, and why.
    """

    policy: str
    steps: int
    acted: int
    remedies: Mapping[Remedy, int] = field(default_factory=dict)
    largest_raise: float = 1.0
    strongest_clip: float = 1.0
    cooldowns: int = 0
    not_finite: int = 0
    notes: tuple[str, ...] = ()

    __repr__ = short_repr

    def _repr_html_(self) -> str:
        from foreshock.cards import Card

        rows = (
            ("acted", f"on {self.acted:,} of {self.steps:,} steps ({self.share:.2%})"),
            ("did", ", ".join(f"{_WORDS[remedy]} {count:,} ×" for remedy, count in self.remedies.items())),
            ("largest factor on √v", f"{self.largest_raise:.3g}" if self.largest_raise > 1 else ""),
            ("smallest on a gradient", f"{self.strongest_clip:.3g}" if self.strongest_clip < 1 else ""),
            ("learning rate too high", f"{self.cooldowns:,} ×" if self.cooldowns else ""),
            ("gradients not finite", f"{self.not_finite:,} ×" if self.not_finite else ""),
            ("notes", "; ".join(self.notes)),
        )
        return Card(f"Guard {self.policy!r}", rows)._repr_html_()

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
        if self.cooldowns:
            parts.append(f"{_WORDS['cooldown']} {self.cooldowns} ×")
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
        self._cooldown = ""

    @property
    def raised(self) -> bool:
        """Whether v was ever raised."""
        return self._raise > 1

    @property
    def cooldowns(self) -> int:
        """How often the learning rate was found too high in itself."""
        return self._counts["cooldown"]

    def add(self, action: GuardAction) -> None:
        """Take one action into account; several of one step count as one step acted on."""
        self._counts[action.remedy] += 1
        if action.remedy == "cooldown":
            self._cooldown = action.reason
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
            cooldowns=self.cooldowns,
            not_finite=self._counts["none"],
            notes=(*([self._cooldown] if self._cooldown else []), *notes),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed tally needs, as plain values."""
        return {
            "counts": dict(self._counts),
            "acted": self._acted,
            "last": self._last,
            "raise": self._raise,
            "clip": self._clip,
            "cooldown": self._cooldown,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._counts = Counter(state["counts"])
        self._acted, self._last = int(state["acted"]), int(state["last"])
        self._cooldown = str(state["cooldown"])
        self._raise, self._clip = float(state["raise"]), float(state["clip"])
