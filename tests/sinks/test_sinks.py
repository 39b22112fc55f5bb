"""Each sink shows the same numbers under the same names; the real packages are used where installed."""

from __future__ import annotations

import json
import math
import re
import sqlite3
import threading
from contextlib import contextmanager
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from foreshock import Forecast, GuardAction, StepObservation
from foreshock.sinks import (
    METRICS,
    MLflow,
    Prometheus,
    TensorBoard,
    Trackio,
    Webhook,
    WeightsAndBiases,
    metrics_of,
)

ADDRESSES = ["", "SECRET", "ftp://a/SECRET", "https://", "https://a/SEC RET", "http://[/SECRET", None]
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "send-alarms.md"
RECORDS = {"step": StepObservation, "forecast": Forecast, "guard": GuardAction}
TEXT = 'Foreshock: alarm at step 1 of a "run"\n: a spike <b>within</b> 50 steps: 40%'
ROWS = [
    ("header", {"name": 'a "run"\n'}),
    ("step", {"step": 0, "loss": 2.0, "gradient_norm": 1.0, "learning_rate": 0.1, "instant_lag": math.nan}),
    ("step", {"step": 1, "loss": math.nan, "gradient_norm": math.inf, "learning_rate": 0.1}),
    ("forecast", {"step": 1, "probability": 0.4, "level": "alarm", "lag": math.nan}),
    ("alarm", {"step": 1, "level": "alarm", "reason": "a spike <b>within</b> 50 steps: 40%"}),
    ("guard", {"step": 1, "remedy": "clip", "factor": 0.5}),
    ("tensors", {"step": 1, "rows": []}),
]


def written(sink):
    for kind, record in ROWS:
        sink.write(kind, record)
    for name in ("flush", "close"):
        getattr(sink, name, lambda: None)()


