"""The points that are fitted are those of the largest penalised likelihood."""

from __future__ import annotations

import numpy as np
import pytest

from foreshock.forecast.probability import read_card
from foreshock.lab.spikebench.fitting import Signed, fit_card, log_odds
from lab.spikebench.traces import meta

NAMES = ("burst", "lag", "rate")


def runs(share: float, count: int = 100, n: int = 200) -> list[Signed]:
    """Return runs in which a spike follows where something is large that three signs show, this often."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(count):
        danger = random.normal(size=n)
        signs = {name: 3 * danger + random.normal(size=n) for name in NAMES}
        soon = {50: danger > np.quantile(danger, 1 - share)}
        found.append(Signed(meta(), np.arange(n), signs, soon, {50: np.ones(n, dtype=bool)}))
    return found


@pytest.mark.parametrize("share", [0.3, 0.03, 0.01])
def test_the_mean_probability_is_the_share_of_spikes_however_rare(share):
    """The constant is not penalised: where the likelihood is largest the two are equal."""
    members = runs(share)
    card = fit_card(members, NAMES, (50,))
    odds = np.concatenate([log_odds(card, run, 50) for run in members])
    soon = np.concatenate([run.soon[50] for run in members])
    assert np.mean(1 / (1 + np.exp(-odds))) == pytest.approx(soon.mean(), rel=0.02)
    assert odds[soon].mean() > odds[~soon].mean() + 1


def test_the_product_adds_up_the_points_as_the_laboratory_does():
    [run, *_] = members = runs(0.1, count=20)
    run.signs["lag"][::3] = np.nan
    plain = fit_card(members, NAMES, (50,)) | {"deviation": 0.5}
    card = read_card(plain)
    unused = {"ratio": np.nan, "growth": np.nan}
    each = [
        card.log_odds({name: float(values[i]) for name, values in run.signs.items()} | unused, 50)
        for i in range(run.steps.size)
    ]
    np.testing.assert_allclose(log_odds(plain, run, 50), each, rtol=1e-9, atol=1e-9)
