"""``foreshock watch`` as a user runs it."""

import os
import re
import signal
import subprocess
import sys
from urllib.request import urlopen

import pytest
from typer.testing import CliRunner

from foreshock.cli.app import app
from foreshock.live import server
from live_logs import calm


def start(*arguments):
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "300"}
    command = [sys.executable, "-m", "foreshock", "watch", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_it_says_where_to_look_and_ends_at_ctrl_c(tmp_path, write):
    write(tmp_path / "one", calm(0, 50))
    process = start(tmp_path, "--port", "0")
    try:
        lines = [process.stdout.readline() for _ in range(3)]
        address = re.search(r"http://localhost:(\d+)/", lines[1])
        assert "1 run" in lines[0]
        assert f"ssh -L {address[1]}:localhost:{address[1]} " in lines[2]
        assert b"<title>Foreshock</title>" in urlopen(address[0], timeout=60).read()  # noqa: S310
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert complaints == ""


def test_a_place_that_is_missing_is_one_line(tmp_path):
    result = CliRunner().invoke(app, ["watch", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert "does not exist" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_port_that_is_taken_is_one_line(tmp_path, serve):
    port = serve(tmp_path).address.split(":")[-1].strip("/")
    result = CliRunner().invoke(app, ["watch", str(tmp_path), "--port", port])
    assert result.exit_code == 1
    assert f"port {port} can't be used" in result.stderr
    assert "--port" in result.stderr


def test_the_next_free_port_is_taken(tmp_path):
    first = server.LivePage(tmp_path)
    second = server.LivePage(tmp_path)
    try:
        assert server.PORT <= first._port < second._port < server.PORT + 20
    finally:
        for page in (first, second):
            page._socket.close()


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_a_missing_extra_names_what_to_install(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    result = CliRunner().invoke(app, ["watch", str(tmp_path)])
    assert result.exit_code == 1
    assert f'the live page needs {package}, which is missing: pip install "foreshock[live]"' in result.stderr


def test_nothing_of_the_page_imports_torch():
    code = "import sys, foreshock.live.server, foreshock.live.app; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
