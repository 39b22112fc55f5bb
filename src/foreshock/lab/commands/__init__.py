"""The laboratory's commands: ``foreshock bench`` and ``foreshock reproduce``."""
