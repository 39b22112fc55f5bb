"""What followed from advice, counted from files: all that is there, as many starts as there are."""

import math

import pytest

from foreshock.lab.advice import (
    advice_file,
    follow_advice,
    is_complete,
    loss_ratio,
    results_of,
    score_advice,
    start_file,
)
from foreshock.lab.jobs import write_json


def put(folder, name, seed, advice, *starts):
    found = {"name": name, "seed": seed, "group": "mlp", "steps": 1000, "from": 300}
    found |= {"advice": {"advice": advice, "unchanged_spikes": [2, 3]}}
    write_json(found, advice_file(name, seed, folder))
    for start, (before, after) in enumerate(starts, 1):
        parts = {
            which: {"late_loss": loss, "spikes": spikes}
            for which, loss, spikes in (("as_it_was", before, 4), ("advised", after, 1))
        }
        write_json(parts, start_file(name, seed, start, folder))


def test_what_is_there_is_counted(tmp_path):
    put(tmp_path, "mlp-sines", 20, "lr=x0.5", (1.0, 0.5), (2.0, 4.0), (1.0, 0.25))
    put(tmp_path, "mlp-sines", 21, "guard=on", (1.0, None))
    put(tmp_path, "mlp-short", 20, None)
    put(tmp_path, "mlp-short", 21, "guard=on")  # advised, and not trained from any start so far
    results = results_of(tmp_path)
    first, second = (one for one in results if one["name"] == "mlp-sines")
    assert first["advised"] == {"late_loss": [0.5, 4.0, 0.25], "spikes": [1, 1, 1]}
    assert (loss_ratio(first), loss_ratio(second)) == (0.5, math.inf)
    score = score_advice(results)
    assert [score[name] for name in ("trainings", "advised", "better")] == [4, 2, 1]
    assert (score["spikes_as_it_was"], score["spikes_advised"]) == (16, 4)


def test_where_nothing_was_advised_there_is_nothing_to_follow(tmp_path):
    put(tmp_path, "mlp-sines", 20, None)
    with pytest.raises(ValueError, match="advises nothing"):
        follow_advice("mlp-sines", 20, 1, tmp_path)


def test_a_training_is_complete_with_its_starts_or_without_advice(tmp_path):
    put(tmp_path, "mlp-sines", 20, "lr=x0.5", (1.0, 0.5))
    put(tmp_path, "mlp-short", 20, None)
    assert is_complete("mlp-sines", 20, 1, tmp_path)
    assert not is_complete("mlp-sines", 20, 2, tmp_path)
    assert is_complete("mlp-short", 20, 2, tmp_path)
    assert not is_complete("mlp-short", 21, 1, tmp_path)
