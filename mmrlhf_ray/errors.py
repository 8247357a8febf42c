"""Errors that a user can fix. The command prints their message alone, without a traceback, and exits with 2.

    UserError
      ConfigError          a configuration: names every wrong key, where it came from and the remedy
        ModelError         a model directory that a configuration names
      DataError            data: names the file or rows and the remedy
      SchemaError          a table that breaks the data contract
      RunError             a run that cannot start or continue
        DeadlineExceeded   a stage that did not answer in time
        PlacementError     a cluster that cannot hold what the configuration asks for
      FeedbackError        a request to the feedback app that cannot be met
      MissingExtra         a command whose packages are an extra that is not installed

Exit status of `mmrlhf`: 0 done; 1 failed, or a bar was missed; 2 a UserError or wrong usage; 130 Ctrl-C.
"""

from importlib.util import find_spec

# Import names of the packages in each extra of pyproject.toml.
EXTRAS = {
    "feedback": ("sqlalchemy", "psycopg", "fastapi", "uvicorn", "python_multipart", "crowdkit"),
    "onnx": ("onnx", "onnxscript", "onnxruntime", "python_multipart"),
}


class UserError(Exception):
    """The user can fix it: the message says what failed, what was expected, what came and what to do."""


class ConfigError(UserError, ValueError):
    """A wrong configuration. The message names every wrong key, where it came from and the remedy."""


class ModelError(ConfigError):
    """A model directory that a configuration names cannot be used. Says what was expected and what to do."""


class DataError(UserError, ValueError):
    """Data that cannot be used. The message names the file or rows and the remedy."""


class SchemaError(UserError, ValueError):
    """A table breaks the data contract. The message names the column, what was expected and what came."""


class RunError(UserError, RuntimeError):
    """A run cannot start or continue."""


class DeadlineExceeded(RunError):
    """A stage did not answer in time. The message names the stage, the deadline and who did not answer."""


class PlacementError(RunError):
    """The cluster cannot hold the placement that the configuration asks for."""


class FeedbackError(UserError, ValueError):
    """A request that cannot be met; `field` names what is wrong in it, "" where it is nothing in particular."""

    def __init__(self, problem: str, field: str = "") -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.problem = problem
        self.field = field


class MissingExtra(UserError):
    """Packages that a command needs are not installed. The message names them and the extra that brings them."""


def needs(extra: str) -> None:
    """Make sure that the packages of `extra`, a key of EXTRAS, are there; imports none of them. Raises MissingExtra."""
    missing = [module for module in EXTRAS[extra] if find_spec(module) is None]
    if missing:
        raise MissingExtra(
            f"this needs the extra `{extra}`, of which {', '.join(missing)} cannot be found: "
            f'pip install "mmrlhf-ray[{extra}]"'
        )
