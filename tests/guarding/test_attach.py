"""What is given as a policy is one, and else it is said what would be."""

from __future__ import annotations

import pytest
from torch import optim

from foreshock.guarding import Auto, Secant, guard
from foreshock.optim import GuardedAdamW
from guarding.training import Script, network


@pytest.mark.parametrize("policy", [Secant, Auto, None, 3, {"threshold": 0.9}])
def test_what_is_no_policy_is_refused_and_leaves_the_optimizer_unguarded(policy):
    optimizer = optim.Adam(network().parameters())
    with pytest.raises(TypeError, match="a policy is one of the names auto, secant") as refused:
        guard(optimizer, policy)
    if isinstance(policy, type):
        assert f"policy is the class {policy.__name__};" in str(refused.value)
        assert str(refused.value).endswith(f"call it, {policy.__name__}()")
    guard(optimizer, Secant())
    with pytest.raises(TypeError, match="a policy is one of the names auto, secant"):
        GuardedAdamW(network().parameters(), policy=policy)


def test_what_is_missing_in_a_policy_is_named():
    with pytest.raises(TypeError, match="which has no needs, exact_from, scales_decay, decide, state_dict, "):
        guard(optim.Adam(network().parameters()), type("Named", (), {"name": "mine"})())


def test_a_policy_of_ones_own_needs_no_base_class():
    guard(optim.Adam(network().parameters()), Script())
