"""``foreshock top``: runs as they go on, in the terminal."""

from __future__ import annotations

import contextlib
import select
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.text import Text

from foreshock.cli.console import make_console
from foreshock.representation import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from foreshock.live.run import LiveRun
    from foreshock.live.watched import WatchedFolder

_SHOWN = 4000  # losses, the last, that the line of bars is made of
_SEARCH_EVERY = 2.0  # seconds, and twenty times what a search takes
_AT_ONCE = 0.3  # seconds of reading between two pictures of a long log


def top(
    run: Annotated[Path, typer.Argument(help="Folder of a run, a folder of such folders, or a .jsonl file.")],
    every: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds between two looks.")] = 1.0,
) -> None:
    """Show one run or many in the terminal as they go on; q or Ctrl-C ends the command, not the runs.

    It waits for a log that does not exist yet, and follows one that is cut off or begun anew. Where the
    output is no terminal, a line is printed whenever the state of a run changes.
    """
    console = make_console()
    with contextlib.suppress(KeyboardInterrupt):
        if console.is_terminal:
            _draw(console, _Follower(run), every)
        else:
            _log(_Follower(run), every)


class _Follower:
    """Runs that are looked at now and then, from the moment at which there are some.

    Args:
        place: A folder or a log, which need not exist yet.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._watched: WatchedFolder | None = None
        self._due = 0.0

    def look(self) -> bool:
        """Read what was added; return whether there is more to read at once."""
        began = time.monotonic()
        if self._watched is None:
            self._begin()
        elif began >= self._due:
            self._watched.search()
            self._due = time.monotonic() + max(_SEARCH_EVERY, 20 * (time.monotonic() - began))
        began, more = time.monotonic(), True
        while more and time.monotonic() - began < _AT_ONCE:
            more = self._watched.look() if self._watched is not None else False
            behind = [run.scan() for run in self.runs]
            more |= any(behind)
        return more

    @property
    def runs(self) -> list[LiveRun]:
        """The runs there are."""
        return [] if self._watched is None else self._watched.all_runs()

    def _begin(self) -> None:
        from foreshock.live.status import NEEDED
        from foreshock.live.watched import WatchedFolder

        with contextlib.suppress(OSError):  # not there yet
            self._watched = WatchedFolder(self.place, only=NEEDED)


def _draw(console: Console, follower: _Follower, every: float) -> None:
    from rich.live import Live

    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as picture:
        while True:
            more = follower.look()
            picture.update(_picture(console, follower), refresh=True)
            if pressed(0.0 if more else every) in ("q", "Q", "\x04"):
                return


def _log(follower: _Follower, every: float) -> None:
    said: dict[str, str] = {}
    while True:
        more = follower.look()
        for run in follower.runs if not more else ():
            state = run.headline().state
            if said.get(run.key) != state:
                said[run.key] = state
                step = "–" if run.last_step is None else f"{run.last_step:,}"
                typer.echo(f"{run.place}  step {step}  {run.headline().words}")
                sys.stdout.flush()
        time.sleep(0.0 if more else every)


def _picture(console: Console, follower: _Follower) -> RenderableType:
    from foreshock.cli.screen import runs_table, screen
    from foreshock.live.status import status_of

    found = follower.runs
    place = printable(str(follower.place))
    if not found:
        return Group(Text(f"Waiting for a first step in {place}"), _foot(found))
    if len(found) > 1:
        most = max(console.height - 6, 1)
        table = runs_table([status_of(run) for run in found[:most]], console)
        left = len(found) - most
        more = [Text(f"and {left:,} more: foreshock runs {place}", "dim")] if left > 0 else []
        return Group(Text(place, "bold"), table, *more, _foot(found))
    losses = found[0].curves["step"].column("loss")[-_SHOWN:].tolist()
    return Group(screen(status_of(found[0]), console, losses=losses), "", _foot(found))


def _foot(found: list[LiveRun]) -> Text:
    unread = min((run.read_share for run in found), default=1.0)
    reading = f"reading {unread:.0%} · " if unread < 1 else ""
    return Text(f"{reading}{time.strftime('%H:%M:%S')} · q ends", "dim")


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Give a function that waits for a key so many seconds and returns it, empty without one."""
    if not sys.stdin.isatty():
        yield _waited
        return
    try:
        import termios
        import tty
    except ImportError:  # Windows
        yield _pressed_on_windows
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield _pressed
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _waited(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def _pressed(seconds: float) -> str:
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return sys.stdin.read(1) if ready else ""


def _pressed_on_windows(seconds: float) -> str:
    import msvcrt

    end = time.monotonic() + seconds
    while not msvcrt.kbhit():  # type: ignore[attr-defined,unused-ignore]
        if time.monotonic() >= end:
            return ""
        time.sleep(0.05)
    return str(msvcrt.getwch())  # type: ignore[attr-defined,unused-ignore]
