"""v against the landscape, where one of the two is known not to move."""

import math

import pytest
import torch

from foreshock.lab.reproduction.frozen import CauseWatch, Growth


class Moment:
    """A step of ½·a·Σ λθ² at θ = 1 with a second moment of our choice; everything in closed form."""

    curvatures = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)

    def __init__(self, parameter, optimizer, *, step, ratio, loss=1.0):
        self.model = torch.nn.Module()
        self.model.weight = parameter
        self.optimizer, self.step, self.ratio, self.loss = optimizer, step, ratio, loss
        self.batch = None


def quartic(model, batch):
    """The Hessian at θ is diag(batch·λ·3θ²): the landscape moves with θ."""
    return batch * (Moment.curvatures * model.weight**4).sum() / 4


def run(decay, move, *, full_batch=True, losses=None, steps=90, cross=80):
    """Let v shrink by `decay` and θ grow by `move` every step, and return what a watch found."""
    parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = torch.optim.Adam([parameter], lr=0.1, betas=(0.9, 0.999), eps=0)
    watch = CauseWatch(torch.tensor(1.0, dtype=torch.float64), full_batch=full_batch, start=60)
    for step in range(steps):
        with torch.no_grad():
            parameter.fill_(math.exp(move * step))
        parameter.grad = torch.full_like(parameter, 1e-12)
        optimizer.state[parameter] = {
            # At 10⁶ steps the bias correction is over.
            "step": torch.tensor(1e6),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.full_like(parameter, math.exp(-decay * step)),
        }
        loss = 1.0 if losses is None else losses[step]
        moment = Moment(parameter, optimizer, step=step, ratio=1.1 if step == cross else 0.9, loss=loss)
        moment.loss_fn = quartic
        watch(moment)
    assert torch.allclose(parameter, torch.full_like(parameter, math.exp(move * (steps - 1))))
    return watch.growths


def test_only_v_moves():
    [growth] = run(decay=0.002, move=0.0)
    assert (growth.step, growth.length) == (80, 40)
    # D = √v: ln λ grows by half the decay, and by −½ ln β₂ for the step about to be taken at both ends alike.
    assert growth.total == pytest.approx(0.04, rel=1e-6)
    assert growth.preconditioner == pytest.approx(0.04, rel=1e-6)
    assert growth.landscape == pytest.approx(0.0, abs=1e-9)
    assert growth.share == pytest.approx(1.0)


def test_only_the_landscape_moves():
    [growth] = run(decay=0.0, move=0.001)
    # H ∝ θ²: ln λ grows by twice the growth of ln θ.
    assert growth.landscape == pytest.approx(0.08, rel=1e-6)
    assert growth.preconditioner == pytest.approx(0.0, abs=1e-9)
    assert growth.share == pytest.approx(0.0, abs=1e-6)


def test_both_move_and_the_parts_add_up():
    [growth] = run(decay=0.004, move=0.0005)
    assert growth.total == pytest.approx(growth.preconditioner + growth.landscape, rel=1e-6)
    assert growth.share == pytest.approx(2 / 3, rel=1e-6)


def test_in_mini_batches_the_window_ends_before_the_loss_rises():
    losses = [1.0] * 130 + [9.0] * 10
    [growth] = run(decay=0.002, move=0.0, full_batch=False, losses=losses, steps=140, cross=-1)
    # The mean of five passes 3 at the second high loss, step 131; states are kept every ten steps.
    assert (growth.step, growth.length) == (120, 40)
    assert growth.preconditioner == pytest.approx(0.04, rel=1e-6)


def test_a_crossing_counts_once():
    assert len(run(decay=0.002, move=0.0, steps=90, cross=80)) == 1
    assert run(decay=0.002, move=0.0, steps=90, cross=59) == []


@pytest.mark.parametrize(("own", "other", "share"), [(0.3, 0.1, 0.75), (0.3, -0.1, 1.0), (-0.2, 0.1, 0.0)])
def test_the_share_of_the_preconditioner(own, other, share):
    assert Growth(9, 5, own + other, own, other).share == pytest.approx(share)


def test_no_growth_has_no_share():
    assert math.isnan(Growth(9, 5, -0.2, -0.1, -0.1).share)
