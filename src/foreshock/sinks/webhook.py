"""Webhook: a message to Slack, Discord, or any address that takes JSON, for each alarm."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any, Literal
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from foreshock.sinks.metrics import alarm_title

Style = Literal["slack", "discord", "json"]

_LONGEST_WAIT = 30.0  # seconds between two tries, whatever the server asks for
_LONGEST_TEXT = 1900  # characters; Discord takes 2000
_AGAIN = frozenset((408, 425, 429, 500, 502, 503, 504))


class Webhook:
    """Send a message for each alarm: at most one, whatever goes wrong.

    A try that certainly failed – no connection, or an error of the server – is made again after 1, 2, 4 …
    seconds, or when the server says. Where it can't be known whether the message came, it is not sent twice.
    The address is a secret: it is in no log and no error message.

    Args:
        url: The address, ``https://…`` or ``http://…``. Keep it out of the code: ``os.environ["…"]``.
        style: What the JSON looks like: ``"slack"``, ``"discord"``, or ``"json"`` with the fields ``title``,
            ``text``, ``run``, ``step``, ``level``, ``reason`` and ``probability``. None to
            see it from the address.
        levels: Of which levels to send a message.
        timeout: Seconds that one try may take.
        tries: How many tries a message gets, ≥ 1.

    Raises:
        ValueError: If the address is none, or an argument lies outside its interval.

    Example:
        >>> Webhook("https://hooks.slack.com/services/T0/B0/secret")
        <Webhook slack at hooks.slack.com>
    """

    def __init__(
        self,
        url: str,
        *,
        style: Style | None = None,
        levels: tuple[str, ...] = ("alarm",),
        timeout: float = 10.0,
        tries: int = 4,
    ) -> None:
        self._host = _host_of(url)
        if style not in (None, "slack", "discord", "json"):
            raise ValueError(f"style is {style!r}; it must be 'slack', 'discord' or 'json', or None")
        if not (timeout > 0 and tries >= 1):
            raise ValueError(f"timeout is {timeout!r} and tries {tries!r}; both must be positive")
        unknown = set(levels) - {"watch", "alarm"}
        if isinstance(levels, str) or unknown:
            raise ValueError(f"levels is {levels!r}; it is a tuple of 'watch', 'alarm' or both")
        self._url, self._levels, self._timeout, self._tries = url, tuple(levels), timeout, tries
        self._style = style or _style_of(self._host)
        self._run = ""
        self._opener = _opener()

    def __repr__(self) -> str:
        """Return one line, without the address."""
        return f"<Webhook {self._style} at {self._host}>"

    def write(self, kind: str, record: Mapping[str, Any]) -> None:
        """Send a message if the record is an alarm.

        Args:
            kind: Kind of the record.
            record: Its fields.

        Raises:
            OSError: If the message could not be sent.
        """
        if kind == "header":
            self._run = str(record.get("name", ""))
        if kind == "alarm" and record.get("level") in self._levels:
            self._send(json.dumps(_message(self._style, self._run, record)).encode())

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def _send(self, data: bytes) -> None:
        for attempt in range(1, self._tries + 1):
            failure, wait = self._try(data)
            if failure is None:
                return
            if wait is None or attempt == self._tries:
                raise OSError(f"no message to {self._host} after {attempt} tries: {failure}")
            time.sleep(min(max(wait, 2.0 ** (attempt - 1)), _LONGEST_WAIT))

    def _try(self, data: bytes) -> tuple[str | None, float | None]:
        """Return why a try failed, None if it did not, and how long to wait at least; None for ever."""
        headers = {"Content-Type": "application/json", "User-Agent": "foreshock"}
        request = Request(self._url, data, headers, method="POST")  # noqa: S310 - http and https only
        try:
            with self._opener.open(request, timeout=self._timeout) as answer:
                answer.read(1)
        except HTTPError as error:
            with error:
                wait = _seconds(error.headers.get("Retry-After")) if error.code in _AGAIN else None
                return f"it answers {error.code}", wait
        except URLError as error:
            # Raised while connecting and sending only, so that the message did not come.
            reason = error.reason
            return f"no connection ({getattr(reason, 'strerror', None) or type(reason).__name__})", 0.0
        except (OSError, HTTPException, ValueError) as error:
            return f"no answer ({type(error).__name__}), so that it is unknown whether it came", None
        return None, None


class _NoRedirects(HTTPRedirectHandler):
    # The message would become a GET without content, or go, with its secret, to somebody else.
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs


def _opener() -> OpenerDirector:
    return build_opener(_NoRedirects)


def _host_of(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except (ValueError, AttributeError, TypeError):
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host or any(one.isspace() for one in str(url)):
        # What was passed is not shown: it may be most of a secret.
        raise ValueError("the url of a webhook must begin with https:// or http:// and have no spaces in it")
    return host if port is None else f"{host}:{port}"


def _style_of(host: str) -> Style:
    name = host.partition(":")[0]
    if name in ("discord.com", "discordapp.com") or name.endswith((".discord.com", ".discordapp.com")):
        return "discord"
    return "slack" if name.endswith("slack.com") else "json"


def _message(style: Style, run: str, record: Mapping[str, Any]) -> dict[str, Any]:
    title, reason = alarm_title(record), str(record.get("reason", ""))
    text = f"{title}{f' of {run}' if run else ''}: {reason}"
    if style == "slack":
        # Slack takes <!channel> and links from the text; & < > are the three that it wants escaped.
        return {"text": text[:_LONGEST_TEXT].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}
    if style == "discord":
        return {"content": text[:_LONGEST_TEXT], "allowed_mentions": {"parse": []}}
    probability = getattr(record.get("forecast"), "probability", math.nan)
    fields = {"run": run, "step": record.get("step"), "level": record.get("level"), "reason": reason}
    known = isinstance(probability, float) and math.isfinite(probability)
    return {"title": title, "text": text, **fields, "probability": probability if known else None}


def _seconds(value: str | None) -> float:
    try:
        wait = float(value or 0)
    except ValueError:  # a date
        return 0.0
    return wait if math.isfinite(wait) and wait > 0 else 0.0
