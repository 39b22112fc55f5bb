"""Write reference/json-output.md from the records that commands print: ``python docs/json_output.py``.

A test compares the page with what this makes, and what commands print with the page, so that neither can go
stale. Names, types and words are those of the records themselves.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import importlib
import inspect
import pkgutil
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import foreshock
from foreshock.cli.output import SCHEMA, STATUSES, json_names
from foreshock.spikes import LossEvent

PAGE = Path(__file__).parent / "reference" / "json-output.md"

RESULTS: Mapping[str, str] = {
    "status": "foreshock.live.status:RunStatus",
    "runs": "list of foreshock.live.status:RunStatus",
    "report": "list of foreshock.cli.report:Report",
    "figure": "foreshock.cli.figure:FigureWritten",
    "explain": "list of foreshock.explain.record:Explanation",
    "compare": "foreshock.explain.comparison:Comparison",
    "curvature": "foreshock.cli.curvature:CheckpointCurvature",
    "doctor": "foreshock.cli.doctor:Diagnosis",
    "replay": "foreshock.cli.replay:Replayed",
    "advise": "foreshock.cli.advise:Advised",
    "import": "foreshock.importers.run:Imported",
    "demo": "list of foreshock.cli.report:Report",
}
"""What each command prints."""

_HEAD = f"""# JSON output

Made from the records themselves by `python docs/json_output.py`; a test compares what commands print with it.

With `--json` a command prints one object to standard output and nothing else there:

| field | type | |
|---|---|---|
| `schema` | integer | Version of this form, now {SCHEMA}. Raised when a field changes; new ones may come. |
| `foreshock` | string | Version of Foreshock. |
| `command` | string | The command. |
| `result` | as below | What it found. |

A number that is not known is `null`, an infinite one the string `"Infinity"` or `"-Infinity"`: the JSON is
strict. Steps are counted as the run counts them; shares and probabilities go from 0 to 1. What is wrong is
one line on standard error, with exit status 1, and nothing is printed to standard output.

`foreshock bench …` and `foreshock reproduce` have no `--json`: they take from minutes to days, go on where
they were interrupted, and find more than a command prints. Their results are JSON files, which the last lines
that they print name: a script reads those. `top` and `watch` only show.

`foreshock explain --model … --data …` fills the `examination` of its one event; without these options it is
`null`.

## Exit status

| status | |
|---|---|
| 0 | Done; with `--fail-on`, nothing as bad as that happened. |
| 1 | The command could not do its work. |
| 2 | It was called in a wrong way. |
| {STATUSES["alarm"]} | `--fail-on alarm`: the worst is an alarm. For `doctor`, `replay`, `advise` see `-h`. |
| {STATUSES["spike"]} | `--fail-on alarm` or `spike`: the worst is a spike. For `advise` see `-h`. |
| {STATUSES["divergence"]} | `--fail-on`: the loss diverged, climbed, or was NaN or infinite. |
| 130 | Ended by Ctrl-C. |
"""


def json_output_page() -> str:
    """Return the page: what each command prints, then each record that is printed."""
    parts = [_HEAD, "## Commands\n", "| command | `result` |\n|---|---|"]
    parts += [f"| `foreshock {name}` | {_linked(what)} |" for name, what in RESULTS.items()]
    parts.append("\n## Records")
    for record in records():
        parts.append(f"\n### {record.__name__}\n\n{_first_sentence(record)}\n")
        parts.append("| field | type | |\n|---|---|---|")
        meanings = {**_attributes(record), **_properties(record)}
        for name, kind in fields(record).items():
            words = " ".join(meanings[name].replace("|", "\\|").split())
            parts.append(f"| `{name}` | {shown(kind)} | {_plain_words(words)} |")
    return "\n".join(parts) + "\n"


def records() -> list[type]:
    """Return the records that commands print, those of a record after it."""
    found: list[type] = []

    def add(kind: Any) -> None:
        if dataclasses.is_dataclass(kind) and isinstance(kind, type) and kind not in found:
            found.append(kind)
            for inner in fields(kind).values():
                add(inner)
        origin = get_origin(kind)
        if dataclasses.is_dataclass(origin):
            add(origin)
        for inner in get_args(kind):
            add(inner)

    for what in RESULTS.values():
        add(result_type(what))
    return found


def result_type(what: str) -> type:
    """Return the record that a value of `RESULTS` names."""
    module, _, name = what.removeprefix("list of ").partition(":")
    found: type = getattr(importlib.import_module(module), name)
    return found


def fields(record: type) -> dict[str, Any]:
    """Return the types of what is printed of a record, by name."""
    names = {**_names(), **vars(importlib.import_module(record.__module__))}
    hints: dict[str, Any] = {}
    for owner in reversed(record.__mro__):
        hints |= inspect.get_annotations(owner)
    for name in json_names(record):
        member = inspect.getattr_static(record, name, None)
        if isinstance(member, property):
            hints[name] = inspect.get_annotations(member.fget)["return"]
    return {
        name: eval(hints[name], names) if isinstance(hints[name], str) else hints[name]  # noqa: S307 - ours
        for name in json_names(record)
    }


def shown(kind: Any) -> str:
    """Return a type in the words of JSON."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    if origin is Literal:
        return " or ".join(f'`"{one}"`' for one in inner)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(dict.fromkeys(shown(one) for one in inner))
    if origin in (tuple, list, collections.abc.Sequence):
        if origin is tuple and inner[-1] is not Ellipsis:
            return f"array of {' and '.join(shown(one) for one in inner)}"
        return f"array of {shown(inner[0])}"
    if origin in (dict, collections.abc.Mapping):
        return f"object of {shown(inner[1])}"
    record = origin or kind
    if dataclasses.is_dataclass(record):
        return f"[{record.__name__}](#{record.__name__.lower()})"
    if isinstance(kind, typing.TypeVar):
        return shown(LossEvent)  # of the outcome of a spike: commands judge the events of the loss
    if inspect.isclass(kind):  # a path, a type of numbers: what it is called
        return "string"
    raise TypeError(f"{kind!r} is no type that a command prints")


