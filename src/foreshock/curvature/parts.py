"""The parts of batch after batch: along which dimension a batch is split, and which are left out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from foreshock.batches import (
    ExampleAxes,
    MicroBatches,
    SplitFunction,
    count_examples,
    example_axes,
    part_counts,
    split_along,
    split_batch,
    tensors_in,
)
from foreshock.batches.splitting import is_ambiguous
from foreshock.batches.structure import is_list_of_samples, usual_size
from foreshock.curvature.noise import is_same_state
from foreshock.curvature.remarks import Remark, Remarks
from foreshock.curvature.terms import LossFunction, part_terms
from foreshock.curvature.weights import PartLosses, PartWeights
from foreshock.distributed import ChannelError, LeftOutError, OtherRankError
from foreshock.failures import ProbeRefusedError
from foreshock.isolation import RandomState, Replay, fresh, isolated
from foreshock.operators import LossTerm
from foreshock.operators.loss import evaluate

_TRIES = 20
_SIZES = 20
_FITS = 1e-2  # of the loss; padded tokens, dropout or batch normalisation explain more, and the leader stays
_PROVES = 1e-3  # of the loss: another dimension than the most plausible one must fit up to rounding
_PLAUSIBLE = 0.1  # of the loss, where the most plausible dimension can't be evaluated
_REMEDY = "pass MicroBatches, or a function that splits the batch"


class _LeftOutError(Exception):
    """A batch can't be measured; `always`: nor can any other of its structure."""

    def __init__(self, why: str, *, always: bool = False) -> None:
        super().__init__(why)
        self.always = always


