"""All policies by the name that a user gives; further ones can be registered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from foreshock.guarding.policies.auto import Auto
from foreshock.guarding.policies.change_option import LowerBeta2, LowerRate, RaiseEpsilon
from foreshock.guarding.policies.curvature import CurvatureDriven
from foreshock.guarding.policies.mean_square import MeanSquare
from foreshock.guarding.policies.outlier import Outlier
from foreshock.guarding.policies.policy import Policy
from foreshock.guarding.policies.secant import Secant

POLICIES: Mapping[str, Callable[[], Policy]] = MappingProxyType(
    {
        "auto": Auto,
        "secant": Secant,
        "mean_square": MeanSquare,
        "outlier": Outlier,
        "curvature": CurvatureDriven,
        "epsilon": RaiseEpsilon,
        "beta2": LowerBeta2,
        "lr": LowerRate,
    }
)
"""The built-in policies by name."""

_REGISTERED: dict[str, Callable[[], Policy]] = {}

_MEMBERS = ("name", "needs", "exact_above", "scales_decay", "decide", "state_dict", "load_state_dict")


def register_policy(name: str, make: Callable[[], Policy]) -> None:
    """Let a policy of your own be chosen by name, as in ``foreshock.guard(optimizer, "mine")``.

    Args:
        name: The name. One that was registered before is replaced.
        make: Makes a policy, without arguments: its class, or a function. It is called once here, as a check,
            and once for each guard.

    Raises:
        TypeError: If `name` is no string, `make` can't be called, or what it makes lacks members of
            `foreshock.guarding.Policy`.
        ValueError: If a built-in policy has that name, or it is empty.

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
    if not name:
        raise ValueError("name is empty; give the policy a name by which a user can choose it")
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
        TypeError: If it is none, with what it lacks.
    """
    allowed = f"a policy is one of the names {', '.join(policy_names())}, or an object with options: Secant()"
    if isinstance(policy, type):
        raise TypeError(f"{what} is the class {policy.__name__}; {allowed}: call it, {policy.__name__}()")
    missing = [member for member in _MEMBERS if not hasattr(policy, member)]
    if missing:
        raise TypeError(f"{what} is {policy!r}, which has no {', '.join(missing)}; {allowed}")
