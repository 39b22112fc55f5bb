import pytest
import torch

from foreshock.recorder import load_snapshot, write_snapshot
from recorder.trainings import CASES, Loop


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("place", ["here", "elsewhere"])
def test_the_restored_training_is_the_original_bit_by_bit(name, place, tmp_path):
    case = CASES[name]
    original = Loop(case, recorder={}).train(0, 12)
    snapshot = original.recorder.newest()
    assert snapshot.step == 12
    path = write_snapshot(snapshot, tmp_path)
    original.monitor = original.recorder = None
    reference = Loop(case).train(0, 25)
    # In the same process, after the training went astray; or in a new training, as a new process.
    loop = original.train(50, 53) if place == "here" else Loop(case, seed=3)
    load_snapshot(path).restore(loop.model, loop.optimizers, scheduler=loop.scheduler, scaler=loop.scaler)
    loop.finish(reference.losses[12])
    loop.train(13, 25)
    assert torch.equal(torch.stack(loop.losses[-13:]), torch.stack(reference.losses[-13:]))
    assert loop.bits() == reference.bits()
