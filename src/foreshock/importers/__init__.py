"""Logs of other tools → a run log: what Foreshock says of a run that it did not watch.

Spikes and divergences are found in what was logged: step, loss, and the learning rate and gradient norm where
there are any. What was not measured – curvature, lag of v, forecasts – is absent from the run, never zero.
"""

from foreshock.importers.columns import Columns, guess_columns
from foreshock.importers.run import Imported, import_run

__all__ = ["Columns", "Imported", "guess_columns", "import_run"]
