"""One folder, several runs: none is mixed with another, none hides another."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest

from foreshock.report import summarise, to_text, write_html
from foreshock.runlog import RunLogWriter, read_run


def write_steps(log, *steps, loss=1.0):
    for step in steps:
        log.write("step", {"step": step, "loss": loss})


def run_of(folder, *steps, loss=1.0, rank=0, resume=None):
    log = RunLogWriter(folder, rank=rank)
    if resume is not None:
        log.resume(resume)
    write_steps(log, *steps, loss=loss)
    log.close()
    return log.path


def losses(run):
    return dict(zip(run.steps("step").tolist(), run.column("step", "loss").tolist(), strict=True))


def test_a_second_run_in_a_folder_neither_mixes_with_the_first_nor_hides_it(tmp_path, caplog):
    first = run_of(tmp_path, 0, 1, 2)
    assert caplog.text == ""
    second = run_of(tmp_path, 0, 1, loss=2.0)
    assert second == tmp_path / "2" / "rank0.jsonl"
    [warning] = caplog.messages
    assert f"{tmp_path} has the records of an earlier run: this one is logged in {tmp_path}/2" in warning
    assert "load_state_dict before the first step" in warning
    run = read_run(tmp_path)
    assert (run.path, run.number, run.earlier, run.obsolete) == (second, 2, (first,), 0)
    assert losses(run) == {0: 2.0, 1: 2.0}
    assert losses(read_run(run.earlier[0])) == {0: 1.0, 1: 1.0, 2: 1.0}
    assert run_of(tmp_path, 0) == tmp_path / "3" / "rank0.jsonl"
    assert read_run(tmp_path).earlier == (first, second)


def test_the_report_names_the_other_runs_and_what_was_done_again(tmp_path):
    first = run_of(tmp_path / "base", 0, 1, 2)
    run_of(tmp_path / "base", 0, 1, 2)
    run_of(tmp_path / "base", 2, 3, resume=2)
    text = to_text(summarise(read_run(tmp_path / "base")))
    assert text.startswith("base/2: ")
    assert f"The folder also holds 1 earlier run, not shown here: foreshock report {first}" in text
    assert "1 record was left out: the run was resumed at an earlier step, and did them again." in text
    page = write_html([read_run(tmp_path / "base")], tmp_path / "page.html").read_text()
    assert f"not shown here: foreshock report {first}" in page


def test_a_run_that_resumes_goes_on_in_the_file_that_got_as_far(tmp_path, caplog):
    first = run_of(tmp_path, *range(10))
    second = run_of(tmp_path, 0, 1)
    caplog.clear()
    assert run_of(tmp_path, 8, 9, loss=2.0, resume=8) == first
    assert run_of(tmp_path, 2, loss=2.0, resume=2) == second
    assert caplog.text == ""
    run = read_run(first)
    assert (run.starts, run.obsolete, losses(run)) == (2, 2, dict.fromkeys(range(8), 1.0) | {8: 2.0, 9: 2.0})
    assert run_of(tmp_path, 99, resume=99) == second  # nothing got as far: the last one
    assert run_of(tmp_path, 3, resume=None) == tmp_path / "3" / "rank0.jsonl"


def test_of_several_runs_the_one_is_read_that_was_started_or_resumed_last(tmp_path):
    first, second = run_of(tmp_path, *range(10)), run_of(tmp_path, 0, 1)
    assert read_run(tmp_path).path == second
    with first.open("a") as file:
        file.write('{"kind":"header","schema":2,"created":"2999-01-01T00:00:00+00:00","meta":{}}\n')
        file.write('{"kind":"step","step":10,"loss":1.0}\n')
    run = read_run(tmp_path)
    assert (run.path, run.earlier) == (first, (second,))


def test_a_run_may_go_back_to_an_earlier_state_while_it_goes_on(tmp_path):
    log = RunLogWriter(tmp_path)
    write_steps(log, 0, 1, 2, 3)
    log.resume(2)
    write_steps(log, 2, loss=2.0)
    run = read_run(tmp_path)
    assert (losses(run), run.starts, run.obsolete) == ({0: 1.0, 1: 1.0, 2: 2.0}, 2, 2)


def test_nothing_to_resume_is_a_new_run(tmp_path, caplog):
    assert run_of(tmp_path, 5, 6, resume=5) == tmp_path / "rank0.jsonl"
    assert caplog.text == ""
    assert read_run(tmp_path).starts == 1


def test_subfolders_that_only_have_such_names_are_runs_of_their_own(tmp_path):
    """A folder for each seed, say."""
    run_of(tmp_path / "2", 0)
    with pytest.raises(FileNotFoundError, match="runs below it"):
        read_run(tmp_path)
    first = run_of(tmp_path, 0, 1)
    assert first == tmp_path / "rank0.jsonl"
    assert (read_run(tmp_path).path, read_run(tmp_path).earlier) == (first, ())
    assert run_of(tmp_path, 2, resume=2) == first
    assert run_of(tmp_path, 0) == tmp_path / "3" / "rank0.jsonl"
    assert losses(read_run(tmp_path / "2")) == {0: 1.0}


def test_a_second_live_writer_gets_a_folder_of_its_own(tmp_path, caplog):
    one, other = RunLogWriter(tmp_path), RunLogWriter(tmp_path)
    for step in range(3):
        write_steps(other, step, loss=2.0)
        write_steps(one, step)
    [warning] = caplog.messages
    assert f"{tmp_path} is being written by another monitor that is still open" in warning
    assert losses(read_run(one.path)) == dict.fromkeys(range(3), 1.0)
    assert losses(read_run(other.path)) == dict.fromkeys(range(3), 2.0)
    assert (one.path.parent, other.path.parent) == (tmp_path, tmp_path / "2")


def test_a_live_writer_is_not_resumed(tmp_path, caplog):
    one = RunLogWriter(tmp_path)
    write_steps(one, 0, 1)
    assert run_of(tmp_path, 1, resume=1) == tmp_path / "2" / "rank0.jsonl"
    assert "is being written by another monitor" in caplog.text
    write_steps(one, 2)
    assert losses(read_run(one.path)) == dict.fromkeys(range(3), 1.0)


def test_a_writer_that_was_collected_holds_no_lock(tmp_path, caplog):
    """A cell of a notebook that runs again makes the new monitor before the old one is gone."""
    log = RunLogWriter(tmp_path)
    again = RunLogWriter(tmp_path)
    del log
    write_steps(again, 0)
    assert again.path.parent == tmp_path
    assert caplog.text == ""


WRITER = """
    import sys, time
    from foreshock.runlog import RunLogWriter
    sys.stdin.readline()
    log = RunLogWriter(sys.argv[1], rank=int(sys.argv[2]))
    for step in range(3):
        log.write("step", {"step": step, "loss": 3.0})
    print("written", flush=True)
    time.sleep(60)
