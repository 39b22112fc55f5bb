"""The live page: run logs as they grow, in a browser, from a small server of this machine.

Bytes of a log → `tail` → `run` (columns, alarms, blocks, a state in words) → `app` (series, details, a stream
of what changed) → the page in ``static/``. Two threads keep it up to date: `watched` reads what was added to
the logs, `analysis` looks for spikes and writes the longer verdict. Nothing is read twice, and nothing here
imports torch.
"""
