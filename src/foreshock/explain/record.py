"""What an explanation says, as plain values: a page, a report or a script shows it in its own way."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from foreshock.explain.tensors import TensorTable
from foreshock.representation import short_repr
from foreshock.spikes.events import Kind

Name = Literal[
    "preconditioner lag",
    "landscape",
    "learning rate",
    "bad batch",
    "data change",
    "batch shape",
    "lost optimizer state",
    "parameters changed",
    "options changed",
    "forward overflow",
    "gradient overflow",
    "gradient noise",
]
CAUSES: tuple[Name, ...] = get_args(Name)
"""The causes that are told apart."""

NOT_EXPLAINED = "not explained"

Outcome = Literal["neutral", "benign", "malignant", "catastrophic", "not known yet"]


@dataclass(frozen=True)
class Fact:
    """One number that a cause rests on, with the limit that it passes.

    Attributes:
        words: What it is.
        value: The number.
        limit: What it must exceed to count; NaN where it is only shown.
        step: Step that it is of; None if it is of the whole event.
    """

    words: str
    value: float
    limit: float = math.nan
    step: int | None = None

    __repr__ = short_repr


@dataclass(frozen=True)
class Cause:
    """One cause that the log's numbers speak for.

    Attributes:
        name: One of `CAUSES`.
        confidence: From 0 to 1: how far the evidence lies past its limits, and whether it was recorded or
            inferred.
        words: The evidence in one sentence without a full stop.
        facts: The numbers.
        step: Step at which the cause began to act; None if unknown.
    """

    name: Name
    confidence: float
    words: str
    facts: tuple[Fact, ...] = ()
    step: int | None = None

    __repr__ = short_repr


@dataclass(frozen=True)
class StageSpan:
    """A stage of the cycle, with its steps.

    Attributes:
        stage: One of `foreshock.dynamics.Stage`, as a string.
        first: First step.
        last: Last step.
    """

    stage: str
    first: int
    last: int


@dataclass(frozen=True)
class Signal:
    """When something became visible.

    Attributes:
        words: What: ``stability ratio past 1``, for instance.
        step: First step at which the log has it.
        lead: Steps from then to the onset; negative after it.
        value: Its value then.
    """

    words: str
    step: int
    lead: int
    value: float


@dataclass(frozen=True)
class Recovery:
    """Whether a run recovered from an event, see `foreshock.explain.recovery`.

    Attributes:
        outcome: ``"neutral"``, ``"benign"``, ``"malignant"``, ``"catastrophic"`` or ``"not known yet"``.
        words: Why, in one sentence without a full stop.
        before: Level of the loss before the event.
        expected: Level that the trend before it led one to expect after it; NaN if unknown.
        after: Level after the event; NaN if it has not ended.
        steps: Steps from the onset until the loss was back; None if it was not.
        regained: Step by which the loss was below its level before after all, later than the outcome is
            judged; None if it never was, or nothing was lost.
    """

    outcome: Outcome
    words: str
    before: float = math.nan
    expected: float = math.nan
    after: float = math.nan
    steps: int | None = None
    regained: int | None = None


@dataclass(frozen=True)
class Examination:
    """What replays of an event say of its cause, see `foreshock.replay.examination.examine`.

    Attributes:
        onset: First high step of the event.
        start: Step of the snapshot.
        repeats: Whether the event comes again where nothing is changed; if not, nothing follows.
        comes: Whether it comes all the same, by change; None where a replay failed before.
        words: What follows, a sentence each, without full stops.
    """

    onset: int
    start: int
    repeats: bool
    comes: Mapping[str, bool | None]
    words: tuple[str, ...]

    __repr__ = short_repr


@dataclass(frozen=True)
class Explanation:
    """What happened at one event of the loss.

    Attributes:
        kind: ``"spike"``, ``"divergence"``, ``"climb"`` or ``"non-finite"``.
        onset: First high step.
        peak: Step of the highest loss.
        end: Last high step.
        reference: Level of the loss before.
        height: Peak over level; NaN where that has no meaning, infinite if the loss was not finite.
        causes: The causes, the most certain first; none if the event is not explained.
        stages: The stages of the cycle around the event, in order.
        where: Layers or parameters, the most affected first, in words; empty if unknown.
        tensors: The table of tensors nearest to the event; None if there is none.
        ids: What the loader called the examples of the step that did harm; empty if unknown.
        signals: What was visible when, in order.
        recovery: Whether the run recovered.
        advice: What to do, a sentence each, the most urgent first.
        missing: What the log lacks that would tell more, a sentence each.
        examination: What training it again with one thing changed says; None if that was not asked for.
    """

    kind: Kind
    onset: int
    peak: int
    end: int
    reference: float
    height: float
    causes: tuple[Cause, ...]
    stages: tuple[StageSpan, ...]
    where: tuple[str, ...]
    tensors: TensorTable | None
    ids: tuple[int | str, ...]
    signals: tuple[Signal, ...]
    recovery: Recovery
    advice: tuple[str, ...]
    missing: tuple[str, ...] = ()
    examination: Examination | None = None

    __repr__ = short_repr

    @property
    def cause(self) -> str:
        """The name of the most certain cause; ``not explained`` without one."""
        return self.causes[0].name if self.causes else NOT_EXPLAINED

    @property
    def named(self) -> str:
        """The names of all causes, the most certain first; ``not explained`` without one."""
        return " and ".join(cause.name for cause in self.causes) or NOT_EXPLAINED

    @property
    def why(self) -> tuple[str, ...]:
        """Each cause with its evidence in a sentence without a full stop; of an event without one, that."""
        said = [f"{one.name} ({100 * one.confidence:.0f} % sure): {one.words}" for one in self.causes]
        return tuple(said) or (f"{NOT_EXPLAINED}: none of the tests for a known cause holds",)

    def to_mapping(self) -> dict[str, Any]:
        """Return the explanation as plain values that JSON holds: what is not finite is None or a string."""
        found: dict[str, Any] = plain(asdict(self) | {"cause": self.cause})
        return found

    def to_json(self) -> str:
        """Return the explanation as strict JSON."""
        return json.dumps(self.to_mapping(), indent=2, allow_nan=False, ensure_ascii=False)


def plain(value: Any) -> Any:
    """Return plain values that JSON holds: NaN becomes None, infinity a string.

    Args:
        value: Mappings, sequences, strings and numbers.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value
