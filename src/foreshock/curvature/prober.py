"""Probes of a model in training: one backend for all, and each starts from the result of the last one.

Two types: of the curvature of a batch, by Hessian products, and of its noise, by the gradients of its parts.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from foreshock.batches import MicroBatches, SplitFunction
from foreshock.curvature.choosing import ProductMethod, Sharing
from foreshock.curvature.followed import FollowedRatio, refresh_curvature
from foreshock.curvature.form import gathered_step
from foreshock.curvature.noise import NoiseReading, at_usual_size, measure_noise
from foreshock.curvature.own_parts import OwnParts
from foreshock.curvature.parts import Divider
from foreshock.curvature.probe import CurvatureReading, ProbeMemory, ProbeSettings, probe_curvature
from foreshock.curvature.remarks import Remark, batch_normalisations, weighting_remarks
from foreshock.curvature.terms import LossFunction, loss_terms, part_terms
from foreshock.curvature.weights import Weighing
from foreshock.distributed import ALONE, Joint, LeftOutError, part_of
from foreshock.eigen import StoppingRule
from foreshock.isolation import MovedMemory, fresh, isolated, plain_module
from foreshock.operators import BackendChoice, Evaluation, LossTerm
from foreshock.operators.loss import evaluate
from foreshock.preconditioner import Preconditioner
from foreshock.vectors import local_size

_TRIES = 2  # where it only turns out afterwards how parts of shared parameters make up a batch
_LOGGER = logging.getLogger("foreshock")


class NoiseProber:
    """Measure the noise of batches again and again: each measurement continues the last one's direction.

    Args:
        split: ``split(batch, parts)`` → the parts, for batches of an unusual structure.
        sharing: Whether parameters that processes share are made whole; None to find out.

    Attributes:
        meaningless: Whether the loss of a batch is far from a mean of that of its parts again and again, as a
            contrastive one is, so that their noise is not that of batches. Never so where batch normalisation
            may be the reason: there the noise is too large, but is one. In one process only.
    """

    def __init__(self, *, split: SplitFunction | None = None, sharing: Sharing | None = None) -> None:
        self._direction: Tensor | None = None
        self._sharing = sharing or Sharing()
        self._divider = Divider(split)
        self._weighing = Weighing()
        self._moved = MovedMemory()
        self.meaningless = False

    @property
    def pending(self) -> bool:
        """Whether the last batch could not be split, so that the next one should be tried at once."""
        return self._divider.pending

    @property
    def given_up(self) -> bool:
        """Whether twenty batches in succession could not be split; more may be tried now and then."""
        return self._divider.given_up

    def probe(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        batch: Any,
        preconditioner: Preconditioner,
        *,
        step: int,
        loss: float = math.nan,
        usual: int | None = None,
        keep: Callable[[Evaluation], None] | None = None,
        joint: Joint = ALONE,
    ) -> NoiseReading | None:
        """Return the curvature along one direction, and how it differs between the parts of a batch.

        None for a batch that can't be split, or with fewer than half as many examples as usual. What there is
        to say about the parts is in `take_remarks`. The model is left as it was.

        Cost: 2 F; without `loss` a third of F more at some readings, and two thirds at the first one.

        Args:
            model: The model.
            loss_fn: ``loss_fn(model, batch)`` → mean loss, a scalar tensor.
            batch: What it gets, which is split into halves; or `MicroBatches`, which are its parts.
            preconditioner: The step about to be taken.
            step: Its number, for the reading.
            loss: Loss of the whole batch, to compare with; NaN if unknown.
            usual: Number of examples of the usual batch, which the variances are given for; None to take the
                median of those that were probed.
            keep: Called with the mean loss and gradient of the parts.
            joint: The processes that make this measurement together: the parts are those of all batches.

        Raises:
            LeftOutError: Of several processes, where the batch of one can't be split.
            Exception: Whatever the loss function raises.
        """
        model, last = plain_module(model), self._direction
        if last is not None and last.numel() != local_size(preconditioner.parameters):
            last = None
        with (
            self._sharing.probe(joint, model, preconditioner.parameters) as joint,
            isolated(model, loss_fn, self._moved),
            joint.inside(model),
        ):
            parts = self._divider.divide(model, loss_fn, batch, usual=usual)
            if parts is None:
                if joint is not ALONE:
                    raise LeftOutError  # by all
                return None
            made = not (isinstance(batch, MicroBatches) and len(batch.batches) > 1)
            # Of one process only: others would have to make the same passes.
            doubts = joint is ALONE and self._weighing.doubtful
            evaluated = made and (doubts or (math.isnan(loss) and self._weighing.wants_loss))
            if evaluated:
                # With its graph: a loss may differentiate inside, as that of a differential equation does.
                loss = float(evaluate(LossTerm(lambda: loss_fn(model, fresh(batch)))).detach())
            joint.between_passes(model)
            terms, step_taken = part_terms(model, loss_fn, parts), gathered_step(preconditioner, joint)
            w = None if last is None else joint.gather(last)
            for _ in range(_TRIES):
                rule = self._weighing.rule
                own = OwnParts(terms, self._weighing, parts, joint, whole=loss, made=made)
                reading, direction = measure_noise(
                    own.terms,
                    step_taken,
                    step=step,
                    direction=w,
                    model=model,
                    loss=own.loss,
                    weigh=own.weigh,
                    keep=keep,
                    joint=joint,
                )
                if not own.outdated(rule):
                    break
            reading = own.completed(reading)
        reading, examples, usual_examples = _of_all(
            reading, joint, self._divider.examples, self._divider.usual
        )
        self._direction = part_of(joint.own(direction))
        reading = replace(reading, weighting=self._weighing.rule)
        self._divider.remarks.add(*weighting_remarks(self._weighing, model, made=made))
        if joint is ALONE and not batch_normalisations(model):
            self._weighing.judge(evaluated=evaluated)
        self.meaningless = joint is ALONE and self._weighing.systematic
        return at_usual_size(reading, examples=examples, usual=usual_examples) if examples else reading

    def take_remarks(self) -> tuple[Remark, ...]:
        """Return what there is to say about batches and their parts since the last call, each thing once."""
        return self._divider.remarks.take()

    def state_dict(self, *, vectors: bool = True) -> dict[str, Any]:
        """Return what the next measurement continues, with or without the direction of the last one."""
        return {
            "direction": None if self._direction is None or not vectors else self._direction.clone(),
            "divider": self._divider.state_dict(),
            "weighing": self._weighing.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        direction = state["direction"]
        self._direction = None if direction is None else direction.clone()
        if "divider" in state:
            self._divider.load_state_dict(state["divider"])
            self._weighing.load_state_dict(state["weighing"])
            self.meaningless = self._weighing.systematic


class Prober:
    """Measure the preconditioned curvature of a model in training, again and again.

    Args:
        model: The model.
        loss_fn: ``loss_fn(model, batch)`` → mean loss, a scalar tensor.
        split: ``split(batch, parts)`` → the parts of a batch; see `NoiseProber`.
        hvp: How Hessian products are made: by double backward (``"exact"``), by differences of gradients
            (``"difference"``), or as it turns out to work (``"auto"``).

    Attributes:
        noise: What measures the noise, and has remarks on the batches.
        backend: How Hessian products are computed; None before the first probe.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        *,
        split: SplitFunction | None = None,
        hvp: ProductMethod = "auto",
    ) -> None:
        self._model = plain_module(model)
        self._loss_fn = loss_fn
        self._memory: ProbeMemory | None = None
        self._sharing = Sharing(hvp)
        self.noise = NoiseProber(split=split, sharing=self._sharing)
        self._moved = MovedMemory()
        self._followed: FollowedRatio | None = None
        self._evaluation: Evaluation | None = None
        self._size = 0  # coordinates of the vectors of the last probe, over all processes
        self.backend: BackendChoice | None = None

    @property
    def top_vector(self) -> Tensor | None:
        """Eigenvector of λ_max in the symmetric form, as of the last probe, shape (n,)."""
        return None if self._memory is None else self._memory.starts[0]

    def probe(
        self,
        batch: Any,
        preconditioner: Preconditioner,
        *,
        step: int,
        stop: StoppingRule | None = None,
        joint: Joint = ALONE,
    ) -> CurvatureReading:
        """Return the curvature for the step about to be taken; the model is left as it was.

        Cost: see `probe_curvature`; the first probe, and one after a failure, also chooses the backend; see
        `choose_backend`.

        Args:
            batch: What `loss_fn` gets.
            preconditioner: The step about to be taken.
            step: Its number, for the reading.
            stop: When λ_max is accurate enough; by default as `ProbeSettings` says.
            joint: The processes that make this probe together, each on its part of the batch.

        Raises:
            Exception: Whatever the loss function or a product raises. The next probe then chooses a backend
                again.
        """
        loss = loss_terms(self._model, self._loss_fn, batch)
        # Unset until the probe succeeds: the backend may be why one fails.
        chosen, self.backend = self.backend, None
        size = _size(preconditioner)
        known = self._memory if size == self._size else None
        with self._in_probe(preconditioner, joint) as joint:
            spent = 0.0
            if chosen is None or not self._sharing.fits(chosen, joint):
                parameters = preconditioner.parameters
                chosen = self._sharing.choose(loss, parameters, model=self._model, joint=joint)
                spent = chosen.passes
            settings = ProbeSettings(chosen, stop, model=self._model, joint=joint)
            reading, memory = probe_curvature(
                loss, preconditioner, step=step, memory=known, settings=settings
            )
        # After everything that may fail in one process alone: from here on all know the same.
        (passes,) = joint.end((reading.passes + spent) / joint.size)
        self._remember(memory.starts, memory, preconditioner)
        self.backend = chosen
        self._follow(reading, memory.starts[0], preconditioner)
        return replace(reading, passes=passes)

    @property
    def measured(self) -> FollowedRatio | None:
        """The last measured stability ratio; None if there is none."""
        return self._followed

    @property
    def can_refresh(self) -> bool:
        """Whether there is an eigenvector to go on from, and a backend."""
        return self._followed is not None and self.backend is not None

    def fits(self, size: int) -> bool:
        """Return whether the last eigenvector is of as many parameters, or there is none yet.

        Args:
            size: Number of coordinates that are trained now.
        """
        return self._followed is None or self._size == size

    def refresh(
        self, batch: Any, preconditioner: Preconditioner, *, step: int, joint: Joint = ALONE
    ) -> CurvatureReading:
        """Return the curvature along the last top eigenvector; see `refresh_curvature`.

        Args:
            batch: What `loss_fn` gets.
            preconditioner: The step about to be taken.
            step: Its number, for the reading.
            joint: The processes that make this probe together, each on its part of the batch.

        Raises:
            ValueError: If there is no eigenvector to go on from, or other parameters are trained by now.
            Exception: Whatever the loss function or the product raises.
        """
        direction = None if self._followed is None else self._followed.vector(preconditioner)
        chosen, memory = self.backend, self._memory
        if direction is None or chosen is None or memory is None:
            raise ValueError(
                "there is no eigenvector of these parameters to go on from: call `probe` before `refresh`"
            )
        self.backend = None  # unset until it succeeds, as in `probe`
        loss = loss_terms(self._model, self._loss_fn, batch)
        with self._in_probe(preconditioner, joint) as joint:
            if not self._sharing.fits(chosen, joint):
                chosen = self._sharing.choose(loss, preconditioner.parameters, model=self._model, joint=joint)
            settings = ProbeSettings(chosen, model=self._model, joint=joint)
            reading, direction, found = refresh_curvature(
                loss, preconditioner, step=step, direction=direction, settings=settings, gain=memory.gain
            )
        (passes,) = joint.end(reading.passes / joint.size)
        self.backend = chosen
        starts = found.starts if reading.complete else (*found.starts, *memory.starts[1:])
        self._remember(starts, found, preconditioner)
        self._follow(reading, direction, preconditioner)
        return replace(reading, passes=passes)

    @contextmanager
    def _in_probe(self, preconditioner: Preconditioner, joint: Joint) -> Iterator[Joint]:
        """Run a block in which the model may be evaluated, by this process or by all that share it."""
        with (
            self._sharing.probe(joint, self._model, preconditioner.parameters) as found,
            isolated(self._model, self._loss_fn, self._moved),
            found.inside(self._model),
        ):
            yield found

    def follow(self, preconditioner: Preconditioner) -> float | None:
        """Return the last stability ratio with the present v and learning rate; None if there is none.

        No loss is evaluated; see `FollowedRatio`.

        Args:
            preconditioner: The step about to be taken.
        """
        return None if self._followed is None else self._followed.at(preconditioner)

    def probe_noise(
        self,
        batch: Any,
        preconditioner: Preconditioner,
        *,
        step: int,
        loss: float = math.nan,
        usual: int | None = None,
        joint: Joint = ALONE,
    ) -> NoiseReading | None:
        """Return the noise of a batch, or None if it is left out; see `NoiseProber.probe`.

        Args:
            batch: What `loss_fn` gets.
            preconditioner: The step about to be taken.
            step: Its number, for the reading.
            loss: Loss of the whole batch; NaN if unknown.
            usual: Number of examples of the usual batch; None if unknown.
            joint: The processes that make this measurement together.
        """
        return self.noise.probe(
            self._model,
            self._loss_fn,
            batch,
            preconditioner,
            step=step,
            loss=loss,
            usual=usual,
            keep=self._keep,
            joint=joint,
        )

    def take_evaluation(self) -> Evaluation | None:
        """Return loss and gradient of the batch that was probed last, once: they are not kept."""
        evaluation, self._evaluation = self._evaluation, None
        return evaluation

    def _remember(self, starts: Sequence[Tensor], found: ProbeMemory, preconditioner: Preconditioner) -> None:
        # Of a vector that is spread over processes the part of this one, without what connects it to others.
        self._memory = ProbeMemory(tuple(part_of(one) for one in starts), found.gain)
        self._evaluation = found.evaluation if preconditioner.spread is None else None
        self._size = _size(preconditioner)

    def _keep(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation

    def _follow(self, reading: CurvatureReading, vector: Tensor, preconditioner: Preconditioner) -> None:
        followed = FollowedRatio.start(
            step=reading.step,
            ratio=reading.stability_ratio,
            relative_error=reading.relative_error,
            vector=vector,
            preconditioner=preconditioner,
        )
        self._followed = replace(followed, direction=part_of(followed.direction))

    def state_dict(self, *, vectors: bool = True) -> dict[str, Any]:
        """Return the vectors of the last probes, from which a resumed run starts warm.

        Args:
            vectors: Whether to; without them the next probe is as the first one of a run.
        """
        noise = self.noise.state_dict(vectors=vectors)
        if self._memory is None or not vectors:
            return {"starts": None, "gain": None, "noise": noise, "followed": None, "size": 0}
        starts = [start.clone() for start in self._memory.starts]
        followed = self._followed
        saved = None if followed is None else vars(followed) | {"direction": followed.direction.clone()}
        return {
            "starts": starts,
            "gain": self._memory.gain,
            "noise": noise,
            "followed": saved,
            "size": self._size,
        }

    def load_state_dict(self, state: Mapping[str, Any], *, size: int) -> None:
        """Continue from `state_dict()`.

        Where other parameters are trained, as after some were frozen or unfrozen, the vectors are dropped
        with a warning: the next probe starts without them, as the first one of a run does.

        Args:
            state: What `state_dict` returned.
            size: Number of trained parameters of the present model, of those that this process has.
        """
        starts, followed = state["starts"], state.get("followed")
        noise = dict(state["noise"] if "noise" in state else {"direction": state["direction"]})
        vectors = (*(starts or ()), noise["direction"], None if followed is None else followed["direction"])
        misfits = {one.numel() for one in vectors if one is not None} - {size}
        if misfits:
            _LOGGER.warning(
                "the vectors of the last probes were dropped: they are of %d trained parameters, this model "
                "has %d; the next probe starts without them",
                max(misfits),
                size,
            )
            starts = followed = noise["direction"] = None
        self.noise.load_state_dict(noise)
        self._memory = None
        if starts is not None:
            self._memory = ProbeMemory(tuple(start.clone() for start in starts), state["gain"])
            self._size = state.get("size") or size
        self._followed = None if followed is None else FollowedRatio(**followed)


def _size(preconditioner: Preconditioner) -> int:
    return sum(one.numel() for one in preconditioner.parameters)


def _of_all(
    reading: NoiseReading, joint: Joint, examples: float, usual: float
) -> tuple[NoiseReading, float, float]:
    """Return the reading of all processes from the summands of each, and their numbers of examples."""
    names = ("mean", "variance", "variance_along", "gradient_signal", "gradient_noise", "loss_mismatch")
    known = joint is ALONE or examples > 0
    *sums, examples, usual = joint.end(
        *(getattr(reading, name) for name in names),
        joint.batches * examples if known else math.nan,
        joint.batches * usual if known else math.nan,
    )
    unknown = math.isnan(examples)
    found: dict[str, Any] = dict(zip(names, sums, strict=True))
    whole = replace(reading, **found)
    return whole, 0.0 if unknown else examples, 0.0 if unknown else usual
