"""Muon: an orthogonalised step, which has no stability ratio."""

from __future__ import annotations

import importlib

import torch

from foreshock.preconditioner.live import LiveParameter
from foreshock.preconditioner.record import ParameterStep


def read_muon_step(live: LiveParameter) -> ParameterStep:
    """Return the step that ``torch.optim.Muon`` is about to take (Jordan et al. 2024; Liu et al. 2025).

    The displacement is torch's own, including the Newton–Schulz iteration in bfloat16. The record is marked
    as not linear: the size of the step does not depend on that of the gradient, so the curvature can neither
    amplify nor damp it. There is no threshold 2/η; near a minimum the parameter oscillates with an amplitude
    of the order of η for any curvature. Muon's parameters are therefore left out of the stability ratio,
    which is that of the other parameters with these held fixed.

    Args:
        live: The parameter, a matrix.
    """
    # torch's private functions, so that the iteration agrees bit by bit; imported late, since older versions
    # of torch have no Muon.
    muon = importlib.import_module("torch.optim._muon")
    momentum, group = live.option("momentum"), live.group
    gradient = live.used_gradient()
    buffer = torch.lerp(live.moment("momentum_buffer"), gradient, 1 - momentum)
    blend = torch.lerp(gradient, buffer, momentum) if group["nesterov"] else buffer
    update = muon._zeropower_via_newtonschulz(
        blend, group["ns_coefficients"], group["ns_steps"], group["eps"]
    )
    rate = float(muon._adjust_lr(live.learning_rate, group["adjust_lr_fn"], live.parameter.shape))
    shrinkage = live.learning_rate * live.option("weight_decay")
    return ParameterStep(
        gradient=gradient,
        numerator=update.to(live.parameter.dtype),
        denominator=live.identity(),
        learning_rate=rate,
        momentum_factor=1.0,  # without meaning, since the step is not linear
        # Decay goes with η, not with the rate that is adjusted to the matrix's shape.
        decoupled_decay=shrinkage / rate if rate else 0.0,
        linear=False,
    )
