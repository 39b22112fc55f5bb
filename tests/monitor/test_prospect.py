"""Whether going back can help is found out first: what is not in the weights stays, and nothing is tried."""

import math

import pytest
import torch
from torch import nn, optim

from foreshock import Ladder, MicroBatches, Monitor, Recorder
from foreshock.monitor import RecoveryFailedError
from foreshock.monitor.losswatch import LossWatch
from foreshock.monitor.prospect import BatchSizes, what_stays
from foreshock.monitor.subject import Subject
from foreshock.runlog import read_run


class Training:
    """A regression with a loss function that the monitor has, and batches that may change."""

    def __init__(self, run=None, *, ladder=None, **options):
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 1)
        )
        self.optimizer = optim.Adam(self.model.parameters(), lr=3e-3)
        self.data, self.step, self.broken = torch.Generator().manual_seed(1), 0, ""
        options = {
            "recorder": Recorder(every=5),
            "recovery": Ladder(**{"window": 300} | (ladder or {})),
        } | options
        self.monitor = Monitor(
            self.model, self.optimizer, self.loss_fn, run=run, full_batch=False, budget=0, **options
        )

    def loss_fn(self, model, batch):
        x, y = batch
        loss = (model(x) - y).square().mean()
        if self.broken == "forward":
            return loss / (loss.detach() - loss.detach())
        return loss + (loss * 0).sqrt() if self.broken == "gradient" else loss

    def go(self, count, *, broken="", scale=1.0, rows=16, spoil=False, skips=False):
        self.broken = broken
        for _ in range(count):
            x = torch.randn(rows, 8, generator=self.data)
            batch = x, scale * x.sum(1, keepdim=True).sin()
            self.optimizer.zero_grad()
            loss = self.loss_fn(self.model, batch)
            loss = loss * math.nan if spoil else loss
            loss.backward()
            self.monitor.observe(batch, loss)
            if not skips:  # as a gradient scaler does
                self.optimizer.step()
            self.step += 1
        return self


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"broken": "forward"}, "a loss of inf, too: look at what can overflow in the forward pass"),
        ({"broken": "gradient"}, "a gradient that is not finite, too: look at roots"),
        (
            {"scale": 8.0, "ladder": {"elsewhere": "stop"}},
            "the data or the loss function are others than before",
        ),
    ],
)
def test_what_is_not_in_the_weights_is_said_before_anything_is_tried(options, words, tmp_path):
    options = dict(options)
    training = Training(tmp_path, ladder=options.pop("ladder", {})).go(45)
    with pytest.raises(RecoveryFailedError, match=words):
        training.go(40, **options)
    assert [one.measure for one in training.monitor.rewinds] == ["stop"]
    assert all(bool(p.isfinite().all()) for p in training.model.parameters())
    training.monitor.close()
    [row] = [row for row in read_run(tmp_path).records["event"] if row["name"] == "recovery failed"]
    assert "with the weights of step" in row["message"]
    assert "nothing was tried" in row["message"]


def test_without_stop_it_is_said_and_the_training_is_left_alone(tmp_path):
    training = Training(tmp_path, ladder={"rungs": ("skip",)}).go(45).go(30, scale=8.0)
    assert training.monitor.rewinds == ()
    training.monitor.close()
    given_up = [row for row in read_run(tmp_path).records["event"] if row["name"] == "recovery given up"]
    assert len(given_up) == 1


@pytest.mark.parametrize("options", [{"scale": 8.0}, {"broken": "forward", "skips": True}])
def test_by_default_a_training_whose_weights_are_whole_goes_on(options, tmp_path):
    """Also on the whole ladder: another mixture of data is no reason to end a run."""
    watched = Training(tmp_path).go(45).go(30, **options)
    plain = Training(recorder=None, recovery=None).go(45).go(30, **options)
    watched.monitor.close()
    [said] = [row for row in read_run(tmp_path).records["event"] if row["name"].startswith("recovery")]
    assert said["name"] == "recovery given up"
    assert said["message"].endswith("nothing was tried. Training goes on as it is")
    assert watched.monitor.rewinds == ()
    for one, other in zip(
        watched.model.state_dict().values(), plain.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)


def test_a_slight_rise_counts_where_batches_have_another_size(tmp_path):
    for rows, count in ((4, 1), (16, 0)):
        run = tmp_path / str(rows)
        training = Training(run).go(60).go(60, rows=rows, scale=1.12)
        training.monitor.close()
        said = [
            row["message"] for row in read_run(run).records["event"] if row["name"] == "recovery given up"
        ]
        assert len(said) == count
    assert all("rise of the loss from step 60 on" in one for one in said)


