"""The run log: append-only JSON lines, one record a line, one file per rank.

Lines are written by single system calls, so that a run can be read while it is written, and after
``kill -9``: a torn last line is skipped by the reader and closed by the next writer. JSON has no NaN
and no infinity; they are kept as the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``.

The first line of every session is a header, written together with the session's first record::

    {"kind": "header", "schema": 2, "foreshock": "0.1.0", "created": "…", "number": 1, "meta": {…}}

and each later line a record of some `kind` with a `step`:

========== =========================================================================================
kind       what it is
========== =========================================================================================
step       the free signals of one training step (`foreshock.monitor.StepObservation`)
rank       a meeting of processes that train together: `steps` since the last one, `losses` of this one alone
weights    a checksum of the trained parameters, where each process has a copy of them
curvature  one probe (`foreshock.curvature.CurvatureReading`)
noise      one measurement of how the curvature differs within a batch (`foreshock.curvature.NoiseReading`)
forecast   the forecast after a probe (`foreshock.forecast.Forecast`)
alarm      a watch or an alarm (`foreshock.forecast.Alarm`)
guard      an action of a guard (`foreshock.guarding.GuardAction`)
growth     what made the ratio grow since the last measurement: v and the learning rate, and the landscape
change     parameters, options or the state of the optimizer are others from this step on
gradients  the tensors whose gradients jumped at a step, and the ids of its examples if they are known
tensors    the table of tensors at an alarm, a spike or a NaN (`foreshock.explain.TensorTable`)
overflow   where a step stopped being finite (``foreshock.monitor.overflow.Overflow``)
event      something that happened: a failed probe, a non-finite loss (`name`, `message`). With `count` and
           `until` it stands for so many of them, one at each step from `step` to `until`
========== =========================================================================================

A folder holds one run, or several that were started in it: the first is ``RUN/rank0.jsonl``, the next
``RUN/2/rank0.jsonl``, and so on; `number` of the header says which. They are never mixed. A run that resumes
goes on in its own file, with another header: records of the step it resumes at, and of later ones, are then
obsolete, and the reader drops and counts them. While a file is written it is locked (``flock``, where there
is one), so that a second writer is noticed; the lock of a process that was killed is gone with it.

Logs of schema 1 are read too, also where a later session of the same run has schema 2. Their records come
back as those of schema 2 would be:

========== ============================ ==========================================================
kind       schema 1                     schema 2
========== ============================ ==========================================================
step       ``lag_ratio``                ``instant_lag``, its reciprocal Σv̂/Σg²; infinity for zero
forecast   ``reverse_lag``              none: its square was the reciprocal of ``instant_lag``
forecast   ``mean_square_ratio``        ``typical_mean_square_ratio``; the former becomes NaN
alarm      its ``forecast``             as a record of kind forecast
guard      ``remedy: "stand aside"``    ``remedy: "cooldown"``
========== ============================ ==========================================================
"""

from foreshock.runlog.encoding import SCHEMA
from foreshock.runlog.reader import Run, read_run
from foreshock.runlog.writer import RunLogWriter

__all__ = ["SCHEMA", "Run", "RunLogWriter", "read_run"]
