"""Going back in a running training, by hand and by a ladder: what changes, is written down, is refused."""

import math
from unittest import mock

import pytest
import torch
from torch import nn, optim

from foreshock import Ladder, Monitor, Recorder
from foreshock.live.marks import explanation, marks
from foreshock.live.run import LiveRun
from foreshock.monitor import RecoveryFailedError
from foreshock.monitor.ladder import Climb
from foreshock.monitor.losswatch import LossWatch
from foreshock.monitor.rates import RateFactor
from foreshock.recorder import list_snapshots
from foreshock.report import summarise, to_text
from foreshock.runlog import read_run


class Training:
    """A regression whose losses are told to the monitor as they come out, some of them spoilt."""

    def __init__(self, *, optimizer=None, scheduler=None, **options):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 1))
        make = optimizer or (lambda parameters: optim.Adam(parameters, lr=3e-3))
        self.optimizer = make(self.model.parameters())
        self.scheduler = scheduler(self.optimizer) if scheduler else None
        self.data = torch.Generator().manual_seed(1)
        self.step, self.batches, self.rates = 0, [], []
        self.monitor = Monitor(self.model, self.optimizer, full_batch=False, **options)

    def go(self, count, spoil=None, *, after=None):
        for _ in range(count):
            x = torch.randn(16, 8, generator=self.data)
            y = x.sum(1, keepdim=True).sin()
            self.optimizer.zero_grad()
            loss = (self.model(x) - y).square().mean()
            loss = spoil(loss, self) if spoil else loss
            loss.backward()
            self.batches.append(float(x.sum()))
            self.monitor.observe((x, y), loss, ids=[self.step])
            if after:
                after(self)
            self.optimizer.step()
            if self.scheduler:
                self.scheduler.step()
            self.rates.append(self.optimizer.param_groups[0]["lr"])
            self.step += 1
        return self

    def weights(self):
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])


def breaks(loss, training):
    return loss * math.nan


def jumps(loss, training):
    return loss * 1000


def test_a_nan_is_undone_and_training_goes_on_past_its_batches(tmp_path):
    training = Training(run=tmp_path, recorder=Recorder(every=5), recovery=Ladder())
    training.go(60).go(1, breaks).go(60)
    [done] = training.monitor.rewinds
    assert done.to < 60 <= done.step
    assert (done.first_skipped, done.last_skipped, done.measure) == (done.to + 1, done.step, "skip")
    assert done.ids == tuple(range(done.to + 1, done.step + 1))
    assert training.weights().isfinite().all()
    training.monitor.close()
    run = read_run(tmp_path)
    row = next(row for row in run.records["event"] if row["name"] == "rewind: skip")
    assert (row["to"], row["step"], row["ids"]) == (done.to, done.step, list(done.ids))
    assert f"back to step {done.to} from step {done.step}" in row["message"]
    assert "rewind: skip" in to_text(summarise(run))
    assert len(list((tmp_path / "snapshots").iterdir())) == 1


def test_what_goes_on_is_the_run_that_never_saw_the_batches():
    failed = Training(recorder=Recorder(every=5), recovery=Ladder()).go(60).go(1, breaks).go(60)
    [done] = failed.monitor.rewinds
    whole = Training().go(done.to + 1)
    for _ in range(done.step - done.to):  # the batches that are passed over
        torch.randn(16, 8, generator=whole.data)
        torch.empty(16, 16).bernoulli_(0.9)  # and the dropout masks that they drew
    whole.step = done.step + 1
    whole.go(failed.step - done.step - 1)
    assert torch.equal(whole.weights(), failed.weights())


def test_the_training_is_untouched_as_long_as_nothing_happens():
    plain, watched = Training().go(150), Training(recorder=Recorder(every=3), recovery=Ladder()).go(150)
    assert watched.monitor.rewinds == ()
    assert torch.equal(plain.weights(), watched.weights())
    assert str(plain.optimizer.state_dict()) == str(watched.optimizer.state_dict())


def test_the_rungs_follow_and_the_last_stops_with_a_whole_model(tmp_path):
    training = Training(run=tmp_path, recorder=Recorder(every=5), recovery=Ladder())
    training.go(60)
    with pytest.raises(RecoveryFailedError, match="came again after each measure"):
        training.go(200, breaks)
    names = [one.measure for one in training.monitor.rewinds]
    assert names == ["skip", "raise v", "lower rate", "rewind", "stop"]
    assert training.weights().isfinite().all()
    training.monitor.close()
    named = [row["name"] for row in read_run(tmp_path).records["event"]]
    assert named.count("recovery failed") == 1
    assert {"rewind: skip", "rewind: raise v", "rewind: lower rate", "rewind", "rewind: stop"} <= set(named)


