"""Prometheus: a text file for the textfile collector of its node exporter, or a port that it reads itself."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreshock.sinks.metrics import METRICS, metrics_of
from foreshock.sinks.packages import need

_COUNTED = {
    "foreshock_alarms_total": "alarms and watches that were given",
    "foreshock_guard_actions_total": "actions of the guard",
}
_WORDS = {
    **{f"foreshock_{one.name}": one.words for one in METRICS},
    "foreshock_step": "last step",
    "foreshock_running": "1 while the run goes on",
    "foreshock_updated_time_seconds": "when the last record came",
}


@dataclass(frozen=True)
class _Family:
    """One metric with its values, each with its labels."""

    name: str
    kind: str
    words: str
    samples: list[tuple[dict[str, str], float]]


class Prometheus:
    """Show the last value of each metric to Prometheus: in a file, on a port, or both.

    For the file give the folder that ``node_exporter --collector.textfile.directory`` names. It is written
    beside itself and moved into place, so that nobody reads half of it. After the end of the run it stays,
    with ``foreshock_running 0``; the port is closed.

    Args:
        path: The file; its name ends in ``.prom``. Each run needs its own. None for no file.
        port: Port of ``http://HOST:PORT/metrics``, 0 for any that is free; None for none.
        host: Address to listen on. Beyond this machine anybody who can reach it can read the metrics.

    Attributes:
        port: The port that is listened on; None for none.

    Raises:
        ValueError: If neither a path nor a port is given, or the name of the file ends in something else
            than ``.prom``, which the collector would ignore.
        ImportError: If a port is given and ``prometheus_client`` is not installed.
        OSError: If the port can't be listened on.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp(), "run.prom")
        >>> sink = Prometheus(path)
        >>> sink.write("step", {"step": 3, "loss": 0.5})
        >>> sink.close()
        >>> 'foreshock_loss{run="run"} 0.5' in path.read_text()
        True
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        port: int | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        if path is None and port is None:
            raise ValueError("Prometheus got neither a path nor a port: pass a .prom file, or port=9464")
        self._path = None if path is None else Path(path)
        if self._path is not None and self._path.suffix != ".prom":
            raise ValueError(f"{self._path} must end in .prom: the textfile collector reads no other files")
        self._name = "run" if self._path is None else self._path.stem
        self._values: dict[str, float] = {}
        self._counts: dict[tuple[str, str, str], int] = {}
        self._step, self._updated = 0, time.time()
        self._running, self._changed = True, False
        self._lock = threading.Lock()  # the port is read from a thread of its own
        self._server: _Server | None = None if port is None else _Server(self, host, port)
        self.port = None if self._server is None else self._server.port

    def write(self, kind: str, record: Mapping[str, Any]) -> None:
        """Remember what a record has of the metrics.

        Args:
            kind: Kind of the record.
            record: Its fields.
        """
        with self._lock:
            if kind == "header":
                self._name = str(record.get("name") or self._name)
            self._values |= metrics_of(kind, record)
            self._step = max(self._step, int(record.get("step", 0)))
            if kind == "alarm":
                self._count("foreshock_alarms_total", "level", record.get("level", ""))
            if kind == "guard":
                self._count("foreshock_guard_actions_total", "remedy", record.get("remedy", ""))
            self._updated = time.time()
            self._changed = True

    def flush(self) -> None:
        """Write the file, if something changed."""
        if self._changed:
            self._changed = False
            self._replace()

    def close(self) -> None:
        """Write the file once more, since the run has ended, and close the port."""
        self._running = False
        if self._server is not None:
            self._server.close()
        self._replace()

    def _now(self) -> list[_Family]:
        with self._lock:
            return list(self._families())

    def _families(self) -> Iterator[_Family]:
        run = {"run": self._name}
        gauges = {f"foreshock_{name}": value for name, value in self._values.items()}
        gauges |= {"foreshock_step": float(self._step), "foreshock_running": float(self._running)}
        gauges["foreshock_updated_time_seconds"] = round(self._updated, 3)
        for name, value in gauges.items():
            yield _Family(name, "gauge", _WORDS[name], [(run, value)])
        for name, words in _COUNTED.items():
            counts = [
                ({**run, label: value}, float(count))
                for (one, label, value), count in self._counts.items()
                if one == name
            ]
            if counts:
                yield _Family(name, "counter", words, counts)

    def _count(self, name: str, label: str, value: Any) -> None:
        key = name, label, str(value)
        self._counts[key] = self._counts.get(key, 0) + 1

    def _replace(self) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        beside.write_text(_text(self._now()), encoding="utf-8")
        beside.replace(self._path)


class _Server:
    """A port with the metrics of a sink, and nothing else: not those of the process, nor of other sinks."""

    def __init__(self, sink: Prometheus, host: str, port: int) -> None:
        need("prometheus_client", "a port for Prometheus", extra="prometheus")
        from prometheus_client import CollectorRegistry, start_http_server

        self._sink = sink
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        try:
            self._server, self._thread = start_http_server(port, addr=host, registry=registry)
        except (OSError, OverflowError) as error:
            raise OSError(
                f"port {port} of {host} can't be listened on ({error}): pass another port=, or 0 for any "
                "that is free"
            ) from error
        self.port = int(self._server.server_port)

    def collect(self) -> Iterator[Any]:
        """Yield the metrics as prometheus_client has them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for one in self._sink._now():
            names = list(one.samples[0][0])
            family = GaugeMetricFamily if one.kind == "gauge" else CounterMetricFamily
            made = family(one.name.removesuffix("_total"), one.words, labels=names)
            for labels, value in one.samples:
                made.add_metric([_sayable(labels[name]) for name in names], value)
            yield made

    def close(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5.0)


def _text(families: list[_Family]) -> str:
    lines = []
    for one in families:
        lines += [f"# HELP {one.name} {one.words}", f"# TYPE {one.name} {one.kind}"]
        for labels, value in one.samples:
            said = ",".join(f'{label}="{_escaped(words)}"' for label, words in labels.items())
            number = _number(value) if one.kind == "gauge" else str(int(value))
            lines.append(f"{one.name}{{{said}}} {number}")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def _sayable(value: str) -> str:
    """Return a text without half surrogate pairs, which no encoding takes."""
    return value.encode(errors="replace").decode()


def _escaped(value: str) -> str:
    # The format knows these three escapes.
    return _sayable(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
