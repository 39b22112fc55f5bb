"""A run as text, as a picture and as a web page, from its log alone."""

from foreshock.report.charts import charts
from foreshock.report.html import write_html
from foreshock.report.picture import write_picture
from foreshock.report.spectrum_picture import DensityCurve, write_spectrum_picture
from foreshock.report.summary import Probes, RunEvent, RunSummary, summarise
from foreshock.report.text import (
    Table,
    false_alarm_table,
    notes,
    overview_table,
    spike_table,
    to_text,
    verdict,
)

__all__ = [
    "DensityCurve",
    "Probes",
    "RunEvent",
    "RunSummary",
    "Table",
    "charts",
    "false_alarm_table",
    "notes",
    "overview_table",
    "spike_table",
    "summarise",
    "to_text",
    "verdict",
    "write_html",
    "write_picture",
    "write_spectrum_picture",
]
