"""The ranks of one run: what must be the same in all, what may differ, and which of them departs."""

from __future__ import annotations

import numpy as np
import pytest

from foreshock.cli.status import status
from foreshock.live import analysis
from foreshock.live.analysis import Analysis
from foreshock.live.status import departures_in, status_of
from foreshock.live.views import details
from foreshock.live.watched import WatchedFolder
from foreshock.report import summarise, to_text, verdict, write_figure, write_html, write_picture
from foreshock.report.markdown import to_markdown
from foreshock.report.rank_losses import odd_losses
from foreshock.report.ranks import ADVICE, compare_ranks
from foreshock.runlog import RunLogWriter, read_run
from foreshock.runlog.folders import rank_files, rank_of
from foreshock.runlog.ranks import MOST_RANKS, rank_logs

STEPS = 100


def losses_of(rank, *, noise=0.05, seed=3):
    return 2.0 + noise * np.random.default_rng([seed, rank]).normal(size=STEPS)


def write(folder, rank, *, ranks=4, meta=(), losses=None, steps=range(STEPS), change=None, more=()):
    """Write the log of one rank; `change` alters a record before it is written, or leaves it out."""
    log = RunLogWriter(
        folder, meta={"ranks": ranks, "copies": True, "optimizer": "AdamW", **dict(meta)}, rank=rank
    )
    losses = losses_of(rank) if losses is None else losses
    rows = [("event", {"step": 0, "name": "joint batch", "message": "together"})]
    for step in steps:
        rows.append(("rank", {"step": step, "steps": [step], "losses": [losses[step]]}))
        row = {"step": step, "loss": losses[step], "gradient_norm": 1 / (step + 1), "learning_rate": 0.1}
        rows.append(("step", {**row, "second_moment": 0.5}))
        if step % 25 == 0:
            rows.append(("weights", {"step": step, "checksum": f"{step:x}"}))
            rows.append(
                ("forecast", {"step": step, "state": "stable", "stability_ratio": 0.3, "probability": 0.01})
            )
    rows += more
    rows = [
        found for kind, row in rows if (found := change(kind, row) if change else (kind, row)) is not None
    ]
    log.write_many(rows)
    log.close()


def ranks_of(folder, odd=2, ranks=4, **options):
    """Write a run in which one rank departs; return what was found."""
    for rank in range(ranks):
        write(folder, rank, ranks=ranks, **(options if rank == odd else {}))
    return compare_ranks(read_run(folder))


def found_in(ranks):
    return [(one.rank, one.what, one.first) for one in ranks.departures]


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_ranks_that_differ_by_their_batches_agree(ranks, tmp_path):
    found = ranks_of(tmp_path, ranks=ranks)
    assert found.departures == ()
    assert found.size == ranks
    assert found.together
    assert str(found) == f"{ranks} ranks, which agree"


def test_a_run_of_one_process_has_no_ranks(tmp_path):
    write(tmp_path, 0, meta={"ranks": None})
    assert compare_ranks(read_run(tmp_path)) is None
    assert "rank" not in to_text(summarise(read_run(tmp_path)))


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_a_rank_with_another_shard_is_named(ranks, tmp_path):
    losses = losses_of(1)
    losses[40:] *= 1.5
    found = ranks_of(tmp_path, odd=1, ranks=ranks, losses=losses)
    [one] = found.departures
    assert (one.rank, one.what, one.first, one.last) == (1, "loss", 40, 99)
    assert "a median loss of 3" in one.words
    assert "deviations" in one.words


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_single_step_of_one_rank_is_named(ranks, tmp_path):
    losses = losses_of(1)
    losses[57] = 9.0
    assert found_in(ranks_of(tmp_path, odd=1, ranks=ranks, losses=losses)) == [(1, "loss", 57)]


def test_shards_of_different_difficulty_are_no_departure(tmp_path):
    for rank in range(6):
        write(tmp_path, rank, ranks=6, losses=losses_of(rank) * (1 + 0.06 * rank))
    assert compare_ranks(read_run(tmp_path)).departures == ()


def test_of_data_that_stay_losses_are_not_compared(tmp_path):
    same = ("change", {"step": 1, "what": "data", "before": {"same": False}, "after": {"same": True}})
    for rank in range(2):
        write(tmp_path, rank, ranks=2, losses=np.full(STEPS, 2.0 + rank), more=[same])
    assert compare_ranks(read_run(tmp_path)).departures == ()