_SIMPLE: Mapping[Any, str] = {
    str: "string",
    int: "integer",
    float: "number or null",
    bool: "boolean",
    Any: "anything",
    type(None): "null",
    None: "null",
}


_PACKAGES = [
    "spikes",
    "explain",
    "report",
    "forecast",
    "curvature",
    "operators",
    "runlog",
    "live",
    "cli",
    "replay",
]


def _names() -> dict[str, Any]:
    """Return what annotations may name that their modules import for type checkers only."""
    found: dict[str, Any] = {}
    for package in _PACKAGES:
        parent = importlib.import_module(f"foreshock.{package}")
        for module in pkgutil.iter_modules(parent.__path__):
            if (package, module.name) not in (("live", "app"), ("live", "server"), ("live", "security")):
                inside = vars(importlib.import_module(f"foreshock.{package}.{module.name}"))
                found |= {name: one for name, one in inside.items() if dataclasses.is_dataclass(one)}
                found |= {name: one for name, one in inside.items() if get_origin(one) is Literal}
    return {**found, "Mapping": Mapping, "Sequence": collections.abc.Sequence, "Any": Any, "Path": Path}


def _attributes(record: type) -> dict[str, str]:
    """Return what the docstring of a record says of each of its attributes, and of those it inherits."""
    found: dict[str, str] = {}
    for owner in reversed(record.__mro__):
        lines = (inspect.cleandoc(owner.__doc__ or "")).splitlines()
        inside, name = False, ""
        for line in lines:
            if re.match(r"\S", line):
                inside = line == "Attributes:"
            elif inside and (match := re.match(r"    (\w+): (.*)", line)):
                name = match[1]
                found[name] = match[2]
            elif inside and name and line.strip():
                found[name] += " " + line.strip()
    return found


def _properties(record: type) -> dict[str, str]:
    members = inspect.getmembers(record, lambda one: isinstance(one, property))
    return {name: inspect.cleandoc(one.__doc__ or "").split("\n\n")[0] for name, one in members}


def _first_sentence(record: type) -> str:
    return _plain_words(inspect.cleandoc(record.__doc__ or "").split("\n\n")[0])


def _plain_words(words: str) -> str:
    words = re.sub(r":(?:math|py:\w+|class|func):`~?([^`]*)`", r"`\1`", words)
    words = re.sub(r"``([^`]*)``", r"`\1`", words)
    return re.sub(r"\bNone\b", "null", words)


def _linked(what: str) -> str:
    name = result_type(what).__name__
    link = f"[{name}](#{name.lower()})"
    return f"array of {link}" if what.startswith("list of ") else link


if __name__ == "__main__":
    PAGE.write_text(json_output_page(), encoding="utf-8")
    print(f"Page: {PAGE} ({foreshock.__version__})")  # noqa: T201 - a script
