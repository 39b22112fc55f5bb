"""The probes of a run: they measure what is due at a step, and hand the readings to whom they concern."""

from __future__ import annotations

import gc
import logging
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from foreshock.curvature import CurvatureReading, FollowedRatio, NoiseReading, Prober, ProductMethod
from foreshock.curvature.form import spread_over
from foreshock.distributed import ALONE, Joint, JointProbe, LeftOutError, Meeting, Together, is_spread
from foreshock.dynamics import population_factor
from foreshock.eigen import StoppingRule
from foreshock.failures import Failures, ProbeRefusedError
from foreshock.forecast import EdgeReading, Forecast, RunForecaster
from foreshock.guarding import Guard
from foreshock.guarding.pair_prober import MEANINGLESS
from foreshock.isolation import kept_options, several_processes
from foreshock.monitor.consistency import ConsistencyCheck
from foreshock.monitor.explanation import explain_lack_of_memory
from foreshock.monitor.journal import Journal
from foreshock.monitor.observation import (
    StepObservation,
    edge_reading,
    followed_reading,
    sums_of,
    with_sums,
)
from foreshock.monitor.schedule import SHORTEST, Measure, ProbeSchedule
from foreshock.monitor.subject import Subject
from foreshock.preconditioner import (
    Preconditioner,
    moving_parameters,
    read_preconditioner,
    read_preconditioner_at,
)
from foreshock.representation import short_repr
from foreshock.vectors import bit_checksum

# Where passes are counted: a ratio is followed and refreshed to about a percent, so that a probe need not
# know it better, only find its eigenvector.
_ROUGH = StoppingRule(
    relative_tolerance=0.02, far_tolerance=0.05, threshold=1.0, max_products=12, caution=2.0
)
_TURNED = 0.3  # residual over ratio above which it is
_SUM_EVERY = 100  # steps from one checksum of the weights to the next, which reads them once
_DIFFERENT = (
    "the weights are no longer the same in all ranks, though DistributedDataParallel keeps copies of them: "
    "something changed those of one rank alone, or a device is broken. Load one checkpoint in all ranks; "
    "foreshock report shows which rank differs, and since when"
)


@dataclass(frozen=True)
class ProbedStep:
    """A step at which something is measured.

    Attributes:
        seen: Its free signals.
        batch: Its batch.
        gradient_scale: What ``.grad`` still has to be divided by.
        differ: Whether batches are known to differ.
        usual_examples: Number of examples of the usual batch; None if unknown.
    """

    seen: StepObservation
    batch: Any
    gradient_scale: float = 1.0
    differ: bool = False
    usual_examples: int | None = None

    __repr__ = short_repr