@pytest.mark.parametrize(("first", "count"), [(30, 1), (30, 2), (34, 1), (39, 2)])
def test_one_or_two_bad_batches_are_passed_over(first, count):
    """Whenever they come between two readings: at the present step they are waited out."""
    training = Training().go(first).go(count, broken="forward").go(15)
    assert [one.measure for one in training.monitor.rewinds] == ["skip"]
    assert all(bool(p.isfinite().all()) for p in training.model.parameters())


def test_what_is_in_the_weights_is_brought_back():
    training = Training().go(45)
    with torch.no_grad():
        training.model[-1].weight.mul_(300)
    training.go(20)
    assert [one.measure for one in training.monitor.rewinds] == ["skip"]


def test_trying_leaves_no_trace_in_the_training(tmp_path):
    """The run that was tried and found hopeless goes on as the one that nobody watched."""
    watched = Training(tmp_path, ladder={"rungs": ("skip",)}).go(45).go(30, scale=8.0)
    plain = Training(recorder=None, recovery=None).go(45).go(30, scale=8.0)
    watched.monitor.close()
    names = [row["name"] for row in read_run(tmp_path).records["event"]]
    assert "recovery given up" in names
    assert "prospect unknown" not in names
    for one, other in zip(
        watched.model.state_dict().values(), plain.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)


def test_a_loss_function_that_fails_when_tried_does_not_keep_a_run_from_going_back(tmp_path):
    training = Training(tmp_path).go(60)
    training.monitor._rewinding._subject.__dict__["loss_fn"] = lambda model, batch: model(batch).nothing
    training.go(1, spoil=True).go(15)
    assert [one.measure for one in training.monitor.rewinds] == ["skip"]
    training.monitor.close()
    rows = [row for row in read_run(tmp_path).records["event"] if row["name"] == "prospect unknown"]
    assert rows
    assert "Error" in rows[0]["message"]


def test_parts_of_an_accumulation_are_tried_together():
    training = Training().go(30)
    snapshot = training.monitor.recorder.newest()
    x = torch.randn(12, 8)
    parts = MicroBatches([(x[:8], x[:8, :1]), (x[8:], 1e4 * x[8:, :1])], counts=[8, 4])
    subject = Subject(training.model, [training.optimizer], training.loss_fn)
    assert "others than before" in what_stays(snapshot, 40, parts, subject, bar=10.0)
    assert what_stays(snapshot, 40, parts, subject, bar=1e12) == ""
    assert what_stays(snapshot, 40, parts, subject, bar=math.nan) == ""
    with pytest.raises(ValueError, match="no loss_fn"):
        what_stays(snapshot, 40, parts, Subject(training.model, [training.optimizer]), bar=1.0)


def test_casts_of_the_present_weights_are_not_tried_instead():
    """Inside of autocast, which keeps the casts of weights that it has seen."""
    training = Training().go(30)
    snapshot = training.monitor.recorder.newest()
    batch = torch.randn(16, 8), torch.zeros(16, 1)
    subject = Subject(training.model, [training.optimizer], training.loss_fn)
    with torch.no_grad():
        training.model[-1].weight.mul_(1e4)
    with torch.autocast("cpu", torch.bfloat16):
        assert training.loss_fn(training.model, batch) > 1e4
        assert what_stays(snapshot, 40, batch, subject, bar=1e3) == ""
        assert training.loss_fn(training.model, batch) > 1e4


def test_batches_of_another_size_are_named_and_varied_ones_are_not():
    sizes, varied = BatchSizes(), BatchSizes()
    for step in range(60):
        sizes.see(step, 160 if step < 50 else 16)
        varied.see(step, [160, 40, 80][step % 3] if step < 50 else 40)
    assert "from step 50 on batches have 16 values and not 160" in sizes.changed(48)
    assert sizes.changed(53) == "", "too few are usual by then, or others"
    assert varied.changed(48) == ""
    other = BatchSizes()
    other.load_state_dict(sizes.state_dict())
    assert other.changed(48) == sizes.changed(48)


