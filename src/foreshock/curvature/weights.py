r"""With which weights the losses of the parts of a batch make up its own, found out from their values.

The loss of a batch is :math:`L = \sum_j w_jL_j` of its parts, with

- w_j = p_j, the share of the examples, if it is a mean over examples;
- w_j = n_j/Σn, the share of the tokens that count, if it is a mean over tokens and padding is left out;
- w_j = 1 if it is a sum.

A sum is reduced to a mean: L_j/p_j has the weight p_j. Of the candidates the one whose sum is nearest to L is
taken, over the last readings. Random numbers in the loss (dropout) make L and its parts differ at random,
with zero mean, which is harmless: each part has random numbers of its own, as each batch has.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foreshock.batches import MicroBatches, part_counts

EXAMPLES, SUM = "examples", "sum"
MISMATCH = 0.01
"""Relative difference between the loss of a batch and that of its parts that is worth a warning."""

_MEMORY = 8
_EXACT = 1e-4  # relative: single precision, and kernels that depend on the size of the batch
_CLEARLY = 1 / 16  # of the mean square: a quarter of the difference that a mean over examples leaves
_ENOUGH = 4  # readings after which that counts; among a score of counts one fits a single reading by chance
# Standard errors, and the readings they are of, from which a bias of a random loss is more than chance: it is
# looked at after each of hundreds of readings, and eight of them know their own scatter badly.
_RANDOM_MEMORY = 32
_SURE, _SURE_EARLY = 5.0, 10.0
_CHECKED = 3  # readings whose loss is compared, and then every
_CHECK_EVERY = 20
# Differences in a row that are so large and of one sign, and clearly not zero in the mean. A loss that adds a
# little that is no mean, as what balances experts, leaves the noise right; so does a mean over other items.
_IN_A_ROW, _LARGE = 3, 0.2


@dataclass(frozen=True)
class PartLosses:
    """The losses of a batch and of its parts at the same parameters.

    Attributes:
        losses: L_j of each part.
        shares: p_j, the share of each part in the examples.
        whole: L of the batch; NaN if unknown.
        random: Whether the loss drew random numbers.
    """

    losses: tuple[float, ...]
    shares: tuple[float, ...]
    whole: float
    random: bool


@dataclass(frozen=True)
class PartWeights:
    """How the parts make up the batch: L = Σ shares_j · scales_j · L_j.

    Attributes:
        shares: Weights that add up to one.
        scales: What each part's loss is multiplied by: 1 for a mean, 1/p_j for a sum.
    """

    shares: tuple[float, ...]
    scales: tuple[float, ...]

    @classmethod
    def of_mean(cls, counts: Sequence[float]) -> PartWeights:
        """Return the weights of a mean over some items.

        Args:
            counts: Number of items in each part, > 0.
        """
        total = math.fsum(counts)
        return cls(tuple(count / total for count in counts), (1.0,) * len(counts))

    @classmethod
    def of_sum(cls, shares: Sequence[float]) -> PartWeights:
        """Return the weights of a sum over examples.

        Args:
            shares: Share of each part in the examples, > 0.
        """
        return cls(tuple(shares), tuple(1 / share for share in shares))

    def mismatch(self, found: PartLosses) -> float:
        """Return (L − Σ w_jL_j) relative to the larger of the two; NaN if L is unknown.

        Args:
            found: The losses.
        """
        products = zip(self.shares, self.scales, found.losses, strict=True)
        whole = math.fsum(share * scale * loss for share, scale, loss in products)
        return (found.whole - whole) / max(abs(found.whole), abs(whole), 1e-30)


class Weighing:
    """Find out how the parts of a batch make up its loss, reading after reading.

    Attributes:
        rule: ``"examples"``, ``"sum"``, or what the loss is a mean over, as ``"batch['labels'] != -100"``.
        mismatch: Relative difference that is left at the last reading; NaN if the loss was unknown.
        systematic: Whether the loss of a batch is far above that of its parts again and again, or far below:
            it is no mean of them then, and what differs between the parts says nothing about batches.

    Example:
        >>> weighing = Weighing()
        >>> parts = MicroBatches([[0.0], [0.0]], counts=[1, 1])
        >>> weighing.weigh(PartLosses((1.0, 3.0), (0.5, 0.5), whole=4.0, random=False), parts).scales
        (2.0, 2.0)
        >>> weighing.rule
        'sum'
    """

    def __init__(self) -> None:
        self._squares: dict[str, tuple[float, int]] = {}  # mean squared difference of each rule, readings
        self._left: deque[float] = deque(maxlen=_RANDOM_MEMORY)
        self._readings = 0
        self.rule = EXAMPLES
        self._own: deque[float] = deque(maxlen=_MEMORY)  # of losses that were evaluated for the comparison
        self.random = self.systematic = False
        self.mismatch = math.nan
        self._fits = False  # whether a rule holds at the last reading, perhaps not the chosen one

    @property
    def wants_loss(self) -> bool:
        """Whether the loss of the batch, if it is unknown, is worth a third of F at this reading."""
        return self._readings < _CHECKED or self._readings % _CHECK_EVERY == 0

    @property
    def doubtful(self) -> bool:
        """Whether the last difference was so large that the loss is to be evaluated, even if one is known.

        What is known is what the training loop had: it may be another loss, smoothed, or of another part.
        """
        return bool(self._left) and abs(self._left[-1]) > _LARGE

    def _is_row(self) -> bool:
        """Return whether the last differences are large, of one sign, and clearly not zero in the mean."""
        row: list[float] = []
        for one in reversed(self._own):
            if not math.copysign(1.0, self._own[-1]) * one > _LARGE:
                break
            row.append(one)
        return len(row) >= _IN_A_ROW and _is_beyond_chance(row, errors=_SURE)

    @property
    def biased(self) -> bool:
        """Whether a difference is left that random numbers do not explain."""
        last = list(self._left)
        if not self.random:
            return bool(last) and abs(last[-1]) > MISMATCH
        if len(last) < _MEMORY:
            return False
        sure = _SURE if len(last) == _RANDOM_MEMORY else _SURE_EARLY
        return abs(math.fsum(last) / len(last)) > MISMATCH and _is_beyond_chance(last, errors=sure)

    def judge(self, *, evaluated: bool) -> None:
        """Count the last difference for or against that the loss is a mean of that of its parts.

        Args:
            evaluated: Whether the loss of the batch was evaluated for it, not taken from the training loop.
        """
        if self._fits:
            self._own.append(0.0)
        elif math.isfinite(self.mismatch) and (evaluated or abs(self.mismatch) <= _LARGE):
            self._own.append(self.mismatch)
        else:
            return
        # By chance one difference may be small.
        last = list(self._own)[-_IN_A_ROW:]
        self.systematic = self._is_row() or (self.systematic and any(abs(one) > _LARGE for one in last))

    @property
    def spread(self) -> float:
        """Root mean square of the differences that were left at the last readings."""
        return math.sqrt(math.fsum(one**2 for one in self._left) / max(len(self._left), 1))

    def weigh(self, found: PartLosses, parts: MicroBatches, *, made: bool = True) -> PartWeights:
        """Return the weights of the parts of one batch.

        Args:
            found: The losses of the batch and its parts.
            parts: The parts.
            made: Whether Foreshock split the batch. If a user passed the parts, their loss is no sum, and
                counts that were given with them are right.
        """
        self._readings += 1
        self.random = self.random or found.random
        plain = PartWeights.of_mean(found.shares)
        self.mismatch, self._fits = plain.mismatch(found), False
        unknown = math.isnan(self.mismatch)
        known = not made and parts.counts is not None
        if known or (self.rule == EXAMPLES and (unknown or abs(self.mismatch) <= _EXACT)):
            return self._keep(plain)
        candidates = {EXAMPLES: plain} | ({SUM: PartWeights.of_sum(found.shares)} if made else {})
        candidates |= {name: PartWeights.of_mean(counts) for name, counts in part_counts(parts).items()}
        if not unknown:
            self._choose(candidates, found)
            self._fits = any(abs(one.mismatch(found)) <= MISMATCH for one in candidates.values())
        chosen = candidates.get(self.rule, plain)
        self.mismatch = chosen.mismatch(found)
        return self._keep(chosen)

    def present(self, shares: Sequence[float], parts: MicroBatches, *, made: bool = True) -> PartWeights:
        """Return the weights of the parts of one batch by what is known, before any loss is.

        Args:
            shares: p_j, the share of each part in the examples.
            parts: The parts.
            made: Whether Foreshock split the batch.
        """
        if self.rule == EXAMPLES or (not made and parts.counts is not None):
            return PartWeights.of_mean(shares)
        if self.rule == SUM:
            return PartWeights.of_sum(shares)
        counts = part_counts(parts).get(self.rule)
        return PartWeights.of_mean(shares if counts is None else counts)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain values."""
        return {
            "rule": self.rule,
            "squares": {name: list(one) for name, one in self._squares.items()},
            "readings": self._readings,
            "random": self.random,
            "systematic": self.systematic,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.rule = str(state["rule"])
        self._squares = {name: (float(mean), int(count)) for name, (mean, count) in state["squares"].items()}
        self._readings, self.random = int(state["readings"]), bool(state["random"])
        self.systematic = bool(state.get("systematic", False))

    def _keep(self, weights: PartWeights) -> PartWeights:
        if math.isfinite(self.mismatch):
            self._left.append(self.mismatch)
        return weights

    def _choose(self, candidates: Mapping[str, PartWeights], found: PartLosses) -> None:
        """Take the rule with the smallest mean square, if it is clearly below that of examples."""
        for name, weights in candidates.items():
            square = weights.mismatch(found) ** 2
            mean, count = self._squares.get(name, (0.0, 0))
            count = min(count + 1, _MEMORY)
            self._squares[name] = (mean + (square - mean) / count, count)
        best = min(candidates, key=lambda name: self._squares[name][0])
        least, count = self._squares[best]
        exact = least <= _EXACT**2
        # That of a sum is off by the number of parts, far beyond what chance does to a loss.
        clear = least <= _CLEARLY * self._squares[EXAMPLES][0] and (count >= _ENOUGH or best == SUM)
        rule = best if exact or clear else EXAMPLES
        if rule != self.rule:
            self._left.clear()
            self._own.clear()
        self.rule = rule


def _is_beyond_chance(differences: Sequence[float], *, errors: float) -> bool:
    """Return whether the mean of two or more differences is so many standard errors from zero."""
    mean = math.fsum(differences) / len(differences)
    variance = math.fsum((one - mean) ** 2 for one in differences) / (len(differences) - 1)
    return abs(mean) > errors * math.sqrt(variance / len(differences))