def test_each_metric_is_a_field_of_its_record_and_stands_in_the_docs():
    for metric in METRICS:
        assert metric.field in {one.name for one in fields(RECORDS[metric.kind])}
    listed = re.findall(r"^\| `(\w+)` \| (.+?) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert listed == [(metric.name, metric.words) for metric in METRICS]


def test_unknown_is_left_out_and_a_loss_that_is_not_finite_is_kept():
    assert metrics_of(*ROWS[1]) == {"loss": 2.0, "gradient_norm": 1.0, "learning_rate": 0.1}
    assert math.isnan(metrics_of(*ROWS[2])["loss"])
    assert metrics_of(*ROWS[3]) == {"probability": 0.4, "level": 2.0}
    assert metrics_of("alarm", {"step": 1}) == {}


@pytest.mark.parametrize(
    ("make", "package", "pip"),
    [
        (lambda: TensorBoard("x"), "tensorboard", r'pip install "foreshock\[tensorboard\]"'),
        (WeightsAndBiases, "wandb", r'pip install "foreshock\[wandb\]"'),
        (MLflow, "mlflow", r'pip install "foreshock\[mlflow\]"'),
        (Trackio, "trackio", r'pip install "foreshock\[trackio\]"'),
    ],
)
def test_a_missing_package_names_the_pip_command(monkeypatch, make, package, pip):
    monkeypatch.setattr("foreshock.sinks.packages.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=pip) as caught:
        make()
    assert caught.value.name == package


def test_prometheus_writes_its_text_format(tmp_path):
    path = tmp_path / "node" / "run.prom"
    sink = Prometheus(path)
    sink.write(*ROWS[1])
    sink.flush()
    assert 'foreshock_running{run="run"} 1.0' in path.read_text()
    assert 'foreshock_loss{run="run"} 2.0' in path.read_text()
    written(sink)
    text = path.read_text("utf-8")
    run = r'run="a \"run\"\n"'
    for line in (
        f"foreshock_loss{{{run}}} NaN",
        f"foreshock_gradient_norm{{{run}}} +Inf",
        f"foreshock_step{{{run}}} 1.0",
        f"foreshock_running{{{run}}} 0.0",
        f'foreshock_alarms_total{{{run},level="alarm"}} 1',
        f'foreshock_guard_actions_total{{{run},remedy="clip"}} 1',
    ):
        assert line in text.splitlines()
    assert "foreshock_lag" not in text  # unknown, and no zero
    assert all(re.fullmatch(r"(# (HELP|TYPE) \w+ .+)|(\w+\{.+\} \S+)", line) for line in text.splitlines())
    assert [one.name for one in path.parent.iterdir()] == ["run.prom"]
    with pytest.raises(ValueError, match=r"must end in \.prom"):
        Prometheus(tmp_path / "run.txt")


@pytest.mark.filterwarnings("default")
def test_prometheus_reads_the_same_from_a_port(tmp_path):
    parser = pytest.importorskip("prometheus_client.parser")
    path = tmp_path / "run.prom"
    sink = Prometheus(path, port=0)
    address = f"http://127.0.0.1:{sink.port}/metrics"
    for kind, record in ROWS:
        sink.write(kind, record)
    sink.flush()
    with urlopen(address, timeout=60) as answer:
        served = answer.read().decode()

    def samples(text):
        found = {}
        for family in parser.text_string_to_metric_families(text):
            for one in family.samples:
                found[one.name, tuple(sorted(one.labels.items()))] = (family.type, repr(float(one.value)))
        return found

    assert samples(served) == samples(path.read_text("utf-8"))
    assert ("gauge", "1.0") in samples(served).values()
    assert ("foreshock_alarms_total", (("level", "alarm"), ("run", 'a "run"\n'))) in samples(served)
    assert "python_info" not in served
    taken = f"port {sink.port} of 127.0.0.1 can't be listened on .*pass another port="
    with pytest.raises(OSError, match=taken):
        Prometheus(port=sink.port)
    sink.close()
    assert 'foreshock_running{run="a \\"run\\"\\n"} 0.0' in path.read_text("utf-8")
    with pytest.raises(URLError):
        urlopen(address, timeout=60)


def test_prometheus_without_a_place_and_without_its_package_says_what_to_do(monkeypatch):
    with pytest.raises(ValueError, match=r"pass a \.prom file, or port=9464"):
        Prometheus()
    monkeypatch.setattr("foreshock.sinks.packages.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "foreshock\[prometheus\]"'):
        Prometheus(port=0)


@contextmanager
def server(*statuses):
    """Answer with one status after the other, and remember what came."""
    got, left = [], list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            status = left.pop(0) if left else 200
            if status is None:  # the message came, and no answer
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Retry-After", "0")
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}/services/SECRET", got
    finally:
        running.shutdown()
        running.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        (
            "slack",
            {"text": TEXT.replace("<", "&lt;").replace(">", "&gt;")},
        ),
        (
            "discord",
            {
                "content": TEXT,
                "allowed_mentions": {"parse": []},
            },
        ),
    ],
)
def test_a_webhook_sends_one_message_an_alarm(style, expected):
    with server() as (url, got):
        written(Webhook(url, style=style))
    assert got == [expected]


def test_plain_json_has_the_numbers():
    with server() as (url, got):
        alarm = ROWS[4][1] | {"forecast": SimpleNamespace(probability=0.4)}
        Webhook(url).write("alarm", alarm)
    assert (got[0]["step"], got[0]["level"], got[0]["probability"]) == (1, "alarm", 0.4)


@pytest.mark.parametrize(
    ("statuses", "messages", "words"),
    [
        ((503, 429), 3, None),
        ((500, 500, 500, 500), 4, "after 4 tries: it answers 500"),
        ((404,), 1, "after 1 tries: it answers 404"),
        ((302,), 1, "it answers 302"),
        ((None,), 1, "unknown whether it came"),
    ],
)
def test_a_webhook_tries_again_only_where_no_message_came(monkeypatch, statuses, messages, words):
    waits = []
    monkeypatch.setattr("foreshock.sinks.webhook.time.sleep", waits.append)
    with server(*statuses) as (url, got):
        sink = Webhook(url)
        if words is None:
            sink.write(*ROWS[4])
        else:
            with pytest.raises(OSError, match=words) as caught:
                sink.write(*ROWS[4])
            assert "SECRET" not in str(caught.value)
    assert len(got) == messages
    assert waits == [1.0, 2.0, 4.0][: messages - 1]