def test_without_stop_it_gives_up_in_words_and_training_goes_on(tmp_path):
    training = Training(run=tmp_path, recorder=Recorder(every=5), recovery=Ladder(("skip",), window=1000))
    training.go(60).go(100, breaks)
    assert len(training.monitor.rewinds) == 1
    training.monitor.close()
    events = [row for row in read_run(tmp_path).records["event"] if row["name"] == "recovery given up"]
    assert len(events) == 1
    assert "Its cause is not in the weights" in events[0]["message"]


def test_a_trouble_before_the_first_snapshot_is_said(tmp_path):
    training = Training(run=tmp_path, recovery=Ladder()).go(30, breaks)
    training.monitor.close()
    assert training.monitor.rewinds == ()
    assert "no snapshot from before step 0" in str(read_run(tmp_path).records["event"][:])


def test_raising_v_makes_the_next_steps_smaller():
    ladder = Ladder(("raise v",), raise_by=100.0)
    training = Training(recorder=Recorder(every=1), recovery=ladder).go(60)
    sums = []
    training.go(1, breaks, after=lambda t: sums.append(second_moment(t)))
    assert training.monitor.rewinds[0].step == 60
    to = training.monitor.recorder.newest(before=60)
    saved = sum(float(v.sum()) for k, v in to.tensors.items() if k.endswith("exp_avg_sq"))
    assert 80 * saved < sums[-1] < 140 * saved


def second_moment(training):
    return sum(float(state["exp_avg_sq"].sum()) for state in training.optimizer.state.values())


def test_a_lower_rate_holds_against_a_schedule_that_sets_it(tmp_path):
    used = []
    training = Training(recorder=Recorder(every=5), recovery=Ladder(("lower rate",), rate_factor=0.25))
    training.optimizer.register_step_pre_hook(lambda o, *_: used.append(o.param_groups[0]["lr"]))

    def schedule(t):
        t.optimizer.param_groups[0]["lr"] = 2e-3

    training.go(60, after=schedule).go(1, breaks, after=schedule).go(40, after=schedule)
    assert len(training.monitor.rewinds) == 1
    training.optimizer.register_step_pre_hook(lambda o, *_: used.append(o.param_groups[0]["lr"]))
    training.go(1, after=schedule)
    assert used[-1] == pytest.approx(5e-4)
    assert training.rates[-1] == 2e-3


def test_a_rate_that_jumped_becomes_what_it_was():
    used = []
    training = Training(recorder=Recorder(every=5), recovery=Ladder(("lower rate",), rate_factor=0.5))

    def raised(t):
        t.optimizer.param_groups[0]["lr"] = 3e-2

    training.go(58).go(2, after=raised).go(1, breaks, after=raised).go(40, after=raised)
    training.optimizer.register_step_pre_hook(lambda o, *_: used.append(o.param_groups[0]["lr"]))
    training.go(1, after=raised)
    assert used == [pytest.approx(3e-3)]


@pytest.mark.parametrize("recorded", [True, False])
def test_a_schedule_goes_back_if_it_is_recorded_and_goes_on_else(recorded):
    def schedule(optimizer):
        return optim.lr_scheduler.ExponentialLR(optimizer, 0.99)

    training = Training(scheduler=schedule, recorder=Recorder(every=5)).go(0)
    if recorded:
        training = Training(scheduler=schedule).go(0)
        recorder = Recorder(every=5, scheduler=training.scheduler)
        training.monitor = Monitor(training.model, training.optimizer, full_batch=False, recorder=recorder)
    training.go(52)
    done = training.monitor.rewind(before=42)
    assert done.to == 40
    training.go(1)
    # At step 40 it had been stepped 40 times; the step that is repeated makes it 41.
    assert training.rates[-1] == pytest.approx(3e-3 * 0.99 ** (41 if recorded else 53), rel=1e-9)


def test_options_that_were_changed_are_put_back_from_before_the_change():
    training = Training(
        optimizer=lambda p: optim.SGD(p, lr=0.01, momentum=0.5), recorder=Recorder(every=5), recovery=Ladder()
    )
    training.go(60)
    training.optimizer.param_groups[0]["momentum"] = 0.99
    training.go(15).go(1, breaks).go(40)
    assert training.monitor.rewinds[0].to < 60
    assert training.optimizer.param_groups[0]["momentum"] == 0.5


