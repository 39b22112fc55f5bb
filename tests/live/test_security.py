"""Who may read the page, and what a hostile request or a hostile log comes to."""

import http.client
import json
import os
from urllib.parse import urlsplit

import pytest

from foreshock.live.security import Gate, allowed_names, host_name, is_loopback
from live_logs import calm, spiky, until


def get(page, path="/", **headers):
    """Return status, headers and body of one request, whose headers are exactly these."""
    port = urlsplit(page.address).port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    method = headers.pop("method", "GET")
    connection.putrequest(method, path, skip_host=True)
    for name, value in ({"host": f"localhost:{port}"} | headers).items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body.decode(errors="replace")


def asked(page, path, **headers):
    return get(page, path, **headers)[0]


@pytest.fixture
def page(tmp_path, write, serve):
    write(tmp_path / "runs" / "one", spiky(), name="one")
    (tmp_path / "secret.txt").write_text("secret")
    return serve(tmp_path / "runs")


def run_key(page):
    return next(iter(page.watched.runs))


@pytest.mark.parametrize("host", ["localhost", "localhost:1234", "127.0.0.1:80", "[::1]:80", "LOCALHOST."])
def test_this_machine_may_be_named(page, host):
    assert asked(page, "/", host=host) == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8917", "localhost.evil.example", "10.0.0.1", "127.0.0.1.evil.example", "",
     "localhost:80@evil.example", "[::1", "localhost:80:80"],
)  # fmt: skip
def test_a_name_that_was_bound_to_this_machine_may_not(page, host):
    status, headers, body = get(page, "/api/details?run=" + run_key(page), host=host)
    assert status == 421
    assert "one" not in body
    assert "default-src 'none'" in headers["content-security-policy"]


def test_every_answer_forbids_what_the_page_does_not_need(page):
    for path in ("/", "/assets/main.js", "/api/charts", "/none", f"/api/heat?run={run_key(page)}"):
        _, headers, _ = get(page, path)
        policy = headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
        assert headers["access-control-allow-origin"] is None


@pytest.mark.parametrize(
    "path",
    ["/../secret.txt", "/assets/../secret.txt", "/assets/..%2f..%2fsecret.txt", "/assets/%2e%2e/secret.txt",
     "/assets//etc/passwd", "/assets/index.html", "/assets/..\\secret.txt", "/etc/passwd", "/assets/run.py",
     "/api/details?run=../secret.txt", "/api/details?run=/etc/passwd", "/api/explain?run=one&mark=spike-400",
     "/api/heat?run="],
)  # fmt: skip
def test_no_request_becomes_a_path(page, path):
    status, _, body = get(page, path)
    assert status == 404
    assert "secret" not in body.replace(path, "")


def test_the_server_is_read_only(page):
    assert [asked(page, "/", method=method) for method in ("POST", "PUT", "DELETE", "OPTIONS")] == [405] * 4


@pytest.mark.parametrize(
    "question",
    ["", "{", "[]", "1", '{"runs":1,"charts":[]}', '{"runs":[{"id":"x"}],"charts":["loss"]}',
     '{"runs":[],"charts":[],"within":["a","b"]}', '{"runs":[],"charts":[],"points":1e400}', "[" * 5000],
)  # fmt: skip
def test_an_odd_question_is_refused(page, question):
    from urllib.parse import quote

    assert asked(page, f"/api/series?q={quote(question)}") == 400


def test_negative_and_huge_places_are_harmless(page):
    question = {"runs": [{"id": run_key(page), "since": {"loss": 10**30}}], "charts": ["loss"], "points": -5}
    for since in (10**30, -7):
        question["runs"][0] |= {"since": {"loss": since}, "generation": 1}
        status, _, _ = get(page, f"/api/series?q={json.dumps(question).replace(' ', '')}".replace('"', "%22"))
        assert status == 200


def test_links_out_of_the_folder_are_not_followed(tmp_path, write, serve):
    write(tmp_path / "outside" / "run", calm(0, 50))
    inside = tmp_path / "inside"
    (inside / "linked-log").mkdir(parents=True)
    (inside / "linked-folder").symlink_to(tmp_path / "outside")
    (inside / "linked-log" / "rank0.jsonl").symlink_to(tmp_path / "outside" / "run" / "rank0.jsonl")
    assert serve(inside).watched.all_runs() == []


