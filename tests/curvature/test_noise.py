"""The noise of the curvature against closed forms: on a quadratic, differences of gradients are exact."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn, optim

from foreshock.batches import MicroBatches, split_batch
from foreshock.curvature import NoiseReading, loss_terms, measure_noise
from foreshock.dynamics import adam_recursion, mean_square_ratio
from foreshock.isolation import isolated
from foreshock.operators import LossTerm
from foreshock.preconditioner import Preconditioner, read_preconditioner

FEATURES = 6


def half_squares(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    inputs, targets = batch
    error: Tensor = model(inputs).squeeze(-1) - targets
    return (error**2).mean() / 2


def data(examples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(examples, FEATURES, generator=generator, dtype=torch.float64)
    return inputs, torch.randn(examples, generator=generator, dtype=torch.float64)


def regression(
    optimizer: type[optim.Optimizer] = optim.Adam, **options: object
) -> tuple[nn.Module, Preconditioner]:
    """Return a linear model with gradients, and the step that its optimizer is about to take."""
    torch.manual_seed(1)
    model = nn.Linear(FEATURES, 1, bias=False, dtype=torch.float64)
    made = optimizer(model.parameters(), lr=0.05, **options)  # type: ignore[call-arg]
    half_squares(model, data(32)).backward()
    return model, read_preconditioner(made)


def measure(
    model: nn.Module, preconditioner: Preconditioner, batch: object, direction: Tensor | None = None
) -> tuple[NoiseReading, Tensor]:
    terms = loss_terms(model, half_squares, split_batch(batch))
    assert not callable(terms)
    with isolated(model):
        return measure_noise(terms, preconditioner, step=7, direction=direction, model=model)


def symmetric(preconditioner: Preconditioner, inputs: Tensor) -> Tensor:
    root = preconditioner.scale_root()
    return root[:, None] * (inputs.T @ inputs / len(inputs)) * root


def test_mean_and_variance_are_those_of_the_two_halves() -> None:
    model, preconditioner = regression()
    batch = data(32)
    w = torch.nn.functional.normalize(torch.ones(FEATURES, dtype=torch.float64), dim=0)
    reading, _ = measure(model, preconditioner, batch, w)
    even, odd = (symmetric(preconditioner, batch[0][start::2]) @ w for start in (0, 1))
    assert reading.mean == pytest.approx(float(w @ (even + odd) / 2), rel=1e-8)
    assert reading.variance == pytest.approx(float(((even - odd) ** 2).sum() / 4), rel=1e-8)
    assert reading.variance_along == pytest.approx(float((w @ (even - odd)) ** 2 / 4), rel=1e-8)
    assert (reading.step, reading.parts) == (7, 2)


def test_unequal_micro_batches_are_weighted_by_their_counts() -> None:
    model, preconditioner = regression()
    inputs, targets = data(30)
    pieces = [(inputs[:10], targets[:10]), (inputs[10:14], targets[10:14]), (inputs[14:], targets[14:])]
    w = torch.nn.functional.normalize(torch.ones(FEATURES, dtype=torch.float64), dim=0)
    reading, _ = measure(model, preconditioner, MicroBatches(pieces), w)
    products = [symmetric(preconditioner, piece[0]) @ w for piece in pieces]
    shares = [len(piece[0]) / 30 for piece in pieces]
    middle = sum(share * product for share, product in zip(shares, products, strict=True))
    expected = sum(
        share * float(((product - middle) ** 2).sum())
        for share, product in zip(shares, products, strict=True)
    )
    assert reading.mean == pytest.approx(float(w @ symmetric(preconditioner, inputs) @ w), rel=1e-8)
    assert reading.variance == pytest.approx(expected / 2, rel=1e-8)


def test_the_variance_is_that_between_batches() -> None:
    """400 estimates of about 5 degrees of freedom: their mean is good to 1/√(400·5/2) = 3 %; four of them."""
    model, preconditioner = regression()
    w = torch.nn.functional.normalize(torch.arange(1.0, FEATURES + 1, dtype=torch.float64), dim=0)
    estimates, products = [], []
    for seed in range(400):
        batch = data(16, seed=seed)
        estimates.append(measure(model, preconditioner, batch, w)[0].variance)
        products.append(symmetric(preconditioner, batch[0]) @ w)
    between = torch.stack(products).var(dim=0).sum()
    assert sum(estimates) / 400 == pytest.approx(float(between), rel=0.13)


@pytest.mark.parametrize(
    ("optimizer", "options", "factor"),
    [
        (optim.Adam, {"betas": (0.9, 0.999)}, 19.0),
        (optim.AdamW, {"betas": (0.0, 0.999)}, 1.0),
        (optim.RMSprop, {"momentum": 0.5}, 3.0),
        (optim.SGD, {"momentum": 0.9}, 19.0),
        (optim.SGD, {}, 1.0),
        (optim.Adagrad, {}, 1.0),
    ],
)
def test_momentum_discounts_the_mean_but_not_the_noise(
    optimizer: type[optim.Optimizer], options: dict[str, object], factor: float
) -> None:
    model, preconditioner = regression(optimizer, **options)
    reading, _ = measure(model, preconditioner, data(32))
    assert reading.noise_factor == pytest.approx(factor, rel=1e-8)


@pytest.mark.parametrize(
    ("optimizer", "options"), [(optim.SGD, {"momentum": 0.8, "nesterov": True}), (optim.NAdam, {})]
)
def test_a_step_with_a_share_of_the_gradient_has_the_factor_of_its_recursion(
    optimizer: type[optim.Optimizer], options: dict[str, object]
) -> None:
    model, preconditioner = regression(optimizer, **options)
    reading, _ = measure(model, preconditioner, data(32))
    ratio = mean_square_ratio(
        preconditioner.recursion, learning_rate=2.0, mean=reading.mean, variance=reading.variance
    )
    expected = reading.mean + reading.noise_factor * reading.variance / reading.mean
    assert ratio == pytest.approx(expected, rel=1e-6)
    assert reading.noise_factor < 19


def test_the_mean_square_ratio_of_adam_is_the_one_in_its_own_units() -> None:
    model, preconditioner = regression(betas=(0.9, 0.999))
    reading, _ = measure(model, preconditioner, data(32))
    scale = preconditioner.covered[0].momentum_factor * 0.05 / 2
    ratio = mean_square_ratio(
        adam_recursion(0.9, step=1),
        learning_rate=0.05,
        mean=reading.mean / scale,
        variance=reading.variance / scale**2,
    )
    assert ratio == pytest.approx(reading.mean + 19 * reading.variance / reading.mean, rel=1e-8)


def test_the_direction_becomes_the_top_eigenvector() -> None:
    """A power iteration on 0.3-steps: (1 + .3)ᵏ and a gap of 20 % leave less than 1e-3 after 200."""
    model, preconditioner = regression()
    batch = data(32)
    direction = None
    for _ in range(200):
        reading, direction = measure(model, preconditioner, batch, direction)
    top = float(torch.linalg.eigvalsh(symmetric(preconditioner, batch[0]))[-1])
    assert reading.mean == pytest.approx(top, rel=1e-3)


def test_the_gradient_splits_into_signal_and_noise() -> None:
    model, preconditioner = regression()
    batch = data(32)
    reading, _ = measure(model, preconditioner, batch)
    root = preconditioner.scale_root()
    halves = []
    for start in (0, 1):
        model.zero_grad()
        half_squares(model, (batch[0][start::2], batch[1][start::2])).backward()
        halves.append(root * next(model.parameters()).grad.flatten())
    noise = float(((halves[0] - halves[1]) ** 2).sum() / 4)
    assert reading.gradient_noise == pytest.approx(noise, rel=1e-8)
    assert reading.gradient_signal == pytest.approx(float(halves[0] @ halves[1]), rel=1e-8)


def test_a_loss_that_is_no_mean_shows() -> None:
    model, preconditioner = regression()
    batch = data(32)
    whole = half_squares(model, batch).item()
    terms = loss_terms(model, half_squares, split_batch(batch))
    with isolated(model):
        right, _ = measure_noise(terms, preconditioner, step=0, loss=whole)
        wrong, _ = measure_noise(terms, preconditioner, step=0, loss=2 * whole)
    assert right.loss_mismatch < 1e-12
    assert wrong.loss_mismatch == pytest.approx(0.5)


def test_the_variance_is_that_of_random_numbers_too() -> None:
    """The loss is mean(zθ²/2) with fresh z: H_B = mean(z), the same for all data, so all noise is that of z.

    400 estimates of one degree of freedom each: their mean is good to √(2/400) = 7 %; three of them.
    """
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    weight.grad = torch.ones_like(weight)
    preconditioner = read_preconditioner(optim.SGD([weight], lr=2.0))

    def loss(examples: int) -> Tensor:
        return (torch.rand(examples, dtype=torch.float64) * weight**2).mean() / 2

    estimates = []
    for seed in range(400):
        torch.manual_seed(seed)
        terms = [LossTerm(lambda: loss(8), 8.0), LossTerm(lambda: loss(8), 8.0)]
        estimates.append(measure_noise(terms, preconditioner, step=0)[0])
    # At η = 2 curvatures are in multiples of one; z is uniform, with variance 1/12.
    assert sum(one.variance for one in estimates) / 400 == pytest.approx(1 / 12 / 16, rel=0.21)
    assert sum(one.mean for one in estimates) / 400 == pytest.approx(0.5, rel=0.02)


def test_both_points_of_a_part_have_the_same_random_numbers() -> None:
    """Of a loss that is linear in θ the curvature is zero, whatever is drawn."""
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    weight.grad = torch.ones_like(weight)
    preconditioner = read_preconditioner(optim.SGD([weight], lr=1.0))
    term = LossTerm(lambda: (torch.rand(4, dtype=torch.float64) * weight).mean())
    reading, _ = measure_noise([term, term], preconditioner, step=0)
    assert reading.mean == pytest.approx(0, abs=1e-14)
    assert reading.variance == pytest.approx(0, abs=1e-28)
    assert reading.gradient_noise > 1e-3


def test_a_direction_of_coordinates_that_do_not_move_any_more_starts_anew() -> None:
    model, preconditioner = regression()
    fresh, _ = measure(model, preconditioner, data(32))
    lost, _ = measure(model, preconditioner, data(32), torch.zeros(FEATURES, dtype=torch.float64))
    assert lost.mean == fresh.mean


def test_one_part_has_no_variance() -> None:
    model, preconditioner = regression()
    with pytest.raises(ValueError, match="at least two micro-batches"):
        measure_noise([LossTerm(lambda: half_squares(model, data(8)))], preconditioner, step=0)


def test_a_loss_that_overflows_is_an_error() -> None:
    model, preconditioner = regression()
    terms = [LossTerm(lambda: half_squares(model, data(8)) * math.inf)] * 2
    with pytest.raises(FloatingPointError, match="not finite"):
        measure_noise(terms, preconditioner, step=0)


def test_a_second_moment_that_overflowed_is_said_to_be_what_holds_the_step() -> None:
    """It moves nothing then, though its learning rate is above zero."""
    torch.manual_seed(1)
    model = nn.Linear(FEATURES, 1, bias=False, dtype=torch.float64)
    optimizer = optim.Adam(model.parameters(), lr=0.05)
    batch = data(32)
    half_squares(model, batch).backward()
    optimizer.step()
    optimizer.state[model.weight]["exp_avg_sq"].fill_(math.inf)
    terms = [LossTerm(lambda: half_squares(model, data(8)))] * 2
    with pytest.raises(ValueError, match=r"the learning rate is above 0: .* second moment has overflowed"):
        measure_noise(terms, read_preconditioner(optimizer), step=1)
