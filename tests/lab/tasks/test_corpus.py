import pytest
import torch

from foreshock.lab.tasks import build_task
from foreshock.lab.tasks.corpus import cut_sequences, encode_bytes, encode_words, read_text


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("ab\n\n  cd ef" * 20)
    return path


def test_white_space_collapses(text):
    assert read_text(text).startswith(b"ab cd efab cd")


def test_the_standard_library_is_long_and_stays_the_same():
    assert len(read_text()) > 1_000_000
    assert read_text() == read_text()


def test_missing_text(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no text file .*none\.txt; check the option path"):
        read_text(tmp_path / "none.txt")


def test_bytes_round_trip():
    assert bytes(encode_bytes(b"\x00a\xff").tolist()) == b"\x00a\xff"


def test_rare_words_share_a_symbol():
    symbols = encode_words("der Bär, der Hund".encode(), vocabulary=2)
    assert symbols.tolist() == [1, 0, 0, 1, 0]


def test_sequences_are_spread_evenly():
    assert cut_sequences(torch.arange(10), 2, length=3).tolist() == [[0, 1, 2], [5, 6, 7]]
    with pytest.raises(ValueError, match="3 sequences of 4 symbols do not fit into a text of 10"):
        cut_sequences(torch.arange(10), 3, length=4)


@pytest.mark.parametrize("sequences", [4, None])
@pytest.mark.parametrize("context", [0, 3])
def test_targets_are_the_next_symbols(text, sequences, context):
    task = build_task(
        "language",
        batch_size=2,
        seed=0,
        path=text,
        sequences=sequences,
        length=5,
        context=context,
        width=8,
        heads=2,
    )
    whole = text.read_bytes().replace(b"\n\n  ", b" ")
    for _ in range(5):
        inputs, targets = next(task.batches)
        assert inputs.shape == (2, 5)
        assert targets.shape == (2, 5 - context)
        for row, target in zip(inputs.tolist(), targets.tolist(), strict=True):
            assert bytes(row + target[-1:]) in whole
            assert row[1 + context :] == target[:-1]


def test_fresh_text_never_repeats_the_batch():
    task = build_task("language", batch_size=2, seed=0, sequences=None, length=8, width=8, heads=2)
    first = next(task.batches)[0]
    assert not any(torch.equal(first, next(task.batches)[0]) for _ in range(20))
    assert task.examples is None


@pytest.mark.parametrize("context", [-1, 0.5, 5])
@pytest.mark.parametrize(("family", "more"), [("language", {}), ("lstm", {"data": "text"})])
def test_context_must_leave_something_to_predict(family, more, context):
    with pytest.raises(ValueError, match="context"):
        build_task(family, batch_size=None, seed=0, length=5, context=context, **more)


def test_text_that_is_too_short(text):
    task = build_task(
        "language", batch_size=2, seed=0, path=text, sequences=None, length=999, width=8, heads=2
    )
    with pytest.raises(ValueError, match="too short for sequences of 1000"):
        next(task.batches)
