"""All policies by the name that a user gives; further ones can be registered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from types import MappingProxyType
from typing import Any, get_args

from foreshock.guarding.policies.auto import Auto
from foreshock.guarding.policies.change_option import LowerBeta2, LowerRate, RaiseEpsilon
from foreshock.guarding.policies.curvature import CurvatureDriven
from foreshock.guarding.policies.forecast import ForecastDriven
from foreshock.guarding.policies.mean_square import MeanSquare
from foreshock.guarding.policies.outlier import Outlier
from foreshock.guarding.policies.policy import Measure, Policy
from foreshock.guarding.policies.rising import Rising
from foreshock.guarding.policies.secant import Secant

POLICIES: Mapping[str, Callable[[], Policy]] = MappingProxyType(
    {
        "auto": Auto,
        "secant": Secant,
        "mean_square": MeanSquare,
        "rising": Rising,
        "outlier": Outlier,
        "curvature": CurvatureDriven,
        "forecast": ForecastDriven,
        "epsilon": RaiseEpsilon,
        "beta2": LowerBeta2,
        "lr": LowerRate,
    }
)
"""The built-in policies by name."""

_REGISTERED: dict[str, Callable[[], Policy]] = {}

_METHODS = ("decide", "state_dict", "load_state_dict")
_MEMBERS = ("name", "needs", "exact_above", "scales_decay", *_METHODS)


def register_policy(name: str, make: Callable[[], Policy]) -> None:
    """Let a policy of your own be chosen by name, as in ``foreshock.guard(optimizer, "mine")``.

    Args:
        name: The name. One that was registered before is replaced.
        make: Makes a policy, without arguments: its class, or a function. It is called once here, as a check,
            and once for each guard.

    Raises:
        TypeError: If `name` is no string, `make` can't be called, or what it makes lacks members of
            `foreshock.guarding.Policy`.
        ValueError: If a built-in policy has that name, or it is empty, or it needs what nobody measures.

    Example:
        >>> import torch, foreshock
        >>> from foreshock.guarding import Secant
        >>> foreshock.register_policy("early", lambda: Secant(threshold=0.8))
        >>> optimizer = torch.optim.Adam([torch.ones(1, requires_grad=True)])
        >>> foreshock.guard(optimizer, "early").policy
        Secant(threshold=0.8)
    """
    if not isinstance(name, str):
        raise TypeError(f"name is {name!r}; the name of a policy is a string")
    if not name.strip():
        raise ValueError(
            f"name is {name!r}, which is empty; give the policy a name by which a user can choose it"
        )
    if name in POLICIES:
        raise ValueError(
            f"{name!r} is the name of a built-in policy ({', '.join(POLICIES)}): choose another one"
        )
    if not callable(make):
        raise TypeError(
            f"make is {make!r}, which can't be called: pass the class of the policy, or a function without "
            "arguments that returns one"
        )
    require_policy(make(), f"what make returned for the policy {name!r}")
    _REGISTERED[name] = make


def make_policy(name: str) -> Policy:
    """Return a new policy.

    Args:
        name: Its name.

    Raises:
        ValueError: If there is no such policy.
    """
    make = POLICIES.get(name) or _REGISTERED.get(name)
    if make is None:
        raise ValueError(
            f"there is no policy {name!r}; there are {', '.join(policy_names())}: register one of your own "
            "with foreshock.register_policy(name, make)"
        )
    return make()


def policy_names() -> tuple[str, ...]:
    """Return the names that `make_policy` knows."""
    return (*POLICIES, *_REGISTERED)


def require_policy(policy: object, what: str = "policy") -> None:
    """Refuse an object that is no policy.

    Args:
        policy: The object.
        what: What it is called in the message.

    Raises:
        TypeError: If it is none, with what it lacks or what is of another type.
        ValueError: If it needs something to be measured that nobody measures.
    """
    allowed = f"a policy is one of the names {', '.join(policy_names())}, or an object with options: Secant()"
    if isinstance(policy, type):
        raise TypeError(f"{what} is the class {policy.__name__}; {allowed}: call it, {policy.__name__}()")
    missing = [member for member in _MEMBERS if not hasattr(policy, member)]
    if missing:
        raise TypeError(f"{what} is {policy!r}, which has no {', '.join(missing)}; {allowed}")
    _require_members(policy, what)


def _require_members(policy: Any, what: str) -> None:
    """Refuse members of the wrong type: in training they would fail at each step, or be passed over."""
    for member in _METHODS:
        if not callable(getattr(policy, member)):
            raise TypeError(f"{member} of {what} is {getattr(policy, member)!r}; it must be a method")
    if not isinstance(policy.name, str):
        raise TypeError(f"name of {what} is {policy.name!r}; the name of a policy is a string")
    if not isinstance(policy.exact_above, (int, float)):
        raise TypeError(
            f"exact_above of {what} is {policy.exact_above!r}; it must be a number: math.inf where "
            "the secant isn't used"
        )
    needs = policy.needs
    if not isinstance(needs, Set):
        raise TypeError(f"needs of {what} is {needs!r}; it must be a set: frozenset({{'secant'}})")
    unknown = sorted(map(str, needs - set(get_args(Measure))))
    if unknown:
        raise ValueError(
            f"needs of {what} has {', '.join(map(repr, unknown))}, which nobody measures; there are "
            f"{', '.join(map(repr, get_args(Measure)))}"
        )
