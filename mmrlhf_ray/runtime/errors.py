"""Errors of a run that its user can mend. The message says what failed and what to do; no traceback is shown."""


class RunError(RuntimeError):
    """A run cannot start or go on."""


class DeadlineExceeded(RunError):
    """A stage did not answer in time. The message names the stage, the deadline and who did not answer."""


class PlacementError(RunError):
    """The cluster cannot hold the placement that the configuration asks for."""