@pytest.mark.parametrize("ranks", [2, 3, 4, 16])
@pytest.mark.parametrize("tail", ["lognormal", "student"])
def test_heavy_tails_are_no_departure(ranks, tail):
    draw = np.random.default_rng(0)
    shape = (ranks, 4000)
    noise = (
        np.exp(0.3 * draw.normal(size=shape))
        if tail == "lognormal"
        else 1 + 0.1 * draw.standard_t(3, size=shape)
    )
    # Of 64,000 batches a few may be named; no stretch of them, and no rank throughout.
    found = odd_losses(np.arange(shape[1]), 3 * noise)
    assert len(found) <= 3
    assert all(one.count == 1 for one in found)


def alter(kind, name, value, *, from_step=50, apart_from=STEPS):
    def change(of, row):
        if of == "rank" and row["step"] >= apart_from:
            return None
        return (of, {**row, name: value}) if of == kind and row["step"] >= from_step else (of, row)

    return change


@pytest.mark.parametrize(
    ("kind", "name", "value", "what"),
    [
        ("step", "learning_rate", 0.100001, "learning rate"),
        ("step", "gradient_norm", 0.5, "gradient norm"),
        ("step", "second_moment", 0.6, "second moment"),
        ("weights", "checksum", "abc", "weights"),
        ("forecast", "probability", 0.02, "forecast"),
        ("forecast", "state", "armed", "forecast"),
        ("rank", "losses", [float("nan")], "loss not finite"),
    ],
)
@pytest.mark.parametrize("ranks", [2, 4])
def test_what_must_be_the_same_is_compared(kind, name, value, what, ranks, tmp_path):
    found = ranks_of(tmp_path, odd=1, ranks=ranks, change=alter(kind, name, value))
    assert found_in(found) == [(1, what, 50)]
    assert what in ADVICE


def test_rounding_in_another_order_is_no_departure(tmp_path):
    assert ranks_of(tmp_path, change=alter("step", "second_moment", 0.5 * (1 + 1e-6))).departures == ()


@pytest.mark.parametrize(("from_step", "expected"), [(90, []), (80, [(1, "gradient norm", 80)])])
def test_of_shared_parameters_only_sums_over_all_must_agree(from_step, expected, tmp_path):
    """Behind the last meeting each rank has its own part."""
    for rank in range(2):
        change = alter("step", "gradient_norm", float(rank), from_step=from_step, apart_from=90)
        write(tmp_path, rank, ranks=2, meta={"copies": False}, change=change)
    assert found_in(compare_ranks(read_run(tmp_path))) == expected


def test_a_guard_that_decides_otherwise_is_named(tmp_path):
    action = ("guard", {"step": 30, "policy": "secant", "remedy": "raise all", "factor": 1.1})
    assert found_in(ranks_of(tmp_path, more=[action])) == [(2, "guard", 30)]


def test_what_was_measured_apart_may_differ(tmp_path):
    alone = ("event", {"step": 40, "name": "local batch", "message": "alone"})
    change = alter("forecast", "probability", 0.02)
    assert ranks_of(tmp_path, more=[alone], change=change).departures == ()


def test_a_rank_that_was_killed_ends_early(tmp_path):
    [one] = ranks_of(tmp_path, steps=range(37)).departures
    assert (one.rank, one.what, one.first, one.last, one.count) == (2, "ends early", 37, 99, 63)
    assert "no step after 36" in str(one)


def test_a_rank_that_was_killed_in_a_probe_lacks_what_the_others_say_of_it(tmp_path):
    failed = ("event", {"step": STEPS - 1, "name": "probe failed", "message": "the connection was lost"})
    for rank in range(2):
        write(tmp_path, rank, ranks=2, more=() if rank else [failed])
    [one] = compare_ranks(read_run(tmp_path)).departures
    assert (one.rank, one.what, one.first) == (1, "ends early", STEPS - 1)
    assert "'probe failed'" in str(one)


def test_a_rank_that_came_late_or_lacks_steps(tmp_path):
    [one] = ranks_of(tmp_path / "late", steps=range(30, STEPS)).departures
    assert (one.what, one.first, one.last) == ("begins late", 0, 29)
    steps = [step for step in range(STEPS) if step not in (51, 60)]
    [one] = ranks_of(tmp_path / "holes", steps=steps).departures
    assert (one.what, one.first, one.last, one.count) == ("missing steps", 51, 60, 2)


