"""Spikes of recordings counted by both definitions."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.spikebench.definitions import compare, main, summarise, table

from foreshock.lab.spikebench.trace import META, Column, Trace


def trace(losses, *, norms=None, **meta):
    steps = np.arange(len(losses))
    columns = {"loss": Column(steps, np.asarray(losses, dtype=float))}
    if norms is not None:
        columns["gradient_norm"] = Column(steps, np.asarray(norms, dtype=float))
    known = {"split": "development", "role": "spiky", "kind": "full", "language": False}
    return Trace(dict.fromkeys(META, 0) | known | meta, columns)


BOTH = [2.0] * 200 + [20.0] * 5 + [2.0] * 100
ONLY_NEW = [2.0] * 200 + [5.0] * 5 + [2.0] * 100


@pytest.mark.parametrize(
    ("losses", "old", "tall", "both", "only_new"),
    [(BOTH, 1, 1, 1, []), (ONLY_NEW, 0, 0, 0, [2.5]), ([2.0] * 300, 0, 0, 0, [])],
)
def test_a_recording_is_counted_by_both(losses, old, tall, both, only_new):
    found = compare(trace(losses))
    counted = [found.counts[name] for name in ("old", "old tall", "both", "only new")]
    assert counted == [old, tall, both, len(only_new)]
    assert (found.only_old, found.only_new) == ([], only_new)


def test_what_only_the_old_one_has_is_kept_with_its_height():
    jumpy = np.exp(np.random.default_rng(0).normal(0, 0.6, 1000))
    found = compare(trace(jumpy))
    assert found.counts["spike"] == 0
    assert found.counts["old"] == found.counts["only old"] == len(found.only_old) > 5
    assert all(height > 3 for height in found.only_old)


def test_groups_stand_in_their_order_with_all_their_recordings():
    found = summarise(
        [
            trace(BOTH, split="held-out"),
            trace(BOTH, kind="mini", language=True),
            trace(BOTH),
            trace(ONLY_NEW),
            trace([2.0] * 300, role="control"),
        ]
    )
    assert list(found["groups"]) == [
        "development, full batch, spiky",
        "development, full batch, control",
        "development, language models, spiky",
        "held-out, full batch, spiky",
    ]
    assert found["groups"]["development, full batch, spiky"]["runs"] == 2
    assert found["only_new"] == [2.5]
    assert "| development, full batch, spiky | 2 | 1 | 1 | 2 | 0 | 0 | 0 | 1 | 0 | 1 |" in table(
        found["groups"]
    )


def test_a_folder_without_traces_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "pass the folder `traces`" in capsys.readouterr().err
