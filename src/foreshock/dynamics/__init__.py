r"""How the second moment v follows the squared gradient, or fails to, and the spikes that result.

While g² ≪ v the average only decays, v_t ≈ β₂ v_{t−1}, and the preconditioned curvature grows like
β₂^{−t/2} although the landscape does not change (Bai et al. 2025, arXiv 2506.04805). This package has the
closed forms of that statement, the lag of v, the five stages of the cycle, the expected severity of the next
spike, Adam on quadratics, which are the smallest systems that show it, and the edge of stability under the
noise of mini-batches, which concerns the mean square. Floats and numpy only.
"""

from __future__ import annotations

from foreshock.dynamics.crossings import Excursion, PhaseDiagram, find_excursions, phase_diagram
from foreshock.dynamics.mean_square import (
    mean_square_map,
    mean_square_ratio,
    mean_square_spectral_radius,
    noise_gain,
    population_factor,
)
from foreshock.dynamics.quadratic import AdamSettings, Quadratic
from foreshock.dynamics.recursion import (
    LinearRecursion,
    adam_recursion,
    gradient_descent_recursion,
    heavy_ball_recursion,
    nadam_recursion,
)
from foreshock.dynamics.severity import Severity, severity, steps_to_visible_spike
from foreshock.dynamics.signals import (
    Burst,
    LagWindow,
    SecondMomentLag,
    SecondMomentSums,
    SignalTracker,
    StepStatistics,
    instant_lag,
    second_moment_lag,
)
from foreshock.dynamics.simulation import (
    Moment,
    QuadraticRun,
    QuadraticRuns,
    simulate,
    simulate_adam_on_quadratic,
    trajectory,
)
from foreshock.dynamics.stages import (
    Stage,
    StageEvidence,
    StageRules,
    StageState,
    StageTracker,
    next_stage,
)
from foreshock.dynamics.threshold import Drift, time_to_threshold

__all__ = [
    "AdamSettings",
    "Burst",
    "Drift",
    "Excursion",
    "LagWindow",
    "LinearRecursion",
    "Moment",
    "PhaseDiagram",
    "Quadratic",
    "QuadraticRun",
    "QuadraticRuns",
    "SecondMomentLag",
    "SecondMomentSums",
    "Severity",
    "SignalTracker",
    "Stage",
    "StageEvidence",
    "StageRules",
    "StageState",
    "StageTracker",
    "StepStatistics",
    "adam_recursion",
    "find_excursions",
    "gradient_descent_recursion",
    "heavy_ball_recursion",
    "instant_lag",
    "mean_square_map",
    "mean_square_ratio",
    "mean_square_spectral_radius",
    "nadam_recursion",
    "next_stage",
    "noise_gain",
    "phase_diagram",
    "population_factor",
    "second_moment_lag",
    "severity",
    "simulate",
    "simulate_adam_on_quadratic",
    "steps_to_visible_spike",
    "time_to_threshold",
    "trajectory",
]