def test_a_webhook_without_a_server_keeps_its_secret(monkeypatch):
    monkeypatch.setattr("foreshock.sinks.webhook.time.sleep", lambda seconds: None)
    with server() as (url, _):
        pass
    with pytest.raises(OSError, match="after 4 tries: no connection") as caught:
        Webhook(url).write(*ROWS[4])
    assert "SECRET" not in f"{caught.value}{Webhook(url)!r}"


@pytest.mark.parametrize(
    "url", ["", "SECRET", "ftp://a/SECRET", "https://", "https://a/SEC RET", "http://[/SECRET", None]
)
def test_an_address_that_is_none_is_refused_and_not_shown(url):
    with pytest.raises(ValueError, match="must begin with https://") as caught:
        Webhook(url)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"style": "teams"}, "style is 'teams'"),
        ({"tries": 0}, "both must be positive"),
        ({"timeout": math.nan}, "both must be positive"),
        ({"levels": "alarm"}, "tuple of 'watch', 'alarm'"),
    ],
)
def test_options_of_a_webhook_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        Webhook("https://hooks.slack.com/x", **options)


@pytest.mark.filterwarnings("default")
def test_tensorboard_reads_what_was_written(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    written(TensorBoard(tmp_path))
    read = EventAccumulator(str(tmp_path)).Reload()
    losses = read.Scalars("foreshock/loss")
    assert [one.step for one in losses] == [0, 1]
    assert losses[0].value == 2.0
    assert math.isnan(losses[1].value)
    assert read.Scalars("foreshock/level")[0].value == 2.0
    assert "foreshock/lag" not in read.Tags()["scalars"]
    tag = next(tag for tag in read.Tags()["tensors"] if tag.startswith("foreshock/alarms"))
    assert b"within" in read.Tensors(tag)[0].tensor_proto.string_val[0]


@pytest.mark.filterwarnings("default")
def test_mlflow_has_the_metrics_and_the_alarm(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    folder = str(tmp_path / "ml")
    written(MLflow(tracking_uri=folder))
    client = MlflowClient(tracking_uri=folder)
    number = client.get_experiment_by_name("foreshock").experiment_id
    (run,) = client.search_runs([number])
    assert [one.step for one in client.get_metric_history(run.info.run_id, "foreshock/loss")] == [0, 1]
    assert "40%" in run.data.tags["foreshock.alarm"]
    assert run.info.status == "FINISHED"


@pytest.mark.filterwarnings("default")
def test_trackio_has_the_rows_and_the_alert(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", tmp_path)
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path)
    written(Trackio(init={"project": "p", "auto_log_cpu": False, "auto_log_gpu": False, "name": "r"}))
    with sqlite3.connect(tmp_path / "p.db") as base:
        rows = base.execute("select step, metrics from metrics order by id").fetchall()
        alerts = base.execute("select step, title from alerts").fetchall()
    assert [(step, json.loads(metrics)["foreshock/loss"]) for step, metrics in rows[:2]] == [
        (0, 2.0),
        (1, "NaN"),
    ]
    assert alerts == [(1, "Foreshock: alarm at step 1")]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("owned", [True, False])
def test_wandb_logs_offline_and_never_advances_the_users_steps(tmp_path, monkeypatch, owned):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    own = {"project": "p", "reinit": "create_new", "dir": str(tmp_path)}
    run = None if owned else wandb.init(**own)
    sink = WeightsAndBiases(run, init=own)
    if run is not None:
        run.log({"mine": 1.0}, step=7)
    written(sink)
    if run is not None:
        assert run.step == 7
        run.log({"mine": 2.0}, step=7)
        run.finish()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