def test_another_size_lasts_only_if_it_stays_and_is_new():
    sizes, varied = BatchSizes(), BatchSizes()
    lasting, of_varied = [], []
    for step in range(100):
        sizes.see(step, 160 if step < 50 else 16)
        varied.see(step, [160, 40][step // 25 % 2])  # buckets, each for a while
        lasting.append(sizes.lasting(step))
        of_varied.append(varied.lasting(step))
    assert lasting == [None] * 70 + [50] * 30
    assert set(of_varied[75:]) == {None}


def test_a_slight_rise_after_a_change_is_more_than_noise():
    torch.manual_seed(0)
    noise = 0.05 * torch.randn(1000, 60)
    for rise, all_or_none in ((0.2, True), (0.0, False), (-0.2, False)):
        found = []
        for losses in (1 + noise[:50]).tolist():
            watch = LossWatch()
            for step, loss in enumerate(losses):
                watch.rises(step, loss + rise * (step >= 35))
            found.append(watch.is_higher(35))
        assert set(found) == {all_or_none}


def test_the_bar_of_losses_is_that_of_the_time_before():
    watch = LossWatch()
    for step in range(60):
        watch.rises(step, 1.0 if step < 50 else 40.0)
    assert watch.bar(49) == pytest.approx(1.3)
    assert math.isnan(LossWatch().bar(10))


def test_a_second_moment_that_was_not_loaded_is_said(tmp_path):
    training = Training(tmp_path).go(40)
    state, saved = training.monitor.state_dict(), training.optimizer.state_dict()
    training.monitor.close()
    for kept in (True, False):
        resumed = Training(tmp_path)
        resumed.model.load_state_dict(training.model.state_dict())
        resumed.optimizer.load_state_dict(saved)
        if not kept:
            for one in resumed.optimizer.state.values():
                one["exp_avg_sq"].zero_()
        resumed.monitor.load_state_dict(state)
        resumed.go(10)
        resumed.monitor.close()
        said = [
            row["message"]
            for row in read_run(tmp_path).records["event"]
            if row["name"] == "recovery given up"
        ]
        assert len(said) == (0 if kept else 1)
    assert "v was not loaded" in said[0]


@pytest.mark.parametrize("every", [5, 500])
def test_another_size_of_batches_is_not_rewound_however_old_the_snapshot_is(every, tmp_path):
    training = Training(tmp_path, recorder=Recorder(every=every)).go(130).go(50, rows=4, scale=1.5)
    training.monitor.close()
    assert training.monitor.rewinds == ()
    [said] = [row for row in read_run(tmp_path).records["event"] if row["name"].startswith("recovery")]
    assert "from step 130 on batches have 36 values and not 144" in said["message"]


def test_a_smaller_last_batch_of_each_epoch_is_no_other_size(tmp_path):
    training = Training(tmp_path)
    for _ in range(6):
        training.go(24).go(1, rows=4)
    with torch.no_grad():
        training.model[-1].weight.mul_(300)
    training.go(20)
    assert [one.measure for one in training.monitor.rewinds] == ["skip"]


def test_a_loss_that_is_no_number_is_undone_soon_after_another_trouble_was_given_up():
    """The batches are others since, so that what was usual before says nothing of the next trouble."""
    training = Training().go(45).go(30, scale=8.0)
    assert training.monitor.rewinds == ()
    training.go(1, scale=8.0, spoil=True).go(24, scale=8.0)
    [done] = training.monitor.rewinds
    assert (done.measure, done.to < 75 <= done.step) == ("skip", True)
    assert all(bool(p.isfinite().all()) for p in training.model.parameters())


def test_what_can_not_be_helped_is_said_once_also_where_the_loss_is_no_number(tmp_path):
    training = Training(tmp_path).go(45).go(60, broken="forward", skips=True)
    training.monitor.close()
    [_] = [row for row in read_run(tmp_path).records["event"] if row["name"].startswith("recovery")]


def test_who_goes_back_by_hand_in_the_middle_is_not_taken_back_again():
    training = Training().go(45)
    while not training.monitor._rewinding.recovery.in_doubt:
        training.go(1, scale=8.0)
    done = training.monitor.rewind()
    training.go(40)
    assert training.monitor.rewinds == (done,)


def test_sizes_that_changed_before_a_resume_are_known_after_it():
    sizes, resumed = BatchSizes(), BatchSizes()
    for step in range(65):
        sizes.see(step, 160 if step < 50 else 16)
    resumed.load_state_dict(sizes.state_dict())
    for step in range(65, 75):
        resumed.see(step, 16)
    assert resumed.lasting(74) == 50