def test_a_spike_that_is_finite_is_noticed():
    training = Training(recorder=Recorder(every=5), recovery=Ladder(("skip",)))
    training.go(80).go(3, jumps).go(40)
    [done] = training.monitor.rewinds
    assert done.to < 80 <= done.step
    assert "step 8" in done.reason


def test_rewind_by_hand_inside_on_alarm_and_at_the_end_of_a_step():
    training = Training(recorder=Recorder(every=5)).go(50)
    training.go(1, breaks).go(3)
    assert training.weights().isnan().any()
    done = training.monitor.rewind()
    assert done.to == 45  # the snapshot of step 50 has the gradients that were not finite
    assert training.weights().isfinite().all()
    given = []
    other = Training(recorder=Recorder(every=5), on_alarm=lambda alarm: given.append(other.monitor.rewind()))
    other.go(50).go(1, breaks).go(20)
    assert len(given) == 1
    assert other.weights().isfinite().all()


def test_on_alarm_rewind_is_a_ladder_that_acts_at_alarms():
    training = Training(on_alarm="rewind").go(30)
    assert training.monitor._rewinding.recovery.ladder == Ladder(at="alarm")
    assert training.monitor.recorder is not None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Training().monitor.rewind(), r"pass recorder=foreshock.Recorder\(\) to Monitor"),
        (lambda: Training(recorder=Recorder()).monitor.rewind(), "there is no snapshot in memory"),
        (
            lambda: Training(recorder=Recorder(max_bytes=9)).go(1).monitor.rewind(),
            "max_bytes is 9: pass a larger",
        ),
        (lambda: Training(on_alarm="rewnd"), "on_alarm is 'rewnd'; pass a function of an Alarm, 'rewind'"),
        (lambda: Ladder(("jump",)), "rungs is .'jump',.; it has some of 'skip', 'raise v'"),
        (lambda: Ladder(()), "rungs is"),
        (lambda: Ladder(at="never"), "at is 'never'"),
        (lambda: Ladder(window=0), "both must be 1 or more"),
        (lambda: Ladder(rate_factor=math.nan), "rate_factor nan"),
        (lambda: Ladder(raise_by=1.0), "raise_by is 1.0"),
    ],
)
def test_what_can_not_be_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_one_of_several_processes_is_not_rewound():
    with mock.patch("foreshock.monitor.agreement.several_processes", return_value=True):
        training = Training(recorder=Recorder(every=1), recovery=Ladder()).go(20).go(20, breaks)
        assert training.monitor.rewinds == ()
        with pytest.raises(ValueError, match="one of several processes is not rewound by itself"):
            training.monitor.rewind()


@pytest.mark.parametrize("several", [True, False])
def test_an_alarm_of_one_process_alone_leaves_snapshots_where_all_have_them(several, monkeypatch):
    training = Training(recorder=Recorder(every=20)).go(30)
    monkeypatch.setattr("foreshock.monitor.probing.several_processes", lambda: several)
    training.monitor._last = mock.Mock(wraps=training.monitor._last, level="alarm")
    with mock.patch.object(training.monitor.recorder, "take") as take:
        training.go(1)
    assert take.call_args.kwargs["dense"] is not several


def test_a_damaged_snapshot_leads_to_the_one_before_it(tmp_path, caplog):
    training = Training(run=tmp_path, recorder=Recorder(every=5)).go(31)
    recorder = training.monitor.recorder
    for before in (20, 31):
        recorder.write(tmp_path, reason="a test", before=before)
    training.monitor.close()
    older, newer = list_snapshots(tmp_path)
    recording = training.monitor._rewinding.recording
    assert recording.newest(tmp_path, before=31).step == 30
    (newer / "tensors.safetensors").write_bytes(b"torn")
    assert recording.newest(tmp_path, before=31).step == 15
    assert f"{newer} is damaged" in caplog.text
    assert "it is passed over" in caplog.text
    (older / "state.json").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="before step 31: there is none at all"):
        recording.newest(tmp_path, before=31)


def test_there_are_at_most_so_many_measures_in_a_window():
    climb = Climb(Ladder(("skip", "rewind"), window=100, most=2))
    assert [climb.next_rung(step) for step in (1, 2, 3)] == ["skip", "rewind", "give up"]
    assert Climb(Ladder(window=100, most=1)).next_rung(1) == "skip"
    assert climb.next_rung(2000) == "skip"
    many = Climb(Ladder(("skip", "stop"), window=10, most=1))
    assert [many.next_rung(1), many.next_rung(2)] == ["skip", "stop"]
    assert Climb(Ladder()).next_rung(0, left_out=("skip", "raise v")) == "lower rate"


