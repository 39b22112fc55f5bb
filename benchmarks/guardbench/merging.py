"""Put newly scored methods beside those that were scored before, on the same trainings of plain Adam."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foreshock.lab.guardbench.methods import METHODS

_SAME = ("config", "split", "group", "family", "rate", "steps", "plain_spikes", "plain_loss")


def merge(new: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return scores in which all methods of the new ones replace those of the kept ones.

    Args:
        new: What `foreshock.lab.guardbench.comparison.compare` returned, as read back from its file.
        kept: Scores of an earlier run of the same suite.

    Returns:
        Scores of the methods of both. Costs are those of `new` if it has any: times of different runs can't
        be compared.

    Raises:
        ValueError: If plain Adam did not do the same in both: other seeds, tasks, settings, or a machine
            that rounds otherwise.
    """
    for name in ("seeds", "tasks"):
        ours, theirs = ([_about(one) for one in scores[name]] for scores in (new, kept))
        if ours != theirs:
            different = [str(one) for one in ours if one not in theirs] or ["fewer of them"]
            raise ValueError(
                f"the {name} of the two scorings differ, or what plain Adam did there ({different[0]}): run "
                "all methods anew instead of keeping old results"
            )
    tasks = [
        one | {"methods": _together(one["methods"], old["methods"])}
        for one, old in zip(new["tasks"], kept["tasks"], strict=True)
    ]
    scores = {
        split: {name: _together(found, kept["scores"][split][name]) for name, found in groups.items()}
        for split, groups in new["scores"].items()
    }
    return {**new, "tasks": tasks, "scores": scores, "costs": new.get("costs") or kept.get("costs")}


def _about(one: Any) -> Any:
    return {field: one[field] for field in _SAME} if isinstance(one, Mapping) else one


def _together(new: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
    both = {**kept, **new}
    return {one.name: both[one.name] for one in METHODS if one.name in both}
