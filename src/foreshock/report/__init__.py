"""A run as text, as a picture and as a web page, from its log alone."""

from foreshock.report.charts import charts
from foreshock.report.evidence import Evidence
from foreshock.report.figure import write_figure
from foreshock.report.html import write_html
from foreshock.report.markdown import to_markdown
from foreshock.report.picture import write_picture
from foreshock.report.readings import Coverage
from foreshock.report.spectrum_picture import DensityCurve, write_spectrum_picture
from foreshock.report.summary import Probes, RunEvent, RunSummary, summarise
from foreshock.report.tables import Table, alarm_table, overview_table, spike_table
from foreshock.report.text import notes, to_text
from foreshock.report.verdict import Verdict, verdict

__all__ = [
    "Coverage",
    "DensityCurve",
    "Evidence",
    "Probes",
    "RunEvent",
    "RunSummary",
    "Table",
    "Verdict",
    "alarm_table",
    "charts",
    "notes",
    "overview_table",
    "spike_table",
    "summarise",
    "to_markdown",
    "to_text",
    "verdict",
    "write_figure",
    "write_html",
    "write_picture",
    "write_spectrum_picture",
]
