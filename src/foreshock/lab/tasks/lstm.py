"""A small LSTM that reads digits row by row, or text byte by byte."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from foreshock.demo.data import DIGIT_IMAGES, load_digits
from foreshock.demo.options import check_choice, check_count
from foreshock.lab.tasks.corpus import BYTES, byte_pairs, check_context
from foreshock.lab.tasks.streams import stream_batches
from foreshock.lab.tasks.task import LABEL_LOSSES, Batch, Task, build_seeded

DIGIT_CLASSES = 10
DIGIT_SIDE = 8
HELD_OUT = 200


def build_lstm(
    *,
    batch_size: int | None,
    seed: int,
    data: str = "digits",
    path: str | Path | None = None,
    examples: int = 100,
    length: int = 16,
    context: int = 0,
    hidden: int = 32,
    loss: str = "mse",
) -> Task:
    """Build one LSTM layer with a linear readout.

    Args:
        batch_size: Examples in a batch; None for all.
        seed: Seed of the initial weights and of the batches.
        data: "digits", images read as eight rows and classified at the end; or "text", bytes of which
            the next one is predicted at every position.
        path: Text file, see `read_text`; not for the digits.
        examples: Number of images or sequences.
        length: Bytes in a sequence; the digits always have eight rows.
        context: Bytes read before the first prediction that counts, in addition to one; only for text.
        hidden: Width of the hidden state.
        loss: "mse", squared error to the one-hot label summed over classes, or "ce".

    Raises:
        ValueError: If an option is out of range.
        FileNotFoundError: If there is no such text.
        ImportError: If scikit-learn, which has the digits, is not installed.
    """
    check_choice("data", data, ("digits", "text"))
    check_choice("loss", loss, LABEL_LOSSES)
    for name, value in (("examples", examples), ("length", length), ("hidden", hidden)):
        check_count(name, value)
    check_context(context, length=length)
    if data == "digits":
        images, labels = load_digits(min(examples + HELD_OUT, DIGIT_IMAGES))
        rows = images.squeeze(1)
        pair: tuple[Tensor, ...] = (rows[:examples], labels[:examples])
        held_out: Batch | None = (rows[examples:], labels[examples:]) if len(rows) > examples else None
    else:
        pair, held_out = byte_pairs(path, examples, length=length, context=context)
    reader = DigitReader if data == "digits" else ByteReader
    return Task(
        name="lstm",
        model=build_seeded(lambda: reader(hidden), seed=seed),
        loss_fn=LABEL_LOSSES[loss],
        batches=stream_batches(pair, batch_size=batch_size, seed=seed),
        batch_size=batch_size,
        examples=examples,
        validation=held_out,
    )


class DigitReader(nn.Module):
    """Read an image row by row and score the ten classes at the end."""

    def __init__(self, hidden: int) -> None:
        """Create the layers.

        Args:
            hidden: Width of the hidden state.
        """
        super().__init__()
        self.lstm = nn.LSTM(DIGIT_SIDE, hidden, batch_first=True)
        self.output = nn.Linear(hidden, DIGIT_CLASSES)

    def forward(self, rows: Tensor) -> Tensor:
        """Map images of shape (N, 8, 8) to scores of shape (N, 10)."""
        states, _ = self.lstm(rows)
        scores: Tensor = self.output(states[:, -1])
        return scores


class ByteReader(nn.Module):
    """Read bytes and score the next one at every position."""

    def __init__(self, hidden: int) -> None:
        """Create the layers.

        Args:
            hidden: Width of the embedding and of the hidden state.
        """
        super().__init__()
        self.embedding = nn.Embedding(BYTES, hidden)
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True)
        self.output = nn.Linear(hidden, BYTES)

    def forward(self, symbols: Tensor) -> Tensor:
        """Map bytes of shape (N, length) to scores of shape (N, length, 256)."""
        states, _ = self.lstm(self.embedding(symbols))
        scores: Tensor = self.output(states)
        return scores
