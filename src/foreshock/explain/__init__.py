"""Logs → explanations of what happened: cause, place, stages, recovery."""

from foreshock.explain.advice import GUARDED_AGAINST, advise, go_back, remedy
from foreshock.explain.choice import choose
from foreshock.explain.comparison import Comparison, RunAt, compare_runs
from foreshock.explain.events import causes_of, explain_event, explain_run
from foreshock.explain.history import History
from foreshock.explain.record import (
    CAUSES,
    NOT_EXPLAINED,
    Cause,
    Examination,
    Explanation,
    Fact,
    Name,
    Outcome,
    Recovery,
    Signal,
    StageSpan,
)
from foreshock.explain.tensors import TensorRow, TensorTable, make_table
from foreshock.explain.text import explanation_text, table_text

__all__ = [
    "CAUSES",
    "GUARDED_AGAINST",
    "NOT_EXPLAINED",
    "Cause",
    "Comparison",
    "Examination",
    "Explanation",
    "Fact",
    "History",
    "Name",
    "Outcome",
    "Recovery",
    "RunAt",
    "Signal",
    "StageSpan",
    "TensorRow",
    "TensorTable",
    "advise",
    "causes_of",
    "choose",
    "compare_runs",
    "explain_event",
    "explain_run",
    "explanation_text",
    "go_back",
    "make_table",
    "remedy",
    "table_text",
]