class ProbeRunner:
    """Measure what is due, and hand the readings to the forecast, the guard and the log.

    A failure of a probe becomes an event in the log; after three in a row there are no more probes.

    Args:
        subject: What is watched.
        schedule: When to probe.
        run: The forecast, which gets the readings.
        guard: The guard, if there is one, which gets them too.
        journal: The log.
        company: The processes that train together with this one, if they may measure together.
        hvp: How Hessian products are made; see `foreshock.Monitor`.

    Attributes:
        schedule: When to probe.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        schedule: ProbeSchedule,
        run: RunForecaster,
        guard: Guard | None,
        journal: Journal,
        company: Together | None = None,
        hvp: ProductMethod = "auto",
    ) -> None:
        self._subject, self.schedule, self._company = subject, schedule, company
        self._run, self._guard, self._journal = run, guard, journal
        self._joint: JointProbe | None = None  # what is measured now is measured by all processes
        self._is_spread = is_spread(subject.model)
        self._parts: tuple[float, ...] | None = None  # sums over all processes over those of this one
        loss_fn = subject.loss_fn
        self._prober = None if loss_fn is None else Prober(subject.model, loss_fn, hvp=hvp)
        self._failures = Failures("monitor")
        self._budget_checked = False
        self._company_noted: bool | None = None  # whether it was said that this process measures together
        self._missing_noted = False
        self._population_told = self._meaningless_noted = False
        self._summed, self._difference_noted = -_SUM_EVERY, False
        self._left_out = False  # the last batch, which was too short for its noise to be measured
        self._consistency = None if loss_fn is None else ConsistencyCheck(subject, run, journal)

    @property
    def has_parts(self) -> bool:
        """Whether a step's signals are this process's parts of sums that the next meeting will add up."""
        return self._is_spread and self._company is not None and not self._company.alone

    @property
    def top_vector(self) -> Tensor | None:
        """The top eigenvector that was found last; None if none was, or where batches differ."""
        return None if self._prober is None else self._prober.top_vector

    @property
    def unavailable(self) -> str:
        """Why nothing is ever measured; empty if something is."""
        if self._prober is None:
            return "no loss_fn was given, so no curvature is measured"
        return "" if self.schedule.measures else "budget is 0, so no curvature is measured"

    def due(self, step: int, *, constant: bool | None, forecast: Forecast, deciding: bool) -> Measure | None:
        """Return what is to be measured at a step; no number is read back from a device for it.

        Args:
            step: Step number.
            constant: Whether every step sees the same data; None if unknown.
            forecast: The last forecast.
            deciding: Whether a measurement may come at this step if none is fixed for it.
        """
        if self._prober is None or self._failures.given_up:
            return None
        if self._company is not None and not self._company.alone:
            return None  # until it is known who takes part, and then at meetings only
        return self._due(step, constant=constant, forecast=forecast, deciding=deciding)

    def _due(self, step: int, *, constant: bool | None, forecast: Forecast, deciding: bool) -> Measure | None:
        self.schedule.budget.begin(step)
        if self.schedule.counts_passes and not (deciding or self._left_out):
            return None
        noisy = self._is_noisy(constant=constant)
        if noisy and self._left_out and self.schedule.measures:
            return "noise"  # what the last batch was too short for is measured on this one
        return self.schedule.due(
            step,
            noisy=noisy,
            forecast=forecast,
            lag=self._run.lag,
            deciding=deciding,
            share=self._share_of_threshold(step) if noisy else None,
        )

    def _share_of_threshold(self, step: int) -> float | None:
        """Return the guard's mean-square ratio over that from which it acts; None where it never will."""
        guard = self._guard
        prober = self._prober
        if guard is None or prober is None or prober.noise.meaningless or not self.is_shared:
            return None
        if not guard.policy.needs & {"pairs", "forecast"} or not self._run.is_settled(step):
            return None
        return guard.share_of_threshold

    def meets(self, step: int) -> bool | None:
        """Return whether all processes meet at a step; None where this one measures alone.

        Args:
            step: Step number.
        """
        if self._company is None or self._prober is None:
            return None
        meets = self._company.meets(step)
        # While that is open nothing is judged: losses of this process alone would make forecasts differ.
        return None if self._company.alone else meets

    def agree(
        self, seen: Sequence[StepObservation], *, constant: bool | None, forecast: Forecast, same: bool
    ) -> tuple[Measure | None, list[StepObservation]]:
        """Meet the other processes; return what all measure now, and the steps with the losses of all.

        Args:
            seen: The steps since the last meeting, the present one last.
            constant: Whether every step sees the same data; None if unknown.
            forecast: The last forecast.
            same: Whether that was made sure of for the present batch.
        """
        company, now = self._company, seen[-1]
        if company is None:
            return None, list(seen)
        able = same and math.isfinite(now.loss) and math.isfinite(now.gradient_norm) and now.learning_rate > 0
        want: Measure | None = None
        if able and not self._failures.given_up:
            self._left_out = False  # by the others, too: it is due at the next meeting
            due = self._due(now.step, constant=constant, forecast=forecast, deciding=True)
            want = None if due is None else self._resolved(due)
        if want is not None and (want != "follow" or self._is_spread):
            parameters = moving_parameters(self._subject.optimizers)
            self._joint = company.probe(parameters)
            want = None if self._joint is None else want
        for one in seen:
            sums = sums_of(one, self._subject.beta2) if self._is_spread else ()
            company.note(one.step, one.loss, one.batch_size, sums)
        meeting = company.meet(now.step, want, mark=self._checksum(now.step))
        if meeting is None:
            self._joint = None
            self._note_company(now.step)
            return None, list(seen)
        if meeting.remark and not self._missing_noted:
            self._missing_noted = True
            self._journal.event(now.step, "no joint probe", f"{meeting.remark}; it is left out by all")
        if meeting.what is None or (meeting.what == "follow" and not self._is_spread):
            self._joint = None
        elif self._joint is not None:
            self._joint.share = meeting.share
        if not meeting.same and not self._difference_noted:
            self._difference_noted = True
            self._journal.event(now.step, "replicas differ", _DIFFERENT)
        own = {one.step: one.loss for one in seen if one.step in meeting.losses}
        self._journal.add("rank", {"step": now.step, "steps": list(own), "losses": list(own.values())})
        what: Any = meeting.what
        return what, [self._of_all(one, meeting) for one in seen]

    def _checksum(self, step: int) -> int:
        """Return a checksum of the weights at every hundredth step, which goes into the log; else zero."""
        if self._is_spread or step - self._summed < _SUM_EVERY:
            return 0
        self._summed = step
        checksum = f"{bit_checksum(moving_parameters(self._subject.optimizers)):016x}"
        self._journal.add("weights", {"step": step, "checksum": checksum})
        return zlib.crc32(checksum.encode())

    def _of_all(self, seen: StepObservation, meeting: Meeting) -> StepObservation:
        """Return a step with what it is over all processes."""
        mean = meeting.losses.get(seen.step)
        sums = meeting.sums.get(seen.step)
        if sums and self._is_spread:
            beta2 = self._subject.beta2
            own = sums_of(seen, beta2)
            self._parts = tuple(
                all_ / part if part > 0 else math.nan for all_, part in zip(sums, own, strict=True)
            )
            seen = with_sums(seen, sums, beta2)
        return seen if mean is None else replace(seen, loss=mean)

    def completed(self, seen: StepObservation) -> StepObservation:
        """Return a step that no meeting has added up, as the last ones of a run, scaled as those before.

        Args:
            seen: This process's part of its signals.
        """
        if self._parts is None or not all(map(math.isfinite, self._parts)):
            return seen
        own = sums_of(seen, self._subject.beta2)
        sums = [part * factor for part, factor in zip(own, self._parts, strict=True)]
        return with_sums(seen, sums, self._subject.beta2)

    def measure(self, what: Measure, at: ProbedStep) -> bool:
        """Measure what is due at a step; return whether anything was.

        Args:
            what: What `due` returned.
            at: The step.
        """
        seen = at.seen
        if not math.isfinite(seen.loss) or self._prober is None:
            return False
        # The first step of many warmups: nothing moves, so there is no ratio. It must not count as a failure.
        if not seen.learning_rate > 0:
            self._run.mark_unavailable(seen.step, "every learning rate is 0: nothing moves")
            self._journal.event(seen.step, "no probe", "every learning rate is 0: nothing moves")
            return False
        self._note_company(seen.step)
        if not math.isfinite(seen.gradient_norm):
            return False  # a gradient scaler leaves this step out
        what = self._resolved(what)
        made: list[Measure] = []
        for one in self._at_once(what, differ=at.differ and self._joint is None):
            if self._try(one, self._prober, at):
                made.append(one)
            elif one == what:
                break
        self._joint = None
        if made and self._consistency is not None:
            self._check(self._consistency, self._prober, at, whole=made != ["noise"])
        return what in made

    def _resolved(self, what: Measure) -> Measure:
        """Return what can be measured of what is due."""
        prober = self._prober
        if prober is None:
            return what
        if what in ("refresh", "follow") and not prober.fits(self._subject.size):
            self.schedule.restart()  # other parameters are trained by now: as at the start of a run
            return "curvature"
        if what == "refresh" and not prober.can_refresh:
            return "curvature"  # a resumed run chooses its backend again
        return what

    def _note_company(self, step: int) -> None:
        together = self._company is not None and not self._company.alone
        if self._company_noted is together or not several_processes():
            return
        self._company_noted = together
        if self._company is not None and together:
            message = f"{self._company.size} processes measure together: probes see the batches of all"
            self._journal.event(step, "joint batch", message)
            return
        alone = "" if self._company is None else f", because {self._company.alone}"
        if self._subject.is_parted:
            alone = (
                ", of the parameters that its ZeroRedundancyOptimizer has: each rank forecasts for its own. "
                "For all parameters and batches together use fully_shard instead"
            )
        self._journal.event(
            step, "local batch", f"several processes train together: probes see the batch of this one{alone}"
        )

    @property
    def is_shared(self) -> bool:
        """Whether all processes measure, and so forecast, the same; or there is only one."""
        return (self._company is not None and not self._company.alone) or not several_processes()

    @property
    def _guarded(self) -> Guard | None:
        """The guard, if it may see what is measured: what one process reads must not decide what it does."""
        return self._guard if self._joint is not None or not several_processes() else None

    def _at_once(self, what: Measure, *, differ: bool) -> list[Measure]:
        """Return all that is measured at once where something is due."""
        if what == "noise" and self.schedule.accompanied:
            return ["noise", "curvature"]
        if differ and what in ("curvature", "refresh"):
            return ["noise", what]  # no batch could be split so far; this one may be longer
        return [what]

    def sample(self, step: int) -> None:
        """Look at ``.grad`` at an observed step, while it is not known whether training and probes agree.

        Args:
            step: Step number.
        """
        if self._consistency is not None and self._consistency.sampling:
            self._consistency.sample(step)

    def check_budget(self, step: int, *, constant: bool | None) -> None:
        """Say once, when the opening is over, if the budget can't keep a forecast alive.

        Args:
            step: Step number.
            constant: Whether every step sees the same data; None if unknown.
        """
        if self._budget_checked or self._prober is None or step < self.schedule.budget.in_opening_until:
            return
        self._budget_checked = True
        noisy = self._is_noisy(constant=constant)
        shortfall = self.schedule.shortfall(noisy=noisy, horizon=self._run.horizon)
        if shortfall:
            self._journal.event(step, "budget", shortfall)

    def close(self) -> None:
        """Take no more part in the probes of several processes, so that none waits for this one."""
        if self._company is not None:
            self._company.close()

    def state_dict(self, *, vectors: bool = True) -> dict[str, Any]:
        """Return what a resumed run needs to go on probing as before.

        Args:
            vectors: Whether to keep those of the last probes.
        """
        return {
            "prober": None if self._prober is None else self._prober.state_dict(vectors=vectors),
            "schedule": self.schedule.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        if self._prober is not None and state["prober"] is not None:
            self._prober.load_state_dict(state["prober"], size=self._subject.local_size)
        self.schedule.load_state_dict(state["schedule"])

    def _is_noisy(self, *, constant: bool | None) -> bool:
        # Noise decides only where batches surely differ; until two of them were seen the curvature does.
        return constant is False and self._run.noise_expected

    def _check(self, check: ConsistencyCheck, prober: Prober, at: ProbedStep, *, whole: bool) -> None:
        evaluation = prober.take_evaluation()
        if evaluation is None:
            return
        parameters = moving_parameters(self._subject.optimizers)
        evaluations = check.evaluations
        with kept_options(self._subject.optimizers):
            check.after_probe(
                evaluation,
                parameters,
                at.batch,
                step=at.seen.step,
                loss=at.seen.loss,
                gradient_scale=at.gradient_scale,
                whole=whole,
            )
        self.schedule.budget.spend(2.0 * (check.evaluations - evaluations))

    def _try(self, what: Measure, prober: Prober, at: ProbedStep) -> bool:
        measures: Mapping[Measure, Callable[..., float | None]] = {
            "curvature": self._measure_curvature,
            "refresh": self._refresh,
            "follow": self._follow,
            "noise": self._measure_noise,
        }
        step, optimizers = at.seen.step, self._subject.optimizers
        if self._failures.given_up:
            return False
        # To follow a ratio nothing is exchanged, but where sums are over processes.
        together = self._joint is not None and (what != "follow" or self._is_spread)
        passes, starved = None, False
        try:
            with self._joint if self._joint is not None and together else nullcontext(ALONE) as joint:
                preconditioner = spread_over(self._read_preconditioner(what, prober, at), joint)
                with kept_options(optimizers):
                    passes = measures[what](prober, at, preconditioner, joint)
        except LeftOutError:
            return False
        except Exception as error:  # noqa: BLE001 - a probe must never end a training run
            self._record_failure(step, self._explained(step, error, at.batch))
            # Charged too: otherwise failures would come as fast as steps.
            self.schedule.failed(what, step=step)
            starved = isinstance(error, torch.OutOfMemoryError)
        if starved:
            # Here, where the error is gone. What it kept alive may be in cycles, and the next step needs the
            # memory at once: nothing of a probe may make training run out of it.
            gc.collect()
            torch.cuda.empty_cache()
        if passes is None:
            return False
        if what != "follow":
            self._failures.succeeded()
        self.schedule.spent(what, passes, step=step)
        return True

    def _read_preconditioner(self, what: Measure, prober: Prober, at: ProbedStep) -> Preconditioner:
        optimizers, followed = self._subject.optimizers, prober.measured
        if what == "follow" and followed is not None and followed.coordinates is not None:
            some = read_preconditioner_at(optimizers, followed.coordinates, gradient_scale=at.gradient_scale)
            if some is not None:
                return some
        return read_preconditioner(optimizers, gradient_scale=at.gradient_scale)

    def _measure_curvature(
        self, prober: Prober, at: ProbedStep, preconditioner: Preconditioner, joint: Joint
    ) -> float:
        known, seen = prober.backend, at.seen
        before = self._followed_to(prober, preconditioner, step=at.seen.step)
        stop = _ROUGH if self.schedule.counts_passes else None
        reading = prober.probe(at.batch, preconditioner, step=seen.step, stop=stop, joint=joint)
        choice = prober.backend
        if known is None and choice is not None:
            level = logging.INFO if choice.verified else logging.WARNING
            self._journal.event(seen.step, "backend", f"{choice.name}: {choice.reason}", level=level)
        self._hand_over(prober, at, reading, preconditioner, before)
        return reading.passes

    def _refresh(self, prober: Prober, at: ProbedStep, preconditioner: Preconditioner, joint: Joint) -> float:
        seen = at.seen
        before = self._followed_to(prober, preconditioner, step=at.seen.step)
        reading = prober.refresh(at.batch, preconditioner, step=seen.step, joint=joint)
        if before is not None:
            followed, since = before
            self.schedule.learn_drift(followed, reading.stability_ratio, steps=seen.step - since.step)
        self.schedule.turned = not reading.relative_error <= _TURNED
        self._hand_over(prober, at, reading, preconditioner, before)
        return reading.passes

    def _follow(self, prober: Prober, at: ProbedStep, preconditioner: Preconditioner, joint: Joint) -> float:
        seen = at.seen
        edge = followed_reading(seen, prober, preconditioner, drift=self.schedule.drift)
        joint.end()
        if edge is not None:
            rates = self._subject.future_rates(seen.step)
            self._run.record_curvature(seen.step, edge, learning_rates=rates)
        return 0.0  # no loss is evaluated

    def _followed_to(
        self, prober: Prober, preconditioner: Preconditioner, *, step: int
    ) -> tuple[float, FollowedRatio] | None:
        """Return the ratio as it was followed to this step, and the measurement that it was followed from."""
        since = prober.measured
        if since is None or step - since.step < SHORTEST:
            return None  # of a few steps the parts of a rise are lost in the errors
        followed = prober.follow(preconditioner)
        return None if followed is None else (followed, since)

    def _hand_over(
        self,
        prober: Prober,
        at: ProbedStep,
        reading: CurvatureReading,
        preconditioner: Preconditioner,
        before: tuple[float, FollowedRatio] | None,
    ) -> None:
        seen = at.seen
        # Before anything that may fail in one process alone.
        if self._guarded is not None and prober.top_vector is not None:
            self._guarded.record_curvature(reading.stability_ratio, prober.top_vector)
        self._journal.write("curvature", reading)
        edge = edge_reading(seen, reading, preconditioner, before=before)
        if edge.since is not None:
            self._journal.write("growth", _growth(seen.step, edge))
        self._run.record_curvature(
            seen.step,
            edge,
            learning_rates=self._subject.future_rates(seen.step),
        )

    def _measure_noise(
        self, prober: Prober, at: ProbedStep, preconditioner: Preconditioner, joint: Joint
    ) -> float | None:
        seen = at.seen
        reading = prober.probe_noise(
            at.batch,
            preconditioner,
            step=seen.step,
            # That of this process is not known any more where it was averaged.
            loss=seen.loss if joint.size == 1 else math.nan,
            usual=at.usual_examples,
            joint=joint,
        )
        values = None if reading is None else self._noise_values(reading)
        if self._guarded is not None and prober.noise.meaningless:
            self._guarded.forget_noise()
            if not self._meaningless_noted:
                self._meaningless_noted = True
                self._journal.event(seen.step, "noise left out", f"guard: {MEANINGLESS}", level=None)
        elif self._guarded is not None and values is not None and self._run.is_settled(seen.step):
            self._guarded.record_noise(**values)
        for remark in prober.noise.take_remarks():
            level = logging.WARNING if remark.warning else logging.INFO
            self._journal.event(seen.step, remark.name, remark.message, level=level)
        # Without noise the forecast rests on single batches, and says so.
        self._run.noise_expected = not prober.noise.given_up
        self._left_out = prober.noise.pending
        if reading is None or values is None:
            return None
        self._journal.write("noise", reading)
        self._run.record_noise(seen.step, **values)
        return reading.passes

    def _noise_values(self, reading: NoiseReading) -> dict[str, float]:
        variance = self._population_factor(reading) * reading.variance
        return {"mean": reading.mean, "variance": variance, "noise_factor": reading.noise_factor}

    def _population_factor(self, reading: NoiseReading) -> float:
        """Return how much less batches of this run differ than fresh ones, from the size of its data set."""
        try:
            return population_factor(reading.examples, self._subject.examples)
        except ValueError as error:
            if not self._population_told:
                self._journal.event(reading.step, "wrong examples", f"{error}; it is not used")
            self._population_told = True
            return 1.0

    def _explained(self, step: int, error: Exception, batch: Any) -> Exception:
        if isinstance(error, torch.OutOfMemoryError):
            return explain_lack_of_memory(error)
        if self._consistency is None or isinstance(error, ProbeRefusedError):
            return error
        with kept_options(self._subject.optimizers):
            return self._consistency.explain(step, error, batch)

    def _record_failure(self, step: int, error: Exception) -> None:
        self._failures.failed(f"the probe of step {step} failed", error)
        if isinstance(error, ProbeRefusedError):
            self._run.mark_unavailable(step, f"no probe: {error}")
            self._journal.event(step, "no probe", f"{error} (no more probes in this run)", level=None)
            return
        message = f"{type(error).__name__}: {error}"
        if self._failures.given_up:
            message += f" ({self._failures.in_a_row} failures in a row: no more probes in this run)"
        self._run.mark_unavailable(step, f"the probe failed: {message}")
        # `Failures` has logged it, once a cause; the run log gets each one.
        self._journal.event(step, "probe failed", message, level=None)


def _growth(step: int, edge: EdgeReading) -> dict[str, float | int | None]:
    """Return what made the ratio grow since the last measurement: of ln(ratio), a step."""
    return {
        "step": step,
        "since": edge.since,
        "stability_ratio": edge.stability_ratio,
        "learning_rate": edge.learning_rate,
        "preconditioner_growth": edge.preconditioner_growth,
        "landscape_growth": edge.landscape_growth,
    }