class Divider:
    """Divide batch after batch into two parts, and remember along which dimensions.

    A batch that can't be split, or with fewer than half as many examples as the usual one, is left out. The
    first batch is divided on trial: the mean loss of its parts is compared with its own, and where that does
    not fit, other readings of its shapes are tried.

    Args:
        how: ``how(batch, parts)`` → the parts, for batches of an unusual structure.

    Attributes:
        examples: Number of examples of the last batch; 0 if unknown.
        usual: Number of examples of the usual batch; 0 if unknown.
        remarks: What there is to say about the batches.
    """

    def __init__(self, how: SplitFunction | None = None) -> None:
        self._how = how
        self._axes: tuple[int | None, ...] | None = None
        self._failures = 0
        self._sizes: deque[int] = deque(maxlen=_SIZES)
        self.remarks = Remarks()
        self.examples, self.usual = 0, 0

    @property
    def pending(self) -> bool:
        """Whether a batch was left out, and the next one should be tried at once."""
        return 0 < self._failures < _TRIES

    @property
    def given_up(self) -> bool:
        """Whether the last twenty or more batches were left out; more may be tried now and then."""
        return self._failures >= _TRIES

    def divide(
        self, model: nn.Module, loss_fn: LossFunction, batch: Any, *, usual: int | None = None
    ) -> MicroBatches | None:
        """Return the parts of a batch; None if it is left out.

        Cost: nothing, but for the first batch two thirds of F, or more if its shapes are ambiguous.

        Args:
            model: The model, left as it was.
            loss_fn: ``loss_fn(model, batch)`` → mean loss, a scalar tensor.
            batch: What it gets. `MicroBatches` of at least two are their own parts.
            usual: Number of examples of the usual batch, if it is known.

        Raises:
            Exception: Whatever the loss function raises on the batch itself.
        """
        try:
            self._count(batch, usual)
            parts = self._divide(model, loss_fn, batch)
        except _LeftOutError as error:
            self._leave_out(error)
            return None
        self._failures = 0
        return parts

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain values."""
        return {
            "axes": self._axes,
            "failures": self._failures,
            "sizes": list(self._sizes),
            "told": sorted(self.remarks.known),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._axes = None if state["axes"] is None else tuple(state["axes"])
        self._failures, self.remarks.known = int(state["failures"]), set(state["told"])
        self._sizes = deque(state["sizes"], maxlen=_SIZES)

    def _count(self, batch: Any, usual: int | None) -> None:
        """Note the number of examples, and refuse a batch that has far fewer than usual."""
        try:
            counted = count_examples(batch)
        except ValueError as error:
            # Whoever divides the batch knows better; what is split here needs a tensor with examples.
            if self._how is None and not (isinstance(batch, MicroBatches) and len(batch.batches) > 1):
                raise _LeftOutError(str(error)) from error
            self.examples = self.usual = 0
            return
        known = self._remembered(batch)
        self.examples = counted if known is None else known.examples
        self._note_size(usual if self.examples == counted else None)
        if 2 * self.examples < self.usual:
            short = f"a batch of {self.examples} examples is less than half the usual {self.usual}"
            raise _LeftOutError(short)

    def _note_size(self, usual: int | None) -> None:
        self._sizes.append(self.examples)
        self.usual = usual or usual_size(self._sizes)

    def _leave_out(self, error: _LeftOutError) -> None:
        self._failures = max(self._failures + 1, _TRIES if error.always else 0)
        left = f"no noise was measured on a batch: {error}. The next batch that can be split is measured"
        if self.pending:
            self.remarks.add(Remark("short batch", left, warning=False))
        else:
            why = f"the noise of batches can't be measured: {error}. It is tried again now and then"
            self.remarks.add(Remark("no noise", why, warning=True))

    def _divide(self, model: nn.Module, loss_fn: LossFunction, batch: Any) -> MicroBatches:
        whole = batch.batches[0] if isinstance(batch, MicroBatches) and len(batch.batches) == 1 else batch
        if self._how is not None:
            return split_batch(whole, how=self._how)
        if isinstance(whole, MicroBatches):
            return whole
        if is_list_of_samples(whole):
            return split_batch(whole)  # of three at least
        known = self._remembered(whole)
        if known is None:
            known = self._try_out(model, loss_fn, whole)
            self._axes = known.axes
            if known.examples != self.examples:
                self.examples = known.examples
                self._sizes.clear()
                self._note_size(None)
        if known.examples < 2:
            raise _LeftOutError(_too_few(known.examples))
        return _split_along(whole, known)

    def _remembered(self, batch: Any) -> ExampleAxes | None:
        """Return where the examples are if the dimensions that were found first fit the shapes of a batch."""
        shapes = [tensor.shape for tensor in tensors_in(batch)]
        if self._axes is None or len(shapes) != len(self._axes):
            return None
        pairs = [(shape, axis) for shape, axis in zip(shapes, self._axes, strict=True) if axis is not None]
        if any(len(shape) <= axis for shape, axis in pairs):
            return None
        lengths = {shape[axis] for shape, axis in pairs}
        return ExampleAxes(lengths.pop(), self._axes) if len(lengths) == 1 else None

    def _try_out(self, model: nn.Module, loss_fn: LossFunction, batch: Any) -> ExampleAxes:
        """Return the reading of a batch whose parts have the loss of the batch in the mean."""
        leader, *others = example_axes(batch)
        if leader.examples < 2 and not is_ambiguous([leader, *others]):
            raise _LeftOutError(_too_few(leader.examples))
        trial = _Trial(model, loss_fn, batch)
        apart = trial.mismatch(leader, tokens=True)
        if apart <= _FITS:
            return leader
        found = {other: trial.mismatch(other) for other in others}
        best = min(others, key=lambda other: found[other], default=leader)
        works = math.isfinite(apart)
        # Where the leader can't be right, what can be evaluated at all is; otherwise it takes a proof.
        failed = not works and leader.examples >= 2
        if found.get(best, math.inf) <= (_PLAUSIBLE if failed else 0 if trial.random else _PROVES):
            self._tell_dimension(batch, best)
            return best
        if works:
            return leader
        if leader.examples < 2:
            raise _LeftOutError(_too_few(leader.examples))
        raise _LeftOutError(
            f"the loss function fails on the halves of a batch with tensors of the shapes {_shapes(batch)}, "
            f"split along the dimension of length {leader.examples} ({trial.error}): {_REMEDY}",
            always=True,
        )

    def _tell_dimension(self, batch: Any, reading: ExampleAxes) -> None:
        self.remarks.add(
            Remark(
                "example dimension",
                f"the {reading.examples} examples of a batch with tensors of the shapes {_shapes(batch)} lie "
                f"along the dimensions {reading.axes}: split there, its halves have its loss in the mean",
                warning=False,
            )
        )


class _Trial:
    """Compare the loss of a batch with that of its parts, under different readings."""

    def __init__(self, model: nn.Module, loss_fn: LossFunction, batch: Any) -> None:
        self._model, self._loss_fn, self._batch = model, loss_fn, batch
        self.error = ""
        self.random = False
        [self._whole] = self._losses([LossTerm(lambda: loss_fn(model, fresh(batch)))])

    def mismatch(self, reading: ExampleAxes, *, tokens: bool = False) -> float:
        """Return by how much of the loss the parts are off; infinity where they can't be evaluated.

        Args:
            reading: Where the examples are.
            tokens: Whether the loss may be a mean over tokens, too; that one of many counts fits is no proof.
        """
        if reading.examples < 2:
            return math.inf
        parts = _split_along(self._batch, reading)
        try:
            losses = self._losses(part_terms(self._model, self._loss_fn, parts))
        except (OtherRankError, ChannelError, LeftOutError, ProbeRefusedError):
            raise
        except Exception as error:  # noqa: BLE001 - shapes that don't fit raise anything
            self.error = f"{type(error).__name__}: {error}"
            return math.inf
        counts = parts.counts or ()
        shares = tuple(count / math.fsum(counts) for count in counts)
        found = PartLosses(tuple(losses), shares, self._whole, self.random)
        items = part_counts(parts).values() if tokens else ()
        rules = [PartWeights.of_sum(shares), *map(PartWeights.of_mean, [counts, *items])]
        apart = min(abs(rule.mismatch(found)) for rule in rules)
        return apart if math.isfinite(apart) else math.inf

    def _losses(self, terms: Sequence[LossTerm]) -> list[float]:
        with isolated(self._model, self._loss_fn):
            replay, tensors = Replay(self._model), list(self._model.parameters())
            start = RandomState.capture(tensors)
            losses = []
            for term in terms:
                # Gradients stay enabled: a loss may differentiate inside, as that of a differential equation.
                with replay():
                    losses.append(float(evaluate(term).detach()))
                    self.random = self.random or not is_same_state(start, RandomState.capture(tensors))
            return losses


def _shapes(batch: Any) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors_in(batch))


def _split_along(batch: Any, reading: ExampleAxes) -> MicroBatches:
    try:
        return split_along(batch, reading, 2)
    except Exception as error:
        what = f"a batch of type {type(batch).__name__} can't be split ({type(error).__name__}: {error})"
        raise _LeftOutError(f"{what}: {_REMEDY}", always=True) from error


def _too_few(examples: int) -> str:
    return f"a batch of {examples} examples can't be split into 2 parts: use larger batches"
