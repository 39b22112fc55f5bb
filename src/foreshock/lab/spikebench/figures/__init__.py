"""Pictures of SpikeBench, as SVG or PNG; matplotlib is loaded when one is drawn."""

from foreshock.lab.spikebench.figures.fan import write_fan
from foreshock.lab.spikebench.figures.leads import write_leads
from foreshock.lab.spikebench.figures.recall import write_recall
from foreshock.lab.spikebench.figures.reliability import write_reliability

__all__ = ["write_fan", "write_leads", "write_recall", "write_reliability"]