def test_a_loss_that_only_wavers_or_falls_does_not_rise():
    torch.manual_seed(0)
    for losses in (
        torch.rand(400) + 1,
        3 * 0.99 ** torch.arange(400.0),
        -torch.arange(400.0),
        torch.ones(400),
    ):
        watch = LossWatch()
        assert not any(watch.rises(step, float(loss)) for step, loss in enumerate(losses))


def test_the_live_page_marks_a_rewind(tmp_path):
    training = (
        Training(run=tmp_path, recorder=Recorder(every=5), recovery=Ladder()).go(60).go(1, breaks).go(30)
    )
    training.monitor.close()
    run = LiveRun(tmp_path / "rank0.jsonl", name="a")
    run.look()
    [mark] = [one for one in marks(run, None)["events"] if one["label"].startswith("rewind")]
    [done] = training.monitor.rewinds
    assert (mark["step"], mark["label"], mark["sort"]) == (done.step, "rewind: skip", "rewind")
    assert f"Back to step {done.to}" in explanation(run, None, mark["key"])["text"][0]


def test_a_step_that_fails_leaves_no_rate_lowered_twice():
    weight = nn.Parameter(torch.ones(1))
    optimizer = optim.SGD([weight], lr=1.0)
    factor = RateFactor([optimizer])
    factor.lower(0.5)

    def fails():
        raise RuntimeError("a worker died")

    for _ in range(3):
        with pytest.raises(RuntimeError, match="a worker died"):
            optimizer.step(fails)
    weight.grad = torch.ones(1)
    optimizer.step()
    assert weight.item() == 0.5
    assert optimizer.param_groups[0]["lr"] == 1.0


@pytest.mark.parametrize("options", [{"guard": "no such"}, {"run": "file/run"}])
def test_a_monitor_that_was_refused_leaves_its_recorder_free(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    recorder = Recorder()
    with pytest.raises((ValueError, OSError), match=r"no such|file"):
        Training(recorder=recorder, **options)
    assert Training(recorder=recorder).go(1).monitor.recorder is recorder


def test_a_model_that_grows_is_no_longer_brought_back_and_trains_on(tmp_path):
    training = Training(run=tmp_path, recorder=Recorder(every=5), recovery=Ladder())
    training.go(30)
    added = nn.Linear(1, 1)
    training.model.append(added)
    training.optimizer.add_param_group({"params": list(added.parameters())})
    training.go(1, breaks).go(30)
    training.monitor.close()
    assert training.step == 61
    events = [event["name"] for event in read_run(tmp_path).records["event"]]
    assert "recovery given up" in events


def test_a_resumed_run_goes_on_on_its_ladder():
    """The second trouble within the window asks for the next rung, and the rate stays lowered."""
    ladder = Ladder(("lower rate", "raise v"), window=200, rate_factor=0.25)
    used = []
    first = Training(recorder=Recorder(every=5), recovery=ladder).go(60).go(1, breaks).go(20)
    assert [(one.measure, one.rate_factor) for one in first.monitor.rewinds] == [("lower rate", 0.25)]
    second = Training(recorder=Recorder(every=5), recovery=ladder)
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.monitor.load_state_dict(first.monitor.state_dict())
    second.optimizer.register_step_pre_hook(lambda o, *_: used.append(o.param_groups[0]["lr"]))
    second.go(30).go(1, breaks).go(20)
    assert used[0] == pytest.approx(0.25 * 3e-3)
    assert [(one.measure, one.rate_factor) for one in second.monitor.rewinds] == [("raise v", 0.25)]


def test_a_resume_without_its_ladder_says_that_the_rate_is_no_longer_lowered(tmp_path):
    ladder = Ladder(("lower rate",), rate_factor=0.25)
    first = Training(recorder=Recorder(every=5), recovery=ladder).go(60).go(1, breaks).go(20)
    second = Training(run=tmp_path)
    second.monitor.load_state_dict(first.monitor.state_dict())
    second.monitor.close()
    assert "multiplied by 0.25" in str(read_run(tmp_path).records["event"][:])


def test_a_recorder_without_room_is_named_where_nothing_can_be_put_back(tmp_path):
    training = Training(run=tmp_path, recorder=Recorder(every=5, max_bytes=9), recovery=Ladder())
    training.go(12).go(10, breaks).monitor.close()
    rows = [row for row in read_run(tmp_path).records["event"] if row["name"] == "recovery given up"]
    assert "max_bytes is 9: pass a larger one" in rows[0]["message"]
