"""Logs of other tools become runs: spikes are found, what was not measured is absent, damage is one line."""

from __future__ import annotations

import contextlib
import json
import math
import random
import sqlite3

import pytest
from typer.testing import CliRunner

from foreshock.cli.app import app
from foreshock.explain import explain_run
from foreshock.importers import guess_columns, import_run
from foreshock.report import summarise, to_text, write_figure, write_html
from foreshock.runlog import read_run

SPIKE = range(150, 156)


def losses():
    noise = random.Random(0)
    return [2 * math.exp(-s / 100) + 0.01 * noise.random() + 8 * (s in SPIKE) for s in range(300)]


def trainer_state(folder):
    rows = [{"step": s, "loss": loss, "grad_norm": 1.5, "epoch": s / 9} for s, loss in enumerate(losses())]
    path = folder / "checkpoint-300" / "trainer_state.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"log_history": [*rows, {"step": 299, "eval_loss": 9.0}]}))
    return folder


def table(folder):
    path = folder / "log.csv"
    path.write_text(
        "iteration,train_loss,val_loss\n" + "".join(f"{s},{x},\n" for s, x in enumerate(losses()))
    )
    return path


def lines(folder):
    path = folder / "log.jsonl"
    rows = [{"_step": s, "train/loss": x} for s, x in enumerate(losses())]
    # An earlier attempt at the last steps, which a resume did again, and a last line that is torn.
    rows[290:290] = [{"_step": s, "train/loss": 77.0} for s in range(290, 300)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"_step": 300, "tr')
    return path


def trackio(folder):
    path = folder / "p.db"
    base = sqlite3.connect(path)
    base.execute("CREATE TABLE metrics (id INTEGER PRIMARY KEY, run_name TEXT, step INTEGER, metrics TEXT)")
    rows = [("r", s, json.dumps({"loss": x}).encode()) for s, x in enumerate(losses())]
    base.executemany("INSERT INTO metrics (run_name, step, metrics) VALUES (?, ?, ?)", rows)
    base.commit()
    base.close()
    return path


def tensorboard(folder):
    pytest.importorskip("tensorboard")
    from foreshock.sinks import TensorBoard

    sink = TensorBoard(folder / "tb")
    for step, loss in enumerate(losses()):
        sink.write("step", {"step": step, "loss": loss, "gradient_norm": 1.5})
    sink.close()
    return folder / "tb"


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("make", [trainer_state, table, lines, trackio, tensorboard])
def test_the_spike_is_found_and_what_was_not_measured_is_absent(tmp_path, make):
    found = import_run(make(tmp_path), tmp_path / "run")
    run = read_run(tmp_path / "run")
    assert run.steps("step").tolist() == list(range(300))
    assert run.column("step", "loss") == pytest.approx(losses(), rel=1e-6)
    assert [one.onset for one in explain_run(run)] == [150]
    assert set(run.records) == {"step"}
    has_norm = make in (trainer_state, tensorboard)
    assert set(run.records["step"][0]) == {"kind", "step", "loss"} | (
        {"gradient_norm"} if has_norm else set()
    )
    assert (found.columns.gradient_norm is not None) == has_norm
    assert found.columns.learning_rate is None
    assert found.replaced == (10 if make is lines else 0)
    text = to_text(summarise(run))
    assert "Watch the next run with foreshock.Monitor: an imported log has no curvature" in text
    assert "the log was imported, and other tools measure none" in " ".join(explain_run(run)[0].missing)
    assert "loss_fn" not in text
    page = write_html([run], tmp_path / "page.html").read_text()
    assert "150" in page


def test_wandb_offline_runs_are_read(tmp_path):
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    import struct

    blocks = bytearray(b":W&B" + struct.pack("<HB", 0xBEE1, 0))
    for step, loss in enumerate(losses()):
        record = pb.Record()
        record.history.step.num = step
        for key, value in {"train/loss": loss, "note": "x" * 400}.items():
            item = record.history.item.add()
            item.nested_key.append(key)
            item.value_json = json.dumps(value)
        left, first = record.SerializeToString(), True
        while left or first:
            room = 2**15 - len(blocks) % 2**15
            if room < 7:
                blocks += b"\0" * room
                continue
            part, left = left[: room - 7], left[room - 7 :]
            kind = (1 if first else 4) if not left else (2 if first else 3)
            blocks += struct.pack("<IHB", 0, len(part), kind) + part
            first = False
    (tmp_path / "run-x.wandb").write_bytes(blocks)
    import_run(tmp_path, tmp_path / "run")
    assert read_run(tmp_path / "run").column("step", "loss").tolist() == losses()


def test_a_loss_that_is_nan_is_found_and_not_blamed_on_a_gradient_that_was_not_logged(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n" + "".join(f"{s},{'nan' if s > 80 else 1.0}\n" for s in range(100)))
    import_run(path, tmp_path / "run")
    (one,) = explain_run(read_run(tmp_path / "run"))
    assert (one.kind, one.onset) == ("non-finite", 81)
    assert one.causes == ()


def test_columns_are_guessed_by_name_and_can_be_named():
    counts = {"_step": 9, "train/loss": 9, "eval/loss": 3, "val_loss": 3, "lr-AdamW": 9, "grad_norm_total": 9}
    found = guess_columns(counts)
    assert (found.loss, found.step) == ("train/loss", "_step")
    assert (found.learning_rate, found.gradient_norm) == ("lr-AdamW", "grad_norm_total")
    assert guess_columns(counts, given={"loss": "eval/loss"}).loss == "eval/loss"
    with pytest.raises(ValueError, match="no column 'nll' with numbers to be the loss; it has '_step', "):
        guess_columns(counts, given={"loss": "nll"})
    with pytest.raises(ValueError, match="no column looks like a training loss: name it with --loss"):
        guess_columns({"step": 9, "eval_loss": 9})


def test_the_command_prints_its_guess_and_what_happened(tmp_path):
    done = CliRunner().invoke(app, ["import", str(table(tmp_path)), "-o", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert "  loss: train_loss (guessed; --loss NAME to choose another)" in done.output
    assert "  learning rate: absent" in done.output
    assert "1 spike" in done.output


HOSTILE = {
    "none.csv": (b"", "no column looks like a training loss"),
    "words.csv": (b"step,loss\na,b\n", "no column looks like a training loss"),
    "long.csv": (b"x" * 2**21, "more than 1048576 characters"),
    "quotes.csv": (b'step,loss\n1,"' + b"x" * 200_000, "can't be read as CSV"),
    "list.jsonl": (b"[1]\n2\n", "no column looks like a training loss"),
    "bad.jsonl": (b"{]\n{}\n", "line 1, is no JSON"),
    "deep.jsonl": (b"[" * 100_000 + b"\n", "is no JSON"),
    "trainer_state.json": (b'{"log_history": 3}', "has no log_history"),
    "deep.json": (b"[" * 100_000, "is no JSON"),
    "x.parquet": (b"PAR1", "format of .* is unknown"),
    "broken.db": (b"SQLite format 3\0" + b"\1" * 5000, "no data base of Trackio, or is damaged"),
    "huge.csv": (
        b"step,loss\n1e400,1\n-1,1\n.5,1\n" + b"9" * 40 + b",1\n",
        "4 rows with a loss .* first is 1e400",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_source_is_one_line(tmp_path, name):
    content, words = HOSTILE[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        import_run(tmp_path / name, tmp_path / "run")
    done = CliRunner().invoke(app, ["import", str(tmp_path / name), "-o", str(tmp_path / "run")])
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("make", [trainer_state, table, lines, trackio, tensorboard])
def test_damage_anywhere_is_read_or_refused(tmp_path, make):
    source = make(tmp_path)
    path = source if source.is_file() else next(one for one in source.rglob("*") if one.is_file())
    sound, choose = path.read_bytes(), random.Random(1)
    for number in range(40):
        data = bytearray(sound[: choose.randrange(1, len(sound))] if number % 2 else sound)
        for _ in range(choose.randrange(1, 30)):
            data[choose.randrange(min(len(data), 4000))] = choose.randrange(256)
        path.write_bytes(data)
        # Another exception, or a loss that the run log can't be read with, fails here.
        with contextlib.suppress(ValueError):
            found = import_run(path, tmp_path / f"run{number}")
            assert len(read_run(found.path).steps("step")) == found.steps


def test_a_missing_package_names_the_pip_command(tmp_path, monkeypatch):
    monkeypatch.setattr("foreshock.importers.records.find_spec", lambda name: None)
    for name, pip in {
        "a.wandb": r'pip install "foreshock\[wandb\]"',
        "events.out.tfevents.1": r'pip install "foreshock\[tensorboard\]"',
    }.items():
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(ImportError, match=pip):
            import_run(tmp_path / name, tmp_path / "run")


@pytest.mark.parametrize("kind", ["probability", "edge", "lag", "layers", "overview", "loss"])
def test_a_figure_of_what_was_not_measured_asks_for_nothing_that_an_imported_run_can_have(tmp_path, kind):
    pytest.importorskip("matplotlib")
    import_run(table(tmp_path), tmp_path / "run")
    run = read_run(tmp_path / "run")
    several = [run] if kind in ("layers", "overview") else [run, run]
    for runs in ([run], several):
        if kind in ("overview", "loss"):
            assert write_figure(runs, tmp_path / "x.svg", kind=kind).stat().st_size > 0
            continue
        with pytest.raises(
            ValueError, match=r"the log was imported from another tool, which .*--kind loss"
        ) as caught:
            write_figure(runs, tmp_path / "x.svg", kind=kind)
        assert "loss_fn" not in str(caught.value)


def rows_as(delimiter, *, comma=False):
    lines = [delimiter.join(("step", "train_loss", "lr"))]
    lines += [delimiter.join((str(step), f"{2 - step / 100:.2f}", "1e-3")) for step in range(60)]
    text = "\n".join(lines) + "\n"
    return text.replace(".", ",") if comma else text


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_table_is_read_however_it_is_separated_and_encoded(tmp_path, delimiter, encoding):
    (tmp_path / "log.csv").write_text(rows_as(delimiter), encoding=encoding)
    found = import_run(tmp_path / "log.csv", tmp_path / "run")
    assert (found.steps, found.columns.loss, found.columns.learning_rate) == (60, "train_loss", "lr")
    losses = read_run(found.path).column("step", "loss")
    assert losses.tolist() == [round(2 - step / 100, 2) for step in range(60)]


def test_commas_are_points_where_they_separate_nothing_and_no_number_has_one(tmp_path):
    (tmp_path / "europe.csv").write_text("sep=;\n" + rows_as(";", comma=True))
    found = import_run(tmp_path / "europe.csv", tmp_path / "run")
    assert read_run(found.path).column("step", "loss")[:2].tolist() == [2.0, 1.99]
    # Beside "2.5" the comma of "1,000" is none: it may be a thousand, and is left alone.
    (tmp_path / "mixed.csv").write_text("step;loss\n1,000;2.5\n2,000;2.25\n")
    with pytest.raises(ValueError, match="no column 'step' with numbers"):
        import_run(tmp_path / "mixed.csv", tmp_path / "mixed", columns={"step": "step"})


def test_json_in_utf_16_is_read(tmp_path):
    rows = [{"step": step, "loss": 1.5} for step in range(3)]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-16")
    assert import_run(tmp_path / "log.jsonl", tmp_path / "a").steps == 3
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": rows}), encoding="utf-16")
    assert import_run(tmp_path / "trainer_state.json", tmp_path / "b").steps == 3


def test_a_folder_with_one_table_is_that_table(tmp_path):
    folder = tmp_path / "version_0"
    folder.mkdir()
    (folder / "hparams.yaml").write_text("lr: 0.1\n")
    with pytest.raises(FileNotFoundError, match=r"holds none of .*\.csv"):
        import_run(folder, tmp_path / "run")
    (folder / "metrics.csv").write_text(rows_as(","))
    assert import_run(folder, tmp_path / "run").source == folder / "metrics.csv"
    (folder / "other.jsonl").write_text("{}\n")
    with pytest.raises(
        ValueError, match=r"2 files that could be meant, metrics\.csv, other\.jsonl: name one"
    ):
        import_run(folder, tmp_path / "run2")


def test_a_table_whose_name_begins_like_that_of_a_rank_is_a_table(tmp_path):
    rows = "".join(f'{{"step": {step}, "loss": {2.0 - step}}}\n' for step in range(3))
    (tmp_path / "ranking.jsonl").write_text(rows)
    assert import_run(tmp_path, tmp_path / "run").source == tmp_path / "ranking.jsonl"


def test_a_run_of_foreshock_needs_no_import(tmp_path):
    made = import_run(table(tmp_path), tmp_path / "run").path
    for source in (made, made.parent):
        with pytest.raises(ValueError, match="needs no import: foreshock report"):
            import_run(source, tmp_path / "again")


def test_steps_below_zero_are_counted_and_named(tmp_path):
    (tmp_path / "some.csv").write_text("step,loss\n-2,3.0\n-1,2.0\n0,1.0\n1,1.0\n")
    done = CliRunner().invoke(app, ["import", str(tmp_path / "some.csv"), "-o", str(tmp_path / "run")])
    assert "  2 rows were left out: the step is no whole number from 0 on, such as -2." in done.output
    (tmp_path / "all.csv").write_text("step,loss\n-1,2.0\n")
    words = r"1 row with a loss \('loss'\), but no step \('step'\) that is a whole number .*: the first is -1"
    with pytest.raises(ValueError, match=words):
        import_run(tmp_path / "all.csv", tmp_path / "none")


def test_one_row_is_not_said_in_the_plural(tmp_path):
    (tmp_path / "one.csv").write_text("step,loss\n0,1.0\n0,1.0\n,1.0\n1,\n")
    done = CliRunner().invoke(app, ["import", str(tmp_path / "one.csv"), "-o", str(tmp_path / "run")])
    assert "1 step of" in done.output
    for words in ("1 row came again later", "1 row has no loss", "1 row was left out"):
        assert words in done.output
