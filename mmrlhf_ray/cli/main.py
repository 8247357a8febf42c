"""The `mmrlhf` command. Heavy imports happen inside the commands, so that `--help` is quick."""

import gc
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from mmrlhf_ray import __version__
from mmrlhf_ray.cli.config import config
from mmrlhf_ray.cli.data import app as data_app
from mmrlhf_ray.cli.discrete import discrete_export, discrete_serve
from mmrlhf_ray.cli.feedback import app as feedback_app
from mmrlhf_ray.cli.groups import HELP_SETTINGS, RootGroup
from mmrlhf_ray.cli.jobs import JobFile, Overrides, Resume, Supervise, add_jobs
from mmrlhf_ray.cli.models import add_model_commands
from mmrlhf_ray.cli.plan import plan
from mmrlhf_ray.cli.runs import app as runs_app
from mmrlhf_ray.cli.runs import report
from mmrlhf_ray.config.paths import MAY_FETCH
from mmrlhf_ray.errors import chain, known_error

app = typer.Typer(
    cls=RootGroup,
    context_settings=HELP_SETTINGS,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")
app.add_typer(feedback_app, name="feedback")
app.add_typer(runs_app, name="runs")

QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_OFFLINE": "1",  # only what is named as hf:… is fetched, by a process of its own
    "VLLM_LOGGING_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore::FutureWarning,ignore::DeprecationWarning",  # of libraries, in child processes as well
}
"""Environment in which libraries leave the terminal to us; what the user has set wins."""

_IMPORTS_FIRST = (100_000, 20, 20)
"""What is imported is never garbage, and with Python's own thresholds looking for some takes a fifth of the time."""


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"mmrlhf {__version__}")
        raise typer.Exit(0)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """RLHF for multimodal models on Ray."""


@app.command()
def demo(
    fast: Annotated[bool, typer.Option("--fast", help="Every stage, but short; figures mean nothing.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of data, model and training.")] = 0,
    output: Annotated[Path, typer.Option(help="Directory for the run.")] = Path("runs/demo"),
) -> None:
    """Run the entire loop on a small model.

    SFT, feedback, reward model, PPO, evaluation; ends with a table and a report.
    """
    from mmrlhf_ray.demo.run import run_demo

    _exit_by(run_demo(output, seed, fast))


add_jobs(app)
app.command()(config)
app.command()(plan)
app.command()(report)


@app.command()
def parity(
    model_dir: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Directory in Hugging Face format, or hf:ORG/NAME.")
    ] = None,
    families: Annotated[
        bool, typer.Option("--families", help="Tiny models of every family that has an adapter, made here.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="With --families: file whose marked table is replaced, e.g. docs/models.md.")
    ] = None,
) -> None:
    """Compare vLLM with the learner.

    Token ids and log-probabilities, before and after a weight push.
    """
    if (model_dir is None) != families:
        raise typer.BadParameter("give either a model directory or --families")
    if model_dir is None:
        from mmrlhf_ray.demo.families import FAMILIES
        from mmrlhf_ray.demo.families.table import run as run_families

        _exit_by(run_families(FAMILIES, output))
    else:
        from mmrlhf_ray.models.hub import local_model
        from mmrlhf_ray.pipelines.parity import job as pipeline

        _exit_by(pipeline.run(Path(local_model(model_dir))))


@app.command()
def doctor(fix: Annotated[bool, typer.Option("--fix", help="Fix what can be fixed, then check.")] = False) -> None:
    """Check the machine and the environment.

    Says what to do about each finding.
    """
    from mmrlhf_ray.runtime import doctor as checks

    if fix:
        for line in checks.fix():
            print(f"fixed {line}")
    findings = checks.run_checks()
    print(checks.render(findings))
    _exit_by(all(finding.status != "fail" for finding in findings))


@app.command()
def submit(
    file: JobFile,
    overrides: Overrides = None,
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Dashboard of the cluster.")
    ] = "http://127.0.0.1:8265",
    root: Annotated[
        Path | None,
        typer.Option(
            help="Directory that every node sees; relative paths of the job are taken from it. Default: here."
        ),
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Environment variable to pass on; may be repeated.")
    ] = None,
    python: Annotated[
        str | None, typer.Option(help="Python of the cluster; default: this one if the cluster is local, else python.")
    ] = None,
    resume: Resume = False,
    supervise: Supervise = 0,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the log and end as the job does.")] = True,
) -> None:
    """Run a job on a cluster, through Ray's job submission."""
    from mmrlhf_ray.runtime import submit as submission

    job = submission.prepare(
        file,
        overrides or [],
        address,
        root=root,
        env=env or [],
        python=python,
        resume=resume,
        supervise=supervise,
    )
    _exit_by(submission.submit(job, address, wait=wait))


@app.command()
def average(
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Directory to write; must not be there yet.")],
    sources: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Exported models of one start.")],
) -> None:
    """Average the weights of several models into one.

    Reward models of several runs (WARM), or one run's exported checkpoints.
    """
    from mmrlhf_ray.models.average import average_models

    average_models(sources, target)
    print(f"{target}: the mean of {len(sources)} models")


add_model_commands(app)
app.command(name="discrete-export")(discrete_export)
app.command(name="discrete-serve")(discrete_serve)


def main() -> None:
    """Entry point. Exit status: as errors.py says."""
    if "HF_HUB_OFFLINE" not in os.environ:
        os.environ[MAY_FETCH] = "1"
    if "PYTHONWARNINGS" not in os.environ:
        for category in (FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", category)
    os.environ.update(QUIET | os.environ)
    gc.set_threshold(*_IMPORTS_FIRST)
    try:
        app()
    except Exception as error:
        known = known_error(error)
        if known is None:
            raise
        notes = [note for found in chain(error) for note in getattr(found, "__notes__", ())]
        for line in (f"error: {known}", *dict.fromkeys(notes)):
            print(line, file=sys.stderr)
        sys.exit(known.exit_status)


def _exit_by(success: bool) -> None:
    raise typer.Exit(0 if success else 1)


if __name__ == "__main__":
    main()
