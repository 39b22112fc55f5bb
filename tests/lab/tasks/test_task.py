import pytest
import torch
from torch import nn

from foreshock.lab.tasks.task import cross_entropy, one_hot_error, squared_error


class Fixed(nn.Module):
    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def forward(self, inputs):
        return self.scores


def test_squared_error_by_hand():
    model = Fixed(torch.tensor([[1.0], [4.0]]))
    assert squared_error(model, (torch.zeros(2), torch.tensor([[0.0], [2.0]]))).item() == 2.5


def test_one_hot_error_by_hand():
    # ‖(.5, .5) − (1, 0)‖² = .5 and ‖(0, 1) − (0, 1)‖² = 0.
    model = Fixed(torch.tensor([[0.5, 0.5], [0.0, 1.0]]))
    assert one_hot_error(model, (torch.zeros(2), torch.tensor([0, 1]))).item() == 0.25


def test_cross_entropy_by_hand():
    # Odds of 3 : 1 for the label: −ln ¾.
    model = Fixed(torch.tensor([[3.0, 1.0]]).log())
    expected = -torch.tensor(0.75).log().item()
    assert cross_entropy(model, (torch.zeros(1), torch.tensor([0]))).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss_fn", [one_hot_error, cross_entropy])
def test_only_the_last_positions_count_if_there_are_fewer_labels(loss_fn):
    scores, labels = torch.randn(3, 5, 4), torch.randint(4, (3, 2))
    short = loss_fn(Fixed(scores), (torch.zeros(3), labels))
    alone = loss_fn(Fixed(scores[:, 3:]), (torch.zeros(3), labels))
    changed = scores.clone()
    changed[:, :3] += torch.randn(3, 3, 4)
    assert short.item() == alone.item()
    assert loss_fn(Fixed(changed), (torch.zeros(3), labels)).item() == short.item()
