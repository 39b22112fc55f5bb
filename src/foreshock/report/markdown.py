"""A run as Markdown, for an issue, a pull request or a notebook: the verdict, why, what to do, tables."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from foreshock.report.tables import Table, tables_of
from foreshock.report.text import counts, notes
from foreshock.report.verdict import verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from foreshock.report.summary import RunSummary

_MARKUP = re.compile(r"([\\`*_{}\[\]#|~])")
_EVENTS_SHOWN = 40


def to_markdown(summary: RunSummary) -> str:
    """Return the report on a run as Markdown; what a log says is shown as text, whatever it looks like.

    Args:
        summary: The run in numbers.
    """
    return "\n".join(_lines(summary)) + "\n"


def escaped(text: str) -> str:
    r"""Return a text that Markdown shows as it is.

    Args:
        text: Any text of one line.

    Example:
        >>> escaped("a_b | <img src=x>")
        'a\\_b \\| &lt;img src=x&gt;'
    """
    return _MARKUP.sub(r"\\\1", html.escape(text, quote=False))


def _lines(summary: RunSummary) -> Iterator[str]:
    found = verdict(summary)
    yield f"# {escaped(summary.name)}"
    yield f"\n**{escaped(found.happened)}.**"
    for title, sentences in (("Why", found.why), ("What to do", found.advice)):
        if sentences:
            yield f"\n## {title}\n"
            yield from (f"- {escaped(sentence)}" for sentence in sentences)
    if summary.steps:
        yield f"\n{escaped(counts(summary))}"
    for table in tables_of(summary):
        yield from _table(table)
    events = [(event.when, event.name, event.message) for event in summary.events[:_EVENTS_SHOWN]]
    yield from _table(Table("Events", ("When", "Event", "What happened"), tuple(events)))
    remarks = notes(summary)
    if remarks:
        yield "\n## Notes\n"
        yield from (f"- {escaped(remark)}" for remark in remarks)


def _table(table: Table) -> Iterator[str]:
    if not table.rows:
        return
    yield f"\n## {escaped(table.title)}\n"
    yield _row(table.headers)
    yield _row(["---"] * len(table.headers))
    yield from (_row([escaped(cell) for cell in row]) for row in table.rows)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
