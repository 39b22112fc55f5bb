"""``foreshock watch``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from foreshock.cli.console import make_console, printable_path, stopped


def watch(
    run: Annotated[
        Path,
        typer.Argument(
            help="Folder of a run, a folder of such folders, or a .jsonl file.",
        ),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on. Beyond loopback a token is asked for.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; by default the first free one from 8917 on.")
    ] = None,
    token: Annotated[
        bool, typer.Option("--token", help="Ask for a token on loopback too, where others share the machine.")
    ] = False,
    browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Show one run or many on a page that moves while they train.

    Nothing leaves this machine: the page asks for nothing outside it. Ctrl-C ends the command, not the runs.
    """
    from foreshock.live.server import LivePage

    console = make_console()
    try:
        page = LivePage(run, host=host, port=port, ask_token=token)
    except (ImportError, OSError) as error:
        raise stopped(error) from error

    def say() -> None:
        runs = len(page.watched.runs)
        found = f"{runs} run{'' if runs == 1 else 's'}" if runs else "no run yet; they appear as they begin"
        console.print(f"Watching {printable_path(run)}: {found}", soft_wrap=True)
        console.print(f"Open [bold]{escape(page.address)}[/]  (Ctrl-C ends)", soft_wrap=True)
        if page.tunnel:
            console.print(f"From another machine, first: {escape(page.tunnel)}", soft_wrap=True)
        if browser:
            typer.launch(page.address)

    page.serve(started=say)
