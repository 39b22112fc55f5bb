import json
import os

import pytest

from foreshock.live import tail
from foreshock.live.tail import LogTail
from foreshock.runlog import read_run
from live_logs import calm


def header(**fields):
    row = {"kind": "header", "schema": 2, "foreshock": "0", "created": "", "number": 1, "meta": {}}
    return json.dumps(row | fields) + "\n"


def lines(first, last):
    return "".join(json.dumps({"kind": kind, **row}) + "\n" for kind, row in calm(first, last))


def losses(followed):
    return followed.sessions.kinds["step"].numbers("loss").tolist()


def test_each_byte_is_read_once(tmp_path, monkeypatch):
    path = tmp_path / "rank0.jsonl"
    path.write_text(header() + lines(0, 50))
    read = []
    real = os.fdopen

    def counting(*arguments):
        file = real(*arguments)
        inner = file.read

        class Counting:
            __enter__ = lambda self: self  # noqa: E731
            __exit__ = lambda self, *_: file.close()  # noqa: E731
            seek = file.seek

            def read(self, size):
                data = inner(size)
                read.append(len(data))
                return data

        return Counting()

    monkeypatch.setattr(os, "fdopen", counting)
    followed = LogTail(path)
    for last in range(50, 60):
        with path.open("a") as log:
            log.write(lines(last, last + 1))
        while followed.look(most=1000):
            pass
    assert sum(read) == path.stat().st_size
    assert losses(followed) == read_run(path).column("step", "loss").tolist()


def test_a_torn_line_waits_for_its_end(tmp_path):
    path = tmp_path / "rank0.jsonl"
    whole = header() + lines(0, 3)
    followed = LogTail(path)
    path.write_text(whole[:-7])
    followed.look()
    assert len(losses(followed)) == 2
    with path.open("a") as log:
        log.write(whole[-7:])
    followed.look()
    assert len(losses(followed)) == 3
    assert followed.sessions.skipped == 0


def test_a_log_that_was_replaced_or_cut_is_begun_anew(tmp_path):
    path = tmp_path / "rank0.jsonl"
    path.write_text(header() + lines(0, 30))
    followed = LogTail(path)
    followed.look()
    other = tmp_path / "other"
    other.write_text(header() + lines(0, 40))
    other.replace(path)
    followed.look()
    assert (followed.begun, len(losses(followed))) == (2, 40)
    path.write_text(header() + lines(0, 5))
    followed.look()
    assert (followed.begun, len(losses(followed))) == (3, 5)


def test_a_line_without_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(tail, "_LONGEST_LINE", 1000)
    path = tmp_path / "rank0.jsonl"
    path.write_text(header() + "x" * 5000 + "\n" + lines(0, 3))
    followed = LogTail(path)
    while followed.look(most=100):
        assert len(followed._rest) <= 1100
    assert len(losses(followed)) == 3


def test_a_symbolic_link_is_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text(header() + lines(0, 3))
    path = tmp_path / "rank0.jsonl"
    path.symlink_to(secret)
    with pytest.raises(OSError, match=r"symbolic|Too many levels"):
        LogTail(path).look()
