"""Errors whose message says everything. The command prints it without a traceback.

    KnownError
      UserError            the user can fix it
        ConfigError        a configuration: names every wrong key, where it came from and the remedy
          ModelError       a model directory that a configuration names
        DataError          data: names the file or rows and the remedy
        SchemaError        a table that breaks the data contract
        RunError           a run that cannot start or continue
          PlacementError   a cluster that cannot hold what the configuration asks for
          NonFiniteLoss    a loss or gradient that is NaN or infinite
        FeedbackError      a request to the feedback app that cannot be met
        MissingExtra       a command whose packages are an extra that is not installed
      RunFailed            nobody's mistake in the configuration or data: it may go on with --resume
        RoleFailed         an actor or worker raised what it should not, died or cannot be reached
          Unreachable      Ray cannot say whether the actor still lives
        DeadlineExceeded   a stage that did not answer in time

Exit status of `mmrlhf`: 0 done; 1 a RunFailed, an error that is not known, or a bar was missed; 2 a UserError or wrong
usage; 130 Ctrl-C.
"""

from collections.abc import Iterator
from importlib.util import find_spec

_SHOWN_CHARACTERS = 400
# Import names of the packages in each extra of pyproject.toml.
EXTRAS = {
    "feedback": (
        "sqlalchemy",
        "alembic",
        "psycopg",
        "fastapi",
        "uvicorn",
        "python_multipart",
        "crowdkit",
        "babel",
        "markdown_it",
        "mdit_py_plugins",
        "latex2mathml",
        "prometheus_client",
        "jwt",
    ),
    "environments": ("websockets",),
    "scenarios": ("pydicom",),
    "behaviour": ("highway_env", "mujoco", "imageio", "minatar"),
    "serve": ("fastapi",),
    "quantize": ("compressed_tensors",),
    "onnx": ("onnx", "onnxscript", "onnxruntime", "python_multipart"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
    "swanlab": ("swanlab", "swanboard"),
}


class KnownError(Exception):
    """Its message says everything; a traceback would add nothing."""

    exit_status = 1
    """Of the command that ends with it."""


class UserError(KnownError):
    """The user can fix it: the message says what failed, what was expected, what came and what to do."""

    exit_status = 2


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


class PlacementError(RunError):
    """The cluster cannot hold the placement that the configuration asks for."""


class NonFiniteLoss(RunError):
    """A loss or its gradient is NaN or infinite; nothing was applied. The message says on which rank and what to do."""


class RunFailed(KnownError, RuntimeError):
    """A run ended before its time, though configuration and data are right. A supervisor may start it again."""


class RoleFailed(RunFailed):
    """An actor or worker raised what it should not, died or cannot be reached. Names the stage, who, and the reason."""


class Unreachable(RoleFailed):
    """An actor's node, or the network to it, was gone at least for a moment; nobody knows whether it did what it was
    asked for."""


class EngineDied(RoleFailed):
    """The process of a generator's engine ended. The generator lives and says so; who asked it adds its name."""


class DeadlineExceeded(RunFailed):
    """A stage did not answer in time. The message names the stage, the deadline and who did not answer."""


class FeedbackError(UserError, ValueError):
    """A request that cannot be met; `field` names what is wrong in it, "" where it is nothing in particular.

    `message` is the problem with placeholders, %(name)s, for `values`: the feedback pages look it up in a catalogue.
    """

    def __init__(self, message: str, field: str = "", **values: object) -> None:
        self.message, self.values = message, values
        self.problem = message % values if values else message
        self.field = field
        super().__init__(f"{field}: {self.problem}" if field else self.problem)


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


def known_error(error: BaseException) -> KnownError | None:
    """The outermost KnownError in `error`, its causes and what Ray wrapped into them; None where there is none."""
    return next((found for found in chain(error) if isinstance(found, KnownError) and not _from_ray(found)), None)


def chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and all that it was raised from or that Ray wrapped into it, each once, outermost first."""
    seen, waiting = set(), [error]
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:  # what Ray unwraps is raised from its own wrapping
            continue
        seen.add(id(current))
        yield current
        inner = [current.__cause__]
        if _from_ray(current):
            inner += [getattr(current, "cause", None), *getattr(current, "worker_failures", {}).values()]
        waiting += [candidate for candidate in inner if isinstance(candidate, BaseException)]


def first_line(error: BaseException) -> str:
    """Of its message; the rest of a long one is in its trace."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS]} …"


def _from_ray(error: BaseException) -> bool:
    return type(error).__module__.startswith("ray.")
