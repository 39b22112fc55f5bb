"""Write reference/command-line.md from the commands themselves: ``python docs/command_line.py``.

A test compares the page with what this makes, so that it can't go stale. Everything is read from the
signatures of the commands, as typer does, and nothing from typer's own output, which differs between its
versions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo, OptionInfo

from foreshock.cli.app import app

PAGE = Path(__file__).parent / "reference" / "command-line.md"
_HEAD = """# Command line

Made from the commands themselves by `python docs/command_line.py`; `-h` or `--help` after any of them says
the same. `python -m foreshock` is the same as `foreshock`. `foreshock --version` shows the version, and
`foreshock --install-completion` teaches your shell to complete commands and options.
"""


def command_line_page() -> str:
    """Return the page: the product's commands, then those of the laboratory."""
    parts = [_HEAD]
    for panel, commands in _panels().items():
        parts.append(f"## {panel}\n")
        for words, function in commands:
            parts += _described(words, function)
    return "\n".join(parts).rstrip() + "\n"


def _panels() -> dict[str, list[tuple[str, Callable[..., None]]]]:
    """Return (words, function) by panel of the help, in its order; a group is replaced by its commands."""
    panels: dict[str, list[tuple[str, Callable[..., None]]]] = {}
    for command in app.registered_commands:
        one = (f"foreshock {command.name or command.callback.__name__}", command.callback)
        panels.setdefault(_panel(command), []).append(one)
    for group in app.registered_groups:
        for command in group.typer_instance.registered_commands:
            one = (f"foreshock {group.name} {command.name or command.callback.__name__}", command.callback)
            panels.setdefault(_panel(group), []).append(one)
    return panels


def _panel(registered: Any) -> str:
    return registered.rich_help_panel if isinstance(registered.rich_help_panel, str) else "Commands"


def _described(words: str, function: Callable[..., None]) -> Iterator[str]:
    yield f"### {words}\n\n{inspect.getdoc(function)}\n"
    parameters = list(_parameters(function))
    needed = [shown for shown, default, _ in parameters if default == "required"]
    yield f"```sh\n{' '.join([words, *needed])} [OPTIONS]\n```\n"
    yield "| argument or option | default | |\n|---|---|---|"
    for shown, default, text in parameters:
        escaped = shown.replace("|", "\\|")
        yield f"| `{escaped}` | {default} | {text} |"
    yield ""


def _parameters(function: Callable[..., None]) -> Iterator[tuple[str, str, str]]:
    """Yield of each argument and option how it is written, its default, and what it is."""
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        kind, info = get_args(hints[name])[:2]
        required = parameter.default is inspect.Parameter.empty
        if isinstance(info, ArgumentInfo):
            shown = name.upper() + ("…" if get_origin(kind) is list else "")
        else:
            shown = ", ".join(_names(name, info))
            shown += "" if bool in (kind, *get_args(kind)) else f" {info.metavar or _value(kind)}"
        yield shown, "required" if required else _default(parameter.default), info.help


def _names(name: str, info: OptionInfo) -> list[str]:
    """Return the names of an option, the long one first; typer has the first as default."""
    given = [
        name
        for one in (info.default, *(info.param_decls or ()))
        if isinstance(one, str) and one[:1] == "-"
        for name in one.split("/")  # of a switch and what turns it off
    ]
    return sorted(given, key=lambda name: not name.startswith("--")) or ["--" + name.replace("_", "-")]


def _value(kind: Any) -> str:
    """Return what stands for a value: its choices, or what it is."""
    if isinstance(kind, UnionType):
        kind = next(one for one in get_args(kind) if one is not type(None))
    if get_origin(kind) is list:
        return _value(get_args(kind)[0])
    if issubclass(kind, Enum):
        return "|".join(member.value for member in kind)
    return {Path: "PATH", int: "N", float: "NUMBER"}.get(kind, "TEXT")


def _default(value: Any) -> str:
    if value is None or value is False:
        return ""
    return f"`{value.value if isinstance(value, Enum) else value}`"


if __name__ == "__main__":
    PAGE.write_text(command_line_page(), encoding="utf-8")
    print(f"Page: {PAGE}")  # noqa: T201 - a script
