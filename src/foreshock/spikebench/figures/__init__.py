"""Pictures of SpikeBench, as SVG or PNG; matplotlib is loaded when one is drawn."""

from foreshock.spikebench.figures.fan import write_fan
from foreshock.spikebench.figures.leads import write_leads
from foreshock.spikebench.figures.recall import write_recall
from foreshock.spikebench.figures.reliability import write_reliability

__all__ = ["write_fan", "write_leads", "write_recall", "write_reliability"]
