"""What is given as a policy is one, and else it is said what would be."""

from __future__ import annotations

import pytest
from torch import optim

import foreshock
from foreshock.guarding import Auto, Secant, guard
from foreshock.optim import GuardedAdamW
from guarding.training import Script, network, squared


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
    with pytest.raises(
        TypeError, match="which has no needs, exact_above, scales_decay, decide, state_dict, "
    ):
        guard(optim.Adam(network().parameters()), type("Named", (), {"name": "mine"})())


def test_a_policy_of_ones_own_needs_no_base_class():
    guard(optim.Adam(network().parameters()), Script())


@pytest.fixture
def registered(monkeypatch):
    """A registry of its own, so that names don't outlive the test."""
    monkeypatch.setattr("foreshock.guarding.policies.registry._REGISTERED", {})


def test_a_registered_policy_is_chosen_by_its_name(registered):
    foreshock.register_policy("mine", lambda: Secant(threshold=0.7))
    first, second = (guard(optim.Adam(network().parameters()), "mine") for _ in range(2))
    assert first.policy == Secant(threshold=0.7)
    assert first.policy is not second.policy
    model = network()
    optimizer = optim.Adam(model.parameters())
    with foreshock.Monitor(model, optimizer, squared, guard="mine") as monitor:
        assert monitor.guard.policy == Secant(threshold=0.7)
    with pytest.raises(ValueError, match=r"no policy 'yours'; there are auto, .*, lr, mine: register"):
        guard(optim.Adam(network().parameters()), "yours")
    foreshock.register_policy("mine", Auto)
    assert guard(optim.Adam(network().parameters()), "mine").policy == Auto()


@pytest.mark.parametrize(
    ("name", "make", "error", "message"),
    [
        ("secant", Secant, ValueError, "'secant' is the name of a built-in policy"),
        ("", Secant, ValueError, "name is '', which is empty"),
        (" ", Secant, ValueError, "name is ' ', which is empty"),
        (3, Secant, TypeError, "name is 3; the name of a policy is a string"),
        ("mine", Secant(), TypeError, "make is Secant.*, which can't be called: pass the class"),
        ("mine", lambda: None, TypeError, "make returned for the policy 'mine' is None, which has no name, "),
        ("mine", lambda: Secant, TypeError, "make returned for the policy 'mine' is the class Secant"),
    ],
)
def test_what_can_not_be_registered_is_refused(registered, name, make, error, message):
    with pytest.raises(error, match=message):
        foreshock.register_policy(name, make)
    with pytest.raises(ValueError, match="there is no policy 'mine'"):
        guard(optim.Adam(network().parameters()), "mine")


@pytest.mark.parametrize(
    ("member", "value", "error", "message"),
    [
        ("needs", None, TypeError, "needs of policy is None; it must be a set"),
        ("needs", "secant", TypeError, "needs of policy is 'secant'; it must be a set"),
        ("needs", ["norm"], TypeError, r"needs of policy is \['norm'\]; it must be a set"),
        (
            "needs",
            {"norm", "sekant"},
            ValueError,
            "needs of policy has 'sekant', .*there are 'secant', 'norm'",
        ),
        ("exact_above", "high", TypeError, "exact_above of policy is 'high'; it must be a number"),
        ("name", None, TypeError, "name of policy is None; the name of a policy is a string"),
        ("decide", 3, TypeError, "decide of policy is 3; it must be a method"),
    ],
)
def test_members_that_would_fail_in_training_are_refused_before_it(member, value, error, message):
    policy = Script()
    setattr(policy, member, value)
    optimizer = optim.Adam(network().parameters())
    with pytest.raises(error, match=message):
        guard(optimizer, policy)
    guard(optimizer)  # nothing was left on it