def test_other_settings_are_named(tmp_path):
    found = ranks_of(tmp_path, meta={"optimizer": "Adam"})
    assert [str(one) for one in found.departures] == [
        "Rank 2 was started with optimizer = 'Adam', most of the others 'AdamW'"
    ]


def test_a_rank_without_a_log_is_named(tmp_path):
    for rank in (1, 2):
        write(tmp_path, rank)
    found = compare_ranks(read_run(tmp_path))  # rank 0 has none either
    assert found_in(found) == [(0, "no log", None), (3, "no log", None)]
    assert read_run(tmp_path).path.name == "rank1.jsonl"
    with pytest.raises(FileNotFoundError, match="rank0"):
        read_run(tmp_path, rank=0)


def test_where_one_rank_alone_is_watched_the_others_are_not_missing(tmp_path):
    write(tmp_path, 0, change=lambda kind, row: None if kind in ("event", "rank") else (kind, row))
    assert compare_ranks(read_run(tmp_path)) is None


def test_records_of_ranks_that_make_no_sense_are_left_out(tmp_path):
    odd = [("rank", {"step": 3, "steps": steps, "losses": [1]}) for steps in ("all", [None, 3], [-1], [[3]])]
    for rank in range(2):
        write(tmp_path, rank, ranks=2, more=odd)
    assert compare_ranks(read_run(tmp_path)).departures == ()


def test_ranks_of_an_earlier_session_with_more_processes_are_none_of_it(tmp_path):
    for rank in range(2):
        write(tmp_path, rank, ranks=2)
    write(tmp_path, 2, ranks=3, steps=range(10))
    assert compare_ranks(read_run(tmp_path)).departures == ()


def test_ranks_that_a_resumed_run_added_begin_where_it_was_resumed(tmp_path):
    write(tmp_path, 0, ranks=1, steps=range(50))
    log = RunLogWriter(tmp_path, meta={"ranks": 2, "copies": True, "optimizer": "AdamW"}, rank=0)
    log.resume(50)
    row = {"loss": 2.0, "gradient_norm": 1.0, "learning_rate": 0.1, "second_moment": 0.5}
    log.write_many([("step", {"step": step, **row}) for step in range(50, STEPS)])
    log.close()
    only_steps = lambda kind, of: (kind, {"step": of["step"], **row}) if kind == "step" else None  # noqa: E731
    write(tmp_path, 1, ranks=2, steps=range(50, STEPS), change=only_steps)
    assert compare_ranks(read_run(tmp_path)).departures == ()


def test_what_only_another_rank_recorded_is_among_the_events(tmp_path):
    event = ("event", {"step": 20, "name": "probe failed", "message": "RuntimeError: only here"})
    ranks_of(tmp_path, more=[event])
    [one] = [event for event in summarise(read_run(tmp_path)).events if event.name == "probe failed"]
    assert one.message == "rank 2: RuntimeError: only here"


def test_the_report_names_the_rank_and_says_what_to_do(tmp_path):
    ranks_of(tmp_path, steps=range(37))
    summary = summarise(read_run(tmp_path))
    found = verdict(summary)
    assert found.why[0] == "Rank 2 has no step after 36, where most of the others got to 99."
    assert any(one.startswith("Rank 2 (ends early): look for what ended") for one in found.advice)
    for text in (to_text(summary), to_markdown(summary)):
        assert "4 ranks, of which 2 departs" in text
        assert "Ranks that depart from the others" in text


def test_of_very_many_ranks_those_that_end_early_are_read(tmp_path):
    size = MOST_RANKS + 6
    for rank in range(size):
        write(tmp_path, rank, ranks=size, steps=range(12 if rank == size - 1 else 20))
    found = compare_ranks(read_run(tmp_path))
    assert len(found.read) == MOST_RANKS
    assert {0, size - 1} <= set(found.read)
    assert found_in(found) == [(size - 1, "ends early", 12)]


