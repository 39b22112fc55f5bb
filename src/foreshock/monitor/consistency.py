"""Compare training with the probes of it now and then: loss and gradient must be those of `loss_fn`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from foreshock.batches import MicroBatches, count_examples
from foreshock.forecast import RunForecaster
from foreshock.monitor.comparison import Comparison
from foreshock.monitor.explanation import explain_failure
from foreshock.monitor.findings import AFTER_STEP, Finding
from foreshock.monitor.journal import Journal
from foreshock.monitor.misuse import agrees, classify, is_after_step
from foreshock.monitor.sampling import GradientSampler
from foreshock.monitor.second_opinion import evaluate_again
from foreshock.monitor.subject import Subject
from foreshock.operators import Evaluation
from foreshock.preconditioner import unwrap
from foreshock.vectors import split

_FIRST = 3  # probes, each of which is checked
_EVERY = 20  # probes from one check to the next
_REPEATS = 2  # checks in a row that a finding takes
_REPEATS_UNCERTAIN = 3
_REPEATS_LATE = 5  # of an uncertain one in a run that was found in order before
_OPEN_CHECKS = 20  # in a run, that take place at the very next probe
_EVALUATIONS = 8  # second opinions in a run, of two gradients each
_SAME_FACTOR, _SAME_RANDOM_FACTOR = 0.05, 0.3
_MODE_MATTERS = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


class ConsistencyCheck:
    """Notice when a monitor is given another loss, gradient or batch than training has.

    The first three probes are checked, then every twentieth, at the cost of three inner products. A
    disagreement is looked at again by two evaluations of `loss_fn` from different random numbers, and has to
    repeat, before it is reported: once, as an event and a warning. Nothing is corrected.

    Gradients that several processes average are not those of one batch, so there the check is silent.

    Args:
        subject: What is watched; it has a `loss_fn`.
        run: The forecast, which is marked as doubtful.
        journal: The log.

    Attributes:
        sampling: Whether `sample` has to be called at each observed step.
        evaluations: Second opinions so far, of 2 F each.
    """

    def __init__(self, subject: Subject, run: RunForecaster, journal: Journal) -> None:
        self._subject, self._run, self._journal = subject, run, journal
        self._sampler = GradientSampler(subject.optimizers)
        self._probes = self.evaluations = self._open_checks = 0
        self._agreed = self._in_order = 0  # checks that found nothing wrong, and of them the last in a row
        self._halves_mislead = 0  # checks in which the batch agreed, though the mean of its halves did not
        self._tests_left, self._after_step = _REPEATS, 0
        self._random = self._open = self._given_up = False
        self._suspicions: list[Finding] = []
        self._reported: set[str] = set()
        self.sampling = True

    def sample(self, step: int) -> None:
        """Take coordinates of ``.grad`` and of the optimizer's state, and compare them with the last step's.

        Args:
            step: Step number.
        """
        try:
            self._sample(step)
        except Exception as error:  # noqa: BLE001 - a check must never end a training run
            self._give_up(step, error)

    def _sample(self, step: int) -> None:
        if _is_distributed():
            self.sampling = False
            return
        self._sampler.take(step)
        if self._tests_left:
            self._tests_left -= 1
            samples, _ = self._sampler.samples(None, (), scale=1.0)
            self._after_step = self._after_step + 1 if is_after_step(samples) else 0
            if self._after_step >= _REPEATS:
                self._report(step, AFTER_STEP)
            elif self._after_step:
                self._tests_left = 1
        self.sampling = bool(self._open or self._tests_left)

    def after_probe(
        self,
        evaluation: Evaluation | None,
        parameters: Sequence[Tensor],
        batch: Any,
        *,
        step: int,
        loss: float,
        gradient_scale: float,
        whole: bool,
    ) -> None:
        """Compare a probe with training, if that is due.

        Args:
            evaluation: Loss and gradient that the probe computed.
            parameters: The tensors that the gradient is over.
            batch: The batch that was probed.
            step: Step number.
            loss: The loss given to `observe`.
            gradient_scale: What ``.grad`` still has to be divided by.
            whole: Whether the probe evaluated the batch itself, and not its halves.
        """
        if self._given_up:
            return
        self._probes += 1
        due = self._probes <= _FIRST or self._open or self._probes % _EVERY == 0
        if evaluation is None or not due or AFTER_STEP.name in self._reported or _is_distributed():
            return
        try:
            self._sampler.take(step)
            first = self._compare(evaluation, parameters, batch, loss=loss, gradient_scale=gradient_scale)
            self._judge(step, first, parameters, batch, whole=whole)
        except Exception as error:  # noqa: BLE001 - a check must never end a training run
            self._give_up(step, error)

    def explain(self, step: int, error: Exception, batch: Any) -> Exception:
        """Return why a probe failed, in words that say how to mend it, where that is known.

        Args:
            step: Step number.
            error: What it raised.
            batch: The batch that was probed.

        Returns:
            The same error, or one of the same sort with another message.
        """
        loss_fn = self._subject.loss_fn
        if loss_fn is None:
            return error
        try:
            finding = explain_failure(
                error,
                self._subject.model,
                loss_fn,
                batch,
                optimizers=self._subject.optimizers,
                stepped=any(unwrap(one).state for one in self._subject.optimizers),
            )
        except Exception:  # noqa: BLE001 - then the failure itself has to do
            return error
        if finding is None:
            return error
        self._report(step, finding, failed=True)
        return (TypeError if isinstance(error, TypeError) else ValueError)(finding.message)

    def _report(self, step: int, finding: Finding, *, failed: bool = False) -> None:
        if finding.name in self._reported:
            return
        self._reported.add(finding.name)
        name = f"misuse: {finding.name}"
        if failed:
            # `Failures` logs the message, and there is no reading that could be doubtful.
            self._journal.event(step, name, finding.message, level=None)
            return
        self._journal.event(step, name, finding.message)
        self._run.mark_doubtful(f"{name}, found at step {step}")

    def _give_up(self, step: int, error: Exception) -> None:
        self._given_up, self.sampling = True, False
        message = f"training could not be compared with its probes: {type(error).__name__}: {error}"
        self._journal.event(step, "check failed", message)

    def _judge(
        self, step: int, comparison: Comparison, parameters: Sequence[Tensor], batch: Any, *, whole: bool
    ) -> None:
        finding = classify(comparison)
        in_order = agrees(comparison)
        second_opinion = whole or self._halves_mislead < _REPEATS
        if not in_order and not self._random and second_opinion and self.evaluations < _EVALUATIONS:
            # The probe may have drawn other random numbers than training, used other kernels or the halves
            # of the batch: a second opinion, computed as training does it.
            self.evaluations += 1
            evaluation, self._random = evaluate_again(self._subject, parameters, batch)
            comparison = self._compare(
                evaluation,
                parameters,
                batch,
                loss=comparison.observed_loss,
                gradient_scale=comparison.gradient_scale,
            )
            finding, in_order = classify(comparison), agrees(comparison)
            # Batch normalisation, or a mean over another number: the halves of a batch never add up to it.
            self._halves_mislead += in_order and not whole
        elif not in_order and not self._random:
            if not whole:
                self._open = False
                return  # the halves say nothing, and there were enough second opinions
            finding = finding if finding is not None and finding.certain else None
        self._agreed += in_order or (self._random and finding is None)
        self._in_order = self._in_order + 1 if in_order else 0
        if self._in_order == _REPEATS_UNCERTAIN and self._reported:
            self._run.mark_doubtful("")  # whoever read the warning has mended it
        self._follow(step, finding)
        # Randomness leaves every check open; only a finding of its own counts there.
        self._open = bool(self._suspicions) or not (in_order or self._random or self._reported)
        self._open_checks += self._open
        self._open = self._open and self._open_checks <= _OPEN_CHECKS
        self._tests_left, self.sampling = 1, True

    def _follow(self, step: int, finding: Finding | None) -> None:
        """Take a finding, or that there was none, and report what repeats often enough."""
        if finding is None or (self._suspicions and not _same(self._suspicions[-1], finding)):
            self._suspicions = []
        # What follows from a mistake that is known may look like another one, unless it is certain.
        if finding is None or finding.name in self._reported or (self._reported and not finding.certain):
            return
        self._suspicions.append(finding)
        enough = _REPEATS
        if not finding.certain:
            enough = _REPEATS_LATE if self._agreed >= _REPEATS else _REPEATS_UNCERTAIN
        if len(self._suspicions) >= enough:
            self._report(step, finding)
            self._suspicions = []

    def _compare(
        self,
        evaluation: Evaluation,
        parameters: Sequence[Tensor],
        batch: Any,
        *,
        loss: float,
        gradient_scale: float,
    ) -> Comparison:
        samples, stepped = self._sampler.samples(evaluation.gradient, parameters, scale=gradient_scale)
        gg, pp, pg = _inner_products(evaluation.gradient, parameters)
        examples: int | None = None
        with suppress(ValueError):
            examples = None if isinstance(batch, MicroBatches) else count_examples(batch)
        return Comparison(
            observed_loss=loss,
            probe_loss=float(evaluation.loss),
            squared_gradient=gg / gradient_scale**2,
            squared_probe=pp,
            product=pg / gradient_scale,
            samples=samples,
            gradient_scale=gradient_scale,
            examples=examples,
            parts=len(batch.batches) if isinstance(batch, MicroBatches) else 1,
            stepped=stepped,
            random=self._random,
            eval_modules=_eval_modules(self._subject.model),
        )


def _inner_products(gradient: Tensor, parameters: Sequence[Tensor]) -> tuple[float, float, float]:
    """Return ‖g‖², ‖g_p‖² and g·g_p, g being ``.grad``, over the parameters that have one."""
    # Sums in float32 would not show a cosine of .9999; Apple's devices have no other.
    wide = torch.float32 if gradient.device.type == "mps" else torch.float64
    total = torch.zeros(3, dtype=wide, device=gradient.device)
    for part, parameter in zip(split(gradient, parameters), parameters, strict=True):
        grad = parameter.grad
        if grad is None:
            continue
        here = part
        if grad.is_sparse:
            rows = grad.detach().coalesce()
            grad, here = rows.values(), part[tuple(rows.indices())]
        grad = grad.detach().to(part.device, wide)
        products = [(grad * grad).sum(), part.to(wide).square().sum(), (grad * here).sum()]
        total += torch.stack(products).to(total.device)
    gg, pp, pg = total.tolist()
    return gg, pp, pg


def _eval_modules(model: nn.Module) -> str:
    """Return the modules that behave otherwise in train mode and are in eval mode, in words."""
    found = sorted(
        {
            type(one).__name__
            for one in model.modules()
            if not one.training and isinstance(one, _MODE_MATTERS) and getattr(one, "p", 1) > 0
        }
    )
    return " and ".join(found)


def _same(one: Finding, other: Finding) -> bool:
    """Return whether two findings are of the same mistake: uncertain ones may change their name."""
    if math.isnan(one.factor) and math.isnan(other.factor):
        return one.name == other.name or not (one.certain or other.certain)
    tolerance = _SAME_FACTOR if one.certain else _SAME_RANDOM_FACTOR
    return one.name == other.name and abs(one.factor - other.factor) <= tolerance * abs(one.factor)


def _is_distributed() -> bool:
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return ready and torch.distributed.get_world_size() > 1