"""


def started(folder, rank=0):
    """Start a process that waits before it writes."""
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(folder), str(rank)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def let_write(process):
    """Let a process write three steps; it stays."""
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "written\n"


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def test_another_process_is_noticed_while_it_lives_and_in_the_way_no_longer(tmp_path, caplog):
    process = started(tmp_path)
    try:
        let_write(process)
        assert run_of(tmp_path, 3, resume=3).parent == tmp_path / "2"
        assert "another process" in caplog.text
    finally:
        kill(process)
    caplog.clear()
    shutil.rmtree(tmp_path / "2")
    assert run_of(tmp_path, 3, resume=3).parent == tmp_path
    assert caplog.text == ""


def wait_for(begun, queue):
    begun.put(None)
    queue.get()


def test_a_worker_that_was_forked_does_not_keep_the_file_locked(tmp_path, caplog):
    log = RunLogWriter(tmp_path)
    write_steps(log, 0)
    context = multiprocessing.get_context("fork")
    begun, queue = context.Queue(), context.Queue()
    worker = context.Process(target=wait_for, args=(begun, queue))
    worker.start()
    try:
        begun.get()
        # As kill -9 does it: closed by the system, the lock not given back.
        log._finalizer.detach()
        os.close(log._descriptor)
        log._descriptor = None
        assert run_of(tmp_path, 1, resume=1).parent == tmp_path
        assert caplog.text == ""
    finally:
        queue.put(None)
        worker.join()


def test_a_child_that_writes_gets_a_folder_of_its_own(tmp_path):
    log = RunLogWriter(tmp_path)
    write_steps(log, 0, 1)
    child = multiprocessing.get_context("fork").Process(target=write_steps, args=(log, 0))
    child.start()
    child.join()
    assert child.exitcode == 0
    write_steps(log, 2)
    assert losses(read_run(tmp_path / "rank0.jsonl")) == dict.fromkeys(range(3), 1.0)
    assert losses(read_run(tmp_path / "2")) == {0: 1.0}
    # The parent still has the lock.
    assert run_of(tmp_path, 3, resume=3).parent == tmp_path / "3"


def launch(folder, *ranks):
    """Run some ranks, all started before the first of them writes, and kill them all."""
    processes = [started(folder, rank) for rank in ranks]
    try:
        for process in processes:
            let_write(process)
    finally:
        for process in processes:
            kill(process)


def test_the_ranks_of_a_run_agree_on_its_folder(tmp_path):
    """Whatever the others have written already: each looks at the same files, at another time."""
    launch(tmp_path, 0, 1)
    launch(tmp_path, 0, 1, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "2",
        "rank0.jsonl",
        "rank1.jsonl",
        "rank2.jsonl",
    ]
    assert (tmp_path / "rank2.jsonl").stat().st_size == 0
    assert sorted(path.name for path in (tmp_path / "2").iterdir()) == [
        f"rank{rank}.jsonl" for rank in (0, 1, 2)
    ]
    assert read_run(tmp_path, rank=2).earlier == ()
    assert read_run(tmp_path, rank=1).earlier == (tmp_path / "rank1.jsonl",)


def test_a_rank_that_had_written_nothing_agrees_with_those_that_had(tmp_path):
    """The earlier run was killed before its second rank came to its first step."""
    launch(tmp_path, 0)
    (tmp_path / "rank1.jsonl").touch()
    launch(tmp_path, 0, 1)
    assert len(list((tmp_path / "2").iterdir())) == 2
    with pytest.raises(FileNotFoundError, match="no run log at"):
        read_run(tmp_path, rank=5)


def test_a_run_that_never_came_to_a_step_leaves_its_place(tmp_path, caplog):
    RunLogWriter(tmp_path).close()
    assert read_run(tmp_path).records == {}
    assert run_of(tmp_path, 0).parent == tmp_path
    assert caplog.text == ""
    assert read_run(tmp_path).starts == 1


def test_a_log_that_has_no_step_yet_says_so(tmp_path):
    log = RunLogWriter(tmp_path)
    with pytest.raises(ValueError, match="logged no step yet"):
        read_run(tmp_path)
    write_steps(log, 0)
    assert losses(read_run(tmp_path)) == {0: 1.0}


def test_a_log_that_is_removed_while_it_is_written_is_begun_anew(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("foreshock.runlog.writer._LOOK_EVERY", 0.0)
    log = RunLogWriter(tmp_path / "run")
    write_steps(log, 0, 1)
    shutil.rmtree(tmp_path / "run")
    write_steps(log, 2, 3, 4)
    [warning] = caplog.messages
    assert "was removed while it was written: it is begun anew" in warning
    assert losses(read_run(tmp_path / "run")) == {2: 1.0, 3: 1.0, 4: 1.0}


def test_a_folder_that_can_not_be_made_again_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("foreshock.runlog.writer._LOOK_EVERY", 0.0)
    log = RunLogWriter(tmp_path / "run")
    write_steps(log, 0)
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OSError, match="run"):
        write_steps(log, 1)


def test_where_nothing_can_be_locked_runs_are_kept_apart_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("foreshock.runlog.folders.fcntl", None)
    run_of(tmp_path, 0)
    assert run_of(tmp_path, 0).parent == tmp_path / "2"
    assert run_of(tmp_path, 1, resume=1).parent == tmp_path / "2"


def test_writing_many_records_is_one_call_and_the_same_as_one_by_one(tmp_path, monkeypatch):
    rows = [("step", {"step": step, "loss": value}) for step, value in enumerate([1.0, float("nan"), 3.0])]
    log = RunLogWriter(tmp_path)
    log.write(*rows[0])
    calls = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda *call: calls.append(call) or write(*call))
    log.write_many(rows[1:])
    log.write_many([])
    assert len(calls) == 1
    monkeypatch.undo()
    assert log.path.read_text().splitlines()[1:] == [
        '{"kind":"step","step":0,"loss":1.0}',
        '{"kind":"step","step":1,"loss":"NaN"}',
        '{"kind":"step","step":2,"loss":3.0}',
    ]


def test_what_holds_itself_is_logged_as_what_it_prints_as(tmp_path):
    meta = {"a": 1}
    meta["self"] = meta
    RunLogWriter(tmp_path, meta=meta).close()
    assert read_run(tmp_path).meta["a"] == 1
