"""The server of the live page: a port, a token where one is needed, and an end at Ctrl-C."""

from __future__ import annotations

import contextlib
import getpass
import secrets
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from foreshock.live.security import is_loopback
from foreshock.live.watched import WatchedFolder

if TYPE_CHECKING:
    from collections.abc import Callable

    import uvicorn

PORT = 8917
_TRIED = 20  # ports from the first on


class LivePage:
    """The page of a folder of runs, ready to be served.

    Args:
        place: A folder of runs, the folder of a run, or a log.
        host: Address to listen on.
        port: Port to listen on; None for the first free one from 8917 on, 0 for any.
        ask_token: Whether a token is asked for on loopback too: others who work on this machine can't read
            along then. Elsewhere one always is.

    Raises:
        ImportError: If starlette or uvicorn is missing.
        FileNotFoundError: If the place does not exist.
        OSError: If the port is taken, or the address is none of this machine.
    """

    def __init__(
        self, place: Path, *, host: str = "127.0.0.1", port: int | None = None, ask_token: bool = False
    ) -> None:
        _require("starlette", "uvicorn")
        import uvicorn

        from foreshock.live.app import make_app

        self.watched = WatchedFolder(place)
        self._host = host
        self._socket = _bound(host, port)
        self._port = int(self._socket.getsockname()[1])
        self._token = secrets.token_urlsafe(32) if ask_token or not is_loopback(host) else ""
        app = make_app(
            self.watched,
            host=host,
            port=self._port,
            token=self._token,
            ending=lambda: self._server.should_exit,
        )
        config = uvicorn.Config(
            app,
            log_level="error",
            access_log=False,
            timeout_graceful_shutdown=1,
            server_header=False,
            proxy_headers=False,
            ws="none",
        )
        self._server: uvicorn.Server = uvicorn.Server(config)

    @property
    def address(self) -> str:
        """What to open in a browser, with the token if there is one."""
        name = "localhost" if is_loopback(self._host) else _reachable(self._host)
        shown = f"[{name}]" if ":" in name else name
        return f"http://{shown}:{self._port}/" + (f"?token={self._token}" if self._token else "")

    @property
    def tunnel(self) -> str:
        """What to run on another machine, to open the same address there; empty beyond loopback."""
        if not is_loopback(self._host):
            return ""
        return f"ssh -L {self._port}:localhost:{self._port} {_user()}@{socket.gethostname()}"

    def serve(self, *, started: Callable[[], object] | None = None) -> None:
        """Serve the page until Ctrl-C.

        Args:
            started: Called once the server is about to answer.
        """
        # Three threads share the interpreter: a reader must not wait for whole time slices of the others.
        sys.setswitchinterval(0.001)
        self.watched.start()
        try:
            if started is not None:
                started()
            with contextlib.suppress(KeyboardInterrupt):
                self._server.run(sockets=[self._socket])
        finally:
            self.watched.stop()
            self._socket.close()

    def stop(self) -> None:
        """Let `serve` return."""
        self._server.should_exit = True


def _require(*packages: str) -> None:
    for package in packages:
        try:
            __import__(package)
        except ImportError as error:
            raise ImportError(
                f'the live page needs {package}, which is missing: pip install "foreshock[live]"'
            ) from error


def _bound(host: str, port: int | None) -> socket.socket:
    """Return a socket that listens on a free port."""
    wanted = range(PORT, PORT + _TRIED) if port is None else (port,)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in wanted:
        one = socket.socket(family, socket.SOCK_STREAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, number))
            # Bound is not taken yet: with SO_REUSEADDR two may be, until one of them listens.
            one.listen(128)
        except OSError as error:
            one.close()
            if number == wanted[-1]:
                what = "no port is free there" if port is None else f"port {number} can't be used"
                raise OSError(
                    f"{host}: {what} ({error.strerror or error}): pass another --port, or another --host"
                ) from error
            continue
        return one
    raise AssertionError  # the loop returns or raises


def _reachable(host: str) -> str:
    return socket.gethostname() if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for this user
        return "USER"