def test_a_log_of_another_name_or_a_broken_one_is_no_rank(tmp_path):
    write(tmp_path, 0, ranks=2)
    (tmp_path / "rank1.jsonl").write_bytes(b"\xff\x00 not json\n" * 5)
    found = compare_ranks(read_run(tmp_path))
    assert found.read == (0,)
    assert rank_of(tmp_path / "first.jsonl") is None
    assert rank_of(tmp_path / "rank٣.jsonl") is None
    (tmp_path / "rank².jsonl").touch()
    assert [path.name for path in rank_files(tmp_path)] == ["rank0.jsonl", "rank1.jsonl"]
    named = tmp_path / "first.jsonl"
    named.write_bytes((tmp_path / "rank0.jsonl").read_bytes())
    assert rank_logs(named, {"ranks": 2}) is None
    assert compare_ranks(read_run(named)) is None


def test_a_picture_reads_no_other_rank(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    ranks_of(tmp_path, steps=range(37))
    run = read_run(tmp_path)
    assert summarise(run).ranks is not None
    assert summarise(run, with_ranks=False).ranks is None
    monkeypatch.setattr("foreshock.report.summary.compare_ranks", None)
    write_picture(run, tmp_path / "run.svg")
    write_figure([run], tmp_path / "loss.svg", kind="loss")


def test_the_page_has_the_ranks(tmp_path):
    ranks_of(tmp_path, steps=range(37))
    page = write_html([read_run(tmp_path)], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Ranks that depart from the others" in page
    assert "<dt>ranks</dt><dd>4</dd>" in page


def test_status_says_what_the_report_says_of_ranks(tmp_path, capsys):
    losses = losses_of(2)
    losses[40:] *= 1.5
    found = ranks_of(tmp_path / "odd", losses=losses)
    ranks_of(tmp_path / "even")
    assert departures_in(tmp_path / "odd" / "rank0.jsonl") == found.departures
    status(tmp_path / "odd")
    said = " ".join(capsys.readouterr().out.split())
    assert "4, not all alike" in said
    assert "Rank 2 departs from the others; the stability ratio is 0.3 of the edge" in said
    assert "Ranks are not all alike: foreshock report says what to do about it." in said
    assert "Nothing needs to be done" not in said
    assert f"{found.departures[0]}" in said
    status(tmp_path / "even")
    assert "4, which agree" in capsys.readouterr().out
    assert departures_in(tmp_path / "even" / "rank0.jsonl") == ()


def test_the_live_page_compares_ranks_rarely_and_again_at_the_end(tmp_path, monkeypatch):
    losses = losses_of(2)
    losses[40:] *= 1.5
    ranks_of(tmp_path / "run", losses=losses)
    watched = WatchedFolder(tmp_path)
    while watched.look():
        pass
    [run] = watched.all_runs()
    compared, now = [], [100.0]
    monkeypatch.setattr(analysis, "compare_ranks", lambda of: compared.append(of) or compare_ranks(of))
    monkeypatch.setattr(analysis.time, "monotonic", lambda: now[0])
    desk = Analysis(watched)

    def look():
        now[0] += 2.0
        watched.look()
        desk.of(run)
        while desk.round():
            pass
        return desk.of(run)

    [_, _, table] = details(run, look())["tables"]
    assert (run.status()["state"], run.status()["words"][:6]) == ("departing", "Rank 2")
    assert table["rows"][0][:2] == ("2", "loss")
    with (tmp_path / "run" / "rank0.jsonl").open("a") as log:
        for step in range(STEPS, STEPS + 4):  # one at each look, two seconds apart
            log.write(f'{{"kind": "step", "step": {step}, "loss": 2.0}}\n')
            log.flush()
            assert look().summary.last_step == step
    assert len(compared) == 1
    now[0] += 10.0
    assert look().summary.ranks.departures[-1].what == "ends early"  # without news of its own
    assert len(compared) == 2
    now[0] += 1000.0
    look()
    assert len(compared) == 2


def test_status_and_the_list_of_runs_have_one_run_of_many_ranks(tmp_path):
    for rank in range(4):
        write(tmp_path / "run", rank, steps=range(37 if rank == 2 else STEPS))
    (tmp_path / "run" / "rank3.jsonl").unlink()
    (tmp_path / "run" / "other.jsonl").write_bytes((tmp_path / "run" / "rank0.jsonl").read_bytes())
    (tmp_path / "run" / "rank0.jsonl").unlink()  # of a rank whose log could not be written
    watched = WatchedFolder(tmp_path)
    while watched.look():
        pass
    [run] = watched.all_runs()
    found = status_of(run)
    assert run.path.name == "rank1.jsonl"
    assert (found.ranks, found.ranks_behind) == (4, (0, 2, 3))
