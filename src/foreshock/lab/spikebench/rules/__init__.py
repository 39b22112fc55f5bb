"""Alarm rules of practice and of the literature, all reading the same traces."""

from foreshock.lab.spikebench.rules.curvature import CURVATURE_RULES
from foreshock.lab.spikebench.rules.loss import LOSS_RULES
from foreshock.lab.spikebench.rules.noise import NOISE_RULES
from foreshock.lab.spikebench.rules.norms import NORM_RULES
from foreshock.lab.spikebench.rules.rule import Rule, cost_per_step
from foreshock.lab.spikebench.rules.state import STATE_RULES

RULES: tuple[Rule, ...] = (*LOSS_RULES, *NORM_RULES, *CURVATURE_RULES, *STATE_RULES, *NOISE_RULES)

__all__ = ["RULES", "Rule", "cost_per_step"]
