"""Text as symbols: bytes, or words of a vocabulary made of the most frequent ones."""

from __future__ import annotations

import re
import sysconfig
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from foreshock.demo.options import check_count

BYTES = 256
UNKNOWN_WORD = 0


def read_text(path: str | Path | None = None) -> bytes:
    """Return a text with runs of white space collapsed to one blank.

    Args:
        path: A text file; by default all top-level modules of Python's standard library, in the order
            of their names. That text depends on the version of Python, and on nothing else.

    Raises:
        FileNotFoundError: If there is no such file, or this Python has no source on disk.
    """
    if path is not None:
        place = Path(path)
        if not place.is_file():
            raise FileNotFoundError(f"There is no text file {place}; check the option path.")
        return b" ".join(place.read_bytes().split())
    library = Path(sysconfig.get_paths()["stdlib"])
    modules = sorted(file for file in library.glob("*.py") if not file.name.startswith("_"))
    if not modules:
        raise FileNotFoundError(
            f"{library} has no Python source (a zipped or stripped installation); "
            "use a regular CPython or pass a text file as path."
        )
    return b" ".join(b" ".join(file.read_bytes().split()) for file in modules)


def encode_bytes(text: bytes) -> Tensor:
    """Return the bytes as symbols 0 to 255.

    Args:
        text: The text.

    Returns:
        int64, shape (len(text),).
    """
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).to(torch.int64)


def encode_words(text: bytes, *, vocabulary: int) -> Tensor:
    """Return the words and punctuation marks as symbols.

    Args:
        text: The text, UTF-8; undecodable bytes are replaced.
        vocabulary: Number of symbols: the most frequent words, and 0 for all others.

    Returns:
        int64, shape (words,).

    Example:
        >>> encode_words(b"a b a, b a", vocabulary=3).tolist()
        [1, 2, 1, 0, 2, 1]
    """
    words = re.findall(r"\w+|[^\w\s]", text.decode("utf-8", errors="replace"))
    frequent = Counter(words).most_common(vocabulary - 1)
    number = {word: i for i, (word, _) in enumerate(frequent, start=UNKNOWN_WORD + 1)}
    return torch.tensor([number.get(word, UNKNOWN_WORD) for word in words], dtype=torch.int64)


def cut_sequences(symbols: Tensor, count: int, *, length: int, stride: int | None = None) -> Tensor:
    """Return sequences that start at evenly spaced places of a text.

    Args:
        symbols: The text, shape (n,).
        count: Number of sequences.
        length: Symbols in each.
        stride: From one start to the next; by default as far as the text allows.

    Returns:
        Shape (count, length).

    Raises:
        ValueError: If the text is shorter than `count` × `length`.
    """
    if len(symbols) < count * length:
        raise ValueError(
            f"{count} sequences of {length} symbols do not fit into a text of {len(symbols)} symbols; "
            "ask for fewer or shorter ones, or pass a longer text."
        )
    stride = stride or len(symbols) // count
    return torch.stack([symbols[i * stride : i * stride + length] for i in range(count)])


def cut_between(symbols: Tensor, count: int, *, length: int) -> Tensor | None:
    """Return sequences that share no symbol with those of `cut_sequences`: half-way between them.

    Args:
        symbols: The text, shape (n,).
        count: Number of sequences, as many as `cut_sequences` was asked for.
        length: Symbols in each.

    Returns:
        Shape (count, length); None if the text is too short for any to fit in between.
    """
    stride = len(symbols) // count
    if stride < 2 * length:
        return None
    return cut_sequences(symbols[stride // 2 :], count, length=length, stride=stride)


def split_text(sequences: Tensor, *, context: int) -> tuple[Tensor, Tensor]:
    """Return what is read of sequences, and the symbols to predict.

    Args:
        sequences: Shape (count, length + 1).
        context: Symbols that are read before the first prediction that counts, in addition to one.

    Returns:
        Shapes (count, length) and (count, length − context).
    """
    return sequences[:, :-1], sequences[:, 1 + context :]


def byte_pairs(
    path: str | Path | None, count: int, *, length: int, context: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]:
    """Return byte sequences of a text to train on, and those between them: each what is read and to predict.

    Args:
        path: A text file, see `read_text`.
        count: Number of sequences.
        length: Bytes that are read in each.
        context: Bytes that are read before the first prediction that counts, in addition to one.

    Raises:
        ValueError: If a number is out of range, or the text is too short.
        FileNotFoundError: If there is no such text.
    """
    check_count("sequences", count)
    check_count("length", length)
    check_context(context, length=length)
    text = encode_bytes(read_text(path))
    between = cut_between(text, count, length=length + 1)
    held_out = None if between is None else split_text(between, context=context)
    return split_text(cut_sequences(text, count, length=length + 1), context=context), held_out


def check_context(context: int, *, length: int) -> None:
    """Raise unless some position of a sequence is predicted.

    Args:
        context: Symbols that are read before the first prediction that counts, in addition to one.
        length: Symbols that are read in all.

    Raises:
        ValueError: If `context` is not an integer from 0 to `length` − 1.
    """
    check_count("context", context, least=0)
    if not context < length:
        raise ValueError(f"context is {context}; it must be below length, {length}.")
