"""What the server answers: the page with its few files, numbers, words, and a stream of what changed."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from foreshock._version import __version__
from foreshock.live.charts import CHARTS
from foreshock.live.marks import explanation
from foreshock.live.security import Gate
from foreshock.live.views import details, heat, packed, series
from foreshock.report.glossary import TERMS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from starlette.requests import Request

    from foreshock.live.run import LiveRun
    from foreshock.live.watched import WatchedFolder

_STATIC = Path(__file__).parent / "static"
_ASSETS = Path(__file__).parents[1] / "report" / "assets"
# The only files there are: no part of a request ever becomes part of a path.
_FILES: Mapping[str, Path] = {
    **{path.name: path for path in sorted(_STATIC.iterdir()) if path.suffix in (".js", ".css", ".svg")},
    **{name: _ASSETS / name for name in ("uPlot.iife.min.js", "uPlot.min.css", "axes.js", "overlays.js")},
    "uPlot.LICENSE.txt": _ASSETS / "uPlot.LICENSE",
}
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}
_TICK = 0.1  # seconds between two looks at what changed
_SILENCE = 10.0  # seconds after which a line says that the stream is still there
_MOST_ASKED = 100  # runs in one request


def make_app(
    watched: WatchedFolder,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str = "",
    ending: Callable[[], bool] = lambda: False,
) -> Gate:
    """Return the application, behind its `Gate`.

    Args:
        watched: The runs.
        host: The address that is listened on.
        port: The port that is listened on.
        token: What a reader must know; empty for none.
        ending: Whether the server is to end: streams end by themselves then.
    """
    answers = _Answers(watched, ending)
    routes = [
        Route("/", answers.page),
        Route("/assets/{name}", answers.asset),
        Route("/api/charts", answers.charts),
        Route("/api/stream", answers.stream),
        Route("/api/series", answers.series),
        Route("/api/details", answers.details),
        Route("/api/heat", answers.heat),
        Route("/api/explain", answers.explain),
    ]
    return Gate(Starlette(routes=routes), host=host, token=token, port=port)


class _Answers:
    """The answers, by route. Those that are no coroutines run in threads of their own."""

    def __init__(self, watched: WatchedFolder, ending: Callable[[], bool]) -> None:
        self._watched, self._ending = watched, ending

    def page(self, request: Request) -> Response:
        del request
        return _file(_STATIC / "index.html")

    def asset(self, request: Request) -> Response:
        path = _FILES.get(request.path_params["name"])
        return _file(path) if path is not None else _missing("file")

    def charts(self, request: Request) -> Response:
        del request
        return JSONResponse(
            {
                "charts": [chart.to_mapping() for chart in CHARTS],
                "terms": dict(TERMS),
                "folder": self._watched.place.name,
                "version": __version__,
            }
        )

    def series(self, request: Request) -> Response:
        """Answer numbers: ``q`` is JSON with `runs` (each `id`, `since`), `charts`, `within`, `points`."""
        try:
            asked = json.loads(request.query_params.get("q", ""))
            charts = [str(name) for name in asked["charts"]]
            first, last = (float(end) for end in asked.get("within") or (-math.inf, math.inf))
            points = int(asked.get("points", 2000))
            wanted = [
                (str(one["id"]), one.get("generation"), {str(k): int(v) for k, v in one["since"].items()})
                for one in asked["runs"][:_MOST_ASKED]
            ]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            return PlainTextResponse("400 q must be JSON with runs, charts, within and points", 400)
        parts = []
        for key, generation, since in wanted:
            run = self._watched.runs.get(key)
            if run is not None:
                with run.lock:
                    begin = since if generation == run.generation else {}
                    parts.append(series(run, charts, within=(first, last), points=points, since=begin))
        return Response(packed(parts), media_type="application/octet-stream")

    def details(self, request: Request) -> Response:
        run = self._asked(request)
        return _missing("run") if run is None else _json(details(run, self._watched.analysis.of(run)))

    def heat(self, request: Request) -> Response:
        run = self._asked(request)
        return _missing("run") if run is None else _json(heat(run))

    def explain(self, request: Request) -> Response:
        run = self._asked(request)
        if run is None:
            return _missing("run")
        found = explanation(run, self._watched.analysis.of(run), request.query_params.get("mark", ""))
        return _missing("mark") if found is None else _json(found)

    async def stream(self, request: Request) -> Response:
        return StreamingResponse(self._changes(request), media_type="text/event-stream")

    async def _changes(self, request: Request) -> AsyncIterator[str]:
        """Yield what changed of which run, at once and from then on."""
        seen: dict[str, int] | None = None
        silent = 0.0
        while not self._ending() and not await request.is_disconnected():
            runs = self._watched.all_runs()
            changed = [run for run in runs if seen is None or seen.get(run.key) != run.version]
            gone = [] if seen is None else [key for key in seen if key not in self._watched.runs]
            if changed or gone or seen is None:
                statuses = await asyncio.to_thread(_statuses, changed)
                seen = {run.key: (seen or {}).get(run.key, -1) for run in runs}
                seen |= {status["id"]: status["version"] for status in statuses}
                order = [run.key for run in runs]
                yield f"data: {_text({'runs': statuses, 'gone': gone, 'order': order})}\n\n"
                silent = 0.0
            elif silent >= _SILENCE:
                yield ": still here\n\n"
                silent = 0.0
            await asyncio.sleep(_TICK)
            silent += _TICK

    def _asked(self, request: Request) -> LiveRun | None:
        return self._watched.runs.get(request.query_params.get("run", ""))


def _statuses(runs: Sequence[LiveRun]) -> list[dict[str, Any]]:
    return [run.status() for run in runs]


def _text(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))


def _json(value: Any) -> Response:
    return Response(_text(value), media_type="application/json")


def _file(path: Path) -> Response:
    return Response(path.read_bytes(), media_type=_TYPES.get(path.suffix, "text/plain"))


def _missing(what: str) -> Response:
    return PlainTextResponse(f"404 There is no such {what}.\n", 404)
