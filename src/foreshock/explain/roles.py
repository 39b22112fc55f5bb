"""Attention logits and routers: whether the unstable direction lies in the weights that make them.

The logits of attention are products of queries and keys, those of a router pick experts; both are known to
grow without bound (Wortsman et al. 2023, arXiv 2309.14322; Zoph et al. 2022, arXiv 2202.08906). A log has
no logits. What it has is the table of tensors: which of them hold the top eigenvector, and which norms grew.
So a place is named here and never a cause: large logits alone are harmless, and stable runs have them, too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from foreshock.explain.layers import numberless
from foreshock.explain.tensors import TensorRow, TensorTable

_MOST = 0.5  # of the top eigenvector: what holds that much is where it happens
_CLEAR = re.compile(
    r"^(q_proj|k_proj|q_lin|k_lin|to_q|to_k|to_qkv|wq|wk|w_q|w_k|qkv|qkv_proj|wqkv|c_attn|query_key_value)$"
)
_INSIDE = re.compile(r"^(q|k|query|key|in_proj|in_proj_weight|in_proj_bias|q_proj_weight|k_proj_weight)$")
_ATTENTION = re.compile(r"att(ention|n)|mha", re.IGNORECASE)
_ROUTER = re.compile(r"^(router|gate|wg|switch)$")
_EXPERTS = re.compile(r"expert|moe|router|switch", re.IGNORECASE)


_NOTHING: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class RolePlace:
    """A role whose tensors hold most of the unstable direction.

    Attributes:
        words: What they hold, and how their norms grew.
        advice: What helps there.
    """

    words: str
    advice: str


_ADVICE = {
    "attention logits": (
        "The unstable direction lies in query and key weights: normalise queries and keys before their "
        "product (QK-norm), or give these weights a smaller learning rate; both bound the attention logits."
    ),
    "router": (
        "The unstable direction lies in the router: compute its logits in float32 and add a router z-loss, "
        "which keeps them small; a smaller learning rate for the router helps, too."
    ),
}


def role_of(name: str, types: Mapping[str, str]) -> str:
    """Return what a parameter makes: ``"attention logits"``, ``"router"``, or nothing that is known.

    Args:
        name: Its name in the model.
        types: Class names of the modules by their names, see `foreshock.explain.layers`.

    Example:
        >>> role_of("h.0.attn.c_attn.weight", {}), role_of("layers.3.mlp.gate_proj.weight", {})
        ('attention logits', '')
        >>> role_of("layers.3.mlp.gate.weight", {"layers.3.mlp": "MixtralSparseMoeBlock"})
        'router'
    """
    parts = name.split(".")
    modules = [".".join(parts[:i]) for i in range(1, len(parts) + 1)]
    around = [*parts, *(types.get(one) or types.get(numberless(one)) or "" for one in modules)]
    known = [part.lower() for part in parts]
    if any(_CLEAR.match(part) for part in known):
        return "attention logits"
    if any(_INSIDE.match(part) for part in known) and any(_ATTENTION.search(one) for one in around):
        return "attention logits"
    if any(_ROUTER.match(part) for part in known) and any(_EXPERTS.search(one) for one in around):
        return "router"
    return ""


def role_places(
    table: TensorTable | None, types: Mapping[str, str], *, blocks: Mapping[str, float] = _NOTHING
) -> list[RolePlace]:
    """Return the roles whose tensors hold most of the unstable direction.

    Args:
        table: The table of tensors near an event; None if there is none.
        types: Class names of the modules by their names.
        blocks: Modules with their shares of the unstable direction, as last measured before the onset: they
            count where they have such tensors, since a table may be from before or after it.
    """
    rows: dict[str, list[TensorRow]] = {}
    for row in table.rows if table is not None else ():
        if role := role_of(row.name, types):
            rows.setdefault(role, []).append(row)
    shares: dict[str, dict[str, float]] = {}
    for name, share in blocks.items():
        if share > 0 and (role := role_of(name, types)):
            shares.setdefault(role, {})[name] = share
    if not shares:
        shares = {role: {row.name: row.share for row in of if row.share > 0} for role, of in rows.items()}
    return [
        RolePlace(_words(role, of, rows.get(role, [])), _ADVICE[role])
        for role, of in shares.items()
        if sum(of.values()) >= _MOST
    ]


def _words(role: str, shares: Mapping[str, float], rows: list[TensorRow]) -> str:
    what = (
        "query and key weights, which make the attention logits" if role == "attention logits" else "router"
    )
    largest, share = max(shares, key=lambda name: shares[name]), min(sum(shares.values()), 1.0)
    grew = max((row.norm_growth for row in rows if math.isfinite(row.norm_growth)), default=math.nan)
    growth = f"; the norm of one grew {grew:.2f}-fold" if grew >= 1.1 else ""
    return f"{what}: {100 * share:.0f} % of the unstable direction, most in {largest}{growth}"
