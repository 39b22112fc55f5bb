"""What a policy decided is done: to the step about to be taken, or from now on."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.optim import Optimizer

from foreshock.forecast import NoiseAverage
from foreshock.guarding.altering.directions import find_directions
from foreshock.guarding.altering.remedies import HeldOptions, Workbench
from foreshock.guarding.families import Family, Slot, all_parameters
from foreshock.guarding.measuring import Displacement, Reduction
from foreshock.guarding.policies import Decision
from foreshock.guarding.tracking import ClipRecord, NaturalMoment


class Acting:
    """Do to one optimizer what is decided, and have what the guard remembers take it into account.

    Args:
        optimizer: The optimizer, unwrapped.
        family: How to read it.

    Attributes:
        natural: The second moment as it would be without the guard.
        pairs: The noise of mini-batches, as far as it was measured.
        clips: By what gradients were multiplied.
        rate_factor: By what the learning rate is multiplied from now on.
        failure: What went wrong after a part was done; None if nothing did. What was done is told first.
    """

    def __init__(self, optimizer: Optimizer, family: Family) -> None:
        self._optimizer, self._family, self._held = optimizer, family, HeldOptions()
        self.natural, self.pairs, self.clips = NaturalMoment(), NoiseAverage(), ClipRecord()
        self.rate_factor = 1.0
        self.failure: Exception | None = None

    def apply(
        self,
        decisions: Sequence[Decision],
        slots: Sequence[Slot],
        reduction: Reduction,
        *,
        displacement: Displacement,
        vector: Tensor | None,
    ) -> list[Decision]:
        """Do what was decided, if all of it can be done as far as that is known before.

        Args:
            decisions: What the policy asks for.
            slots: The parameters that have a gradient and a state.
            reduction: Sums over processes.
            displacement: The last step.
            vector: The measured eigenvector, shape (n,) over all parameters; or None.

        Returns:
            What was done and changed something. If one fails after others were done, it ends there, and
            `failure` says so.

        Raises:
            ValueError: If one of them can't be done: nothing was.
        """
        parameters = all_parameters(self._optimizer)
        workbench = Workbench(
            self._optimizer,
            self._family,
            slots,
            natural=self.natural,
            reduction=reduction,
            directions=find_directions(slots, displacement, vector=vector, parameters=parameters),
        )
        for decision in decisions:
            workbench.require(decision)
        return self._apply(decisions, workbench)

    def _apply(self, decisions: Sequence[Decision], workbench: Workbench) -> list[Decision]:
        done: list[Decision] = []
        try:
            for decision in decisions:
                if not workbench.apply(decision):
                    continue
                done.append(decision)
                if decision.remedy == "raise all":
                    self.pairs.lower(decision.factor)
        except Exception as error:
            if not done:
                raise
            self.failure = RuntimeError(
                f"only {len(done)} of {len(decisions)} decisions could be carried out: "
                f"{type(error).__name__}: {error}"
            )
        finally:
            self.clips.multiplied(workbench.gradient_factor)
            self.rate_factor *= workbench.rate_factor
        return done

    def hold(self, *, decay: bool) -> None:
        """Change the options that differ while a step is made.

        Args:
            decay: Whether decoupled weight decay shrinks with the steps.
        """
        groups = self._optimizer.param_groups
        self._held.hold(groups, {"lr": self.rate_factor})
        if decay:
            decoupled = [g for g in groups if g.get("decoupled_weight_decay", self._family.decoupled)]
            self._held.hold(decoupled, {"weight_decay": self.natural.decay_factor})

    def restore(self) -> None:
        """Put options back that were changed for one step."""
        self._held.restore()

    def forget(self) -> None:
        """Begin anew: the optimizer got another state. A lower learning rate stays."""
        self.natural, self.pairs, self.clips = NaturalMoment(), NoiseAverage(), ClipRecord()