def test_a_token_is_asked_for(tmp_path, write, serve):
    write(tmp_path / "one", calm(0, 50))
    page = serve(tmp_path, ask_token=True)
    address = urlsplit(page.address)
    token = address.query.removeprefix("token=")
    assert len(token) >= 40
    for path, headers in (
        ("/", {}),
        ("/api/stream", {}),
        ("/?token=", {}),
        (f"/?token={token[:-1]}", {}),
        ("/", {"cookie": f"foreshock_{address.port}={token[::-1]}"}),
        ("/", {"cookie": 'foreshock_1="\\'}),
        ("/", {"authorization": "Bearer x"}),
        ("/?token=%C3%A9%FF", {}),
    ):
        status, _, body = get(page, path, **headers)
        assert status == 403
        assert token not in body
    status, headers, _ = get(page, f"/?token={token}")
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert asked(page, "/", cookie=cookie.partition(";")[0]) == 200
    assert asked(page, "/api/charts", authorization=f"Bearer {token}") == 200


def test_two_servers_have_two_tokens(tmp_path, serve):
    one, two = (serve(tmp_path, ask_token=True) for _ in range(2))
    assert urlsplit(one.address).query != urlsplit(two.address).query


def test_a_token_is_compared_in_constant_time(monkeypatch):
    compared = []
    from foreshock.live import security

    monkeypatch.setattr(security.hmac, "compare_digest", lambda *pair: compared.append(pair) or False)
    gate = Gate(None, host="127.0.0.1", token="right")  # noqa: S106 - a test
    assert not gate._knows("right")
    assert compared == [(b"right", b"right")]


def test_beyond_loopback_a_token_is_always_asked_for(tmp_path, serve):
    page = serve(tmp_path, host="0.0.0.0")  # noqa: S104 - what is tested
    assert "?token=" in page.address
    assert page.tunnel == ""
    assert asked(page, "/") == 403
    assert asked(page, "/", host="192.168.7.7:80") == 403  # an address: no name could have been rebound
    assert asked(page, "/", host="evil.example") == 421


def test_names_of_this_machine():
    assert allowed_names("127.0.0.1") == {"localhost", "127.0.0.1", "::1"}
    assert "login.cluster" in allowed_names("login.cluster")
    assert [is_loopback(one) for one in ("localhost", "127.8.8.8", "10.0.0.1", "example.org")] == [1, 1, 0, 0]
    assert host_name("[::1]x") == "::1"


def test_a_log_can_be_watched_while_others_are_damaged(tmp_path, write, serve):
    write(tmp_path / "good", spiky(), name="good")
    for place, content in enumerate(
        (b"\x00" * 100 + b"\n", b'{"kind":"header"}\n', b'{"kind":"step","step":1}\n')
    ):
        folder = tmp_path / f"bad{place}"
        folder.mkdir()
        (folder / "rank0.jsonl").write_bytes(content)
    page = serve(tmp_path)
    states = {run.name: run.headline().state for run in page.watched.all_runs()}
    assert states.pop("good") != "unreadable"
    assert set(states.values()) == {"unreadable"}


def test_the_server_ends_at_once_with_a_stream_open(tmp_path, write, serve):
    write(tmp_path / "one", calm(0, 50))
    page = serve(tmp_path)
    port = urlsplit(page.address).port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/api/stream", headers={"host": "localhost"})
    first = connection.getresponse().readline()
    assert json.loads(first.removeprefix(b"data: "))["runs"][0]["step"] == 49
    page.stop()
    until(lambda: not page.watched._threads[0].is_alive())
    connection.close()


def test_new_runs_appear_and_removed_ones_go(tmp_path, write):
    from foreshock.live.watched import WatchedFolder

    write(tmp_path / "one", calm(0, 50))
    watched = WatchedFolder(tmp_path)
    assert [run.name for run in watched.all_runs()] == ["one"]
    log = write(tmp_path / "deep" / "er" / "two", calm(0, 50))
    watched.search()
    assert sorted(run.name for run in watched.all_runs()) == ["deep/er/two", "one"]
    os.remove(log)  # noqa: PTH107 - as another program would
    watched.search()
    assert [run.name for run in watched.all_runs()] == ["one"]
