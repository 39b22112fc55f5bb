"""Who may read the page: the Host header, the token, and what a browser is told about the answer.

A page anywhere can make a browser send requests to this machine. It can't read the answers unless its own
name leads here (DNS rebinding), so a request must name this machine. Beyond loopback it must know a token.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
"""What every answer carries."""


class Gate:
    """Let requests through that name this machine, and know the token if there is one.

    Args:
        app: What answers them.
        host: The address that is listened on.
        token: The token; empty for none. It is taken from the query once, as ``?token=``, and from then on
            from a cookie that scripts can't read, or from ``Authorization: Bearer``.
        port: The port, by which cookies of several servers of one machine are kept apart.
    """

    def __init__(self, app: ASGIApp, *, host: str, token: str = "", port: int = 0) -> None:
        self._app = app
        self._names = allowed_names(host)
        self._any_address = not is_loopback(host)
        self._token = token.encode()
        self._cookie = f"foreshock_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        if not self._is_for_us(headers.get(b"host", "")):
            words = (
                "421 This server does not go by that name. Use the address that foreshock watch printed.\n"
            )
            await _answer(guarded, 421, words)
        elif scope["method"] not in ("GET", "HEAD"):
            await _answer(guarded, 405, "405 This server is read only.\n")
        elif not self._token:
            await self._app(scope, receive, guarded)
        elif self._knows(parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]):
            await _welcome(
                guarded, f"{self._cookie}={self._token.decode()}; HttpOnly; SameSite=Strict; Path=/"
            )
        elif self._knows(_cookie(headers, self._cookie)) or self._knows(_bearer(headers)):
            await self._app(scope, receive, guarded)
        else:
            words = "403 Open the address with ?token=… that foreshock watch printed.\n"
            await _answer(guarded, 403, words)

    def _is_for_us(self, host: str) -> bool:
        name = host_name(host)
        return name in self._names or (self._any_address and _is_address(name))

    def _knows(self, given: str) -> bool:
        # In constant time: how long it takes must not tell how much of a guess is right.
        return bool(given) and hmac.compare_digest(given.encode("utf-8", "replace"), self._token)


def allowed_names(host: str) -> Collection[str]:
    """Return the names that a request may give this server.

    Args:
        host: The address that is listened on.
    """
    if is_loopback(host):
        return frozenset(_LOOPBACK)
    own = {socket.gethostname(), socket.getfqdn(), host}
    return frozenset((*_LOOPBACK, *(name.lower() for name in own if name)))


def is_loopback(host: str) -> bool:
    """Return whether an address is reached from this machine alone.

    Args:
        host: An address or a name.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0"), is_loopback("example.org")
        (True, True, False, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_name(header: str) -> str:
    """Return the name in a Host header, without its port; empty if it has none.

    Args:
        header: The header.

    Example:
        >>> host_name("localhost:8917"), host_name("[::1]:8917"), host_name("evil.example:80")
        ('localhost', '::1', 'evil.example')
    """
    if header.startswith("["):
        name, closed, _ = header[1:].partition("]")
        return name.lower() if closed else ""
    name, _, port = header.partition(":")
    return name.lower().rstrip(".") if not port or port.isdecimal() else ""


def _is_address(name: str) -> bool:
    # No other site's name can lead here if no name was used.
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _cookie(headers: dict[bytes, str], name: str) -> str:
    try:
        found = SimpleCookie(headers.get(b"cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _bearer(headers: dict[bytes, str]) -> str:
    scheme, _, token = headers.get(b"authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


async def _welcome(send: Send, cookie: str) -> None:
    """Give the cookie, and lead to the address without the token: it must not stay in the history."""
    headers = [(b"location", b"/"), (b"set-cookie", cookie.encode())]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _answer(send: Send, status: int, words: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": words.encode()})
