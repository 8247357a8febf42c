"""The commands that run a job file, one for each JobKind: a table, and what they do alike."""

import inspect
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmrlhf_ray.cli.ending import ending
from mmrlhf_ray.cli.examples import example_lines
from mmrlhf_ray.cli.supervise import supervise as keep_running
from mmrlhf_ray.errors import RunFailed, known_error, needs
from mmrlhf_ray.training.checkpoint import newest_step

if TYPE_CHECKING:
    from mmrlhf_ray.config import RunConfig

JobFile = Annotated[Path, typer.Argument(metavar="FILE", help="YAML file of the job, e.g. one of jobs/.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the file to replace, e.g. seed=1 checkpoint.keep=5."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue from the newest complete checkpoint.")]
Sweep = Annotated[
    bool, typer.Option("--sweep", help="Try what the section `sweep` names with Ray Tune; prints the best.")
]
Root = Annotated[
    Path | None,
    typer.Option("--root", help="Directory that relative paths in the job are taken from. Default: here."),
]
Supervise = Annotated[
    int,
    typer.Option(
        "--supervise",
        min=0,
        metavar="N",
        help="When the run fails, start it again from its checkpoint, N times at most.",
    ),
]
To = Annotated[
    tuple[str, Path] | None,
    typer.Option(
        "--to",
        metavar="preferences OUT",
        help="Write the adversarial responses to the directory OUT as preference records; score nothing.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything and print the plan; start nothing.")]


@dataclass(frozen=True)
class JobCommand:
    """One row of the table."""

    name: str
    """The command, which is the JobKind's value."""
    help: str
    pipeline: str
    """Module with `run(cfg)`, which returns a path to print, or whether a bar was passed."""
    resumes: bool = True
    """Its run() takes `resume`."""
    sweep: str | None = None
    """Module whose `run(cfg)` is for `--sweep`."""
    to: str | None = None
    """What `--to` writes instead of running: "preferences", by the pipeline's `write_preferences(cfg, path)`."""
    extra: str | None = None
    """The extra that has to be installed beyond the core; a key of errors.EXTRAS."""
    algorithm: str | None = None
    """Set where the job is run by an algorithm's name; a key of config.aliases.ALIASES."""

    @property
    def typed(self) -> str:
        """What runs it."""
        return self.algorithm or self.name


_THIS = (sys.executable, "-P", "-m", "mmrlhf_ray.cli")
"""`mmrlhf`, wherever it was installed."""
JOBS = (
    JobCommand("sft", "Fine-tune a model on demonstrations.", "mmrlhf_ray.pipelines.supervised.sft"),
    JobCommand(
        "reward-model",
        "Train a reward model on preferences or ratings.",
        "mmrlhf_ray.pipelines.supervised.reward_model",
    ),
    JobCommand(
        "preference",
        "Train a policy on preferences (DPO, KTO, ORPO, …).",
        "mmrlhf_ray.pipelines.preference.job",
    ),
    JobCommand(
        "probe-reward",
        "Find out which responses fool the rewards.",
        "mmrlhf_ray.pipelines.probe.job",
        resumes=False,
        to="preferences",
    ),
    JobCommand("ppo", "Train a policy online (PPO, GRPO, RLOO, …).", "mmrlhf_ray.pipelines.ppo.job"),
    JobCommand(
        "evaluate",
        "Answer held-out prompts and score the responses.",
        "mmrlhf_ray.pipelines.evaluate.job",
        resumes=False,
    ),
    JobCommand(
        "iterate",
        "Turn people's votes into a better policy, in rounds.",
        "mmrlhf_ray.pipelines.iterate.job",
        extra="feedback",
    ),
    JobCommand(
        "discrete",
        "Learn decisions over several modalities with RLlib.",
        "mmrlhf_ray.pipelines.discrete.job",
        sweep="mmrlhf_ray.pipelines.discrete.sweep",
    ),
    JobCommand(
        "behaviour",
        "Learn a behaviour from preferences over clips of it.",
        "mmrlhf_ray.pipelines.behaviour.job",
    ),
)


def add_jobs(app: typer.Typer) -> None:
    """A command for each job, and `train` for the one that a file says."""
    for job in JOBS:
        app.command(name=job.name, help=job.help)(_command(job))
    app.command(name="train")(_train)


def algorithm_command(name: str) -> Any:
    """The command of an algorithm by its name: its job with that algorithm set. None for other names."""
    from mmrlhf_ray.config.aliases import ALIASES

    alias = ALIASES.get(name)
    if alias is None:
        return None
    job = replace(_job(alias.job), algorithm=name)
    means = ", ".join(f"{key}={value}" for key, value in alias.means.items())
    advised = ", ".join(f"{key}={_yaml(value)}" for key, value in alias.advises.items())
    text = f"{job.help}\n\nWith {means}."
    text += f" Unless the file says otherwise: {advised}." if advised else ""
    shown = [f"mmrlhf config {name} > my-{name}.yaml", f"mmrlhf {name} my-{name}.yaml --dry-run"]
    alone = typer.Typer(rich_markup_mode=None)
    alone.command(name=name, help=text, epilog=example_lines(shown))(_command(job))
    return typer.main.get_command_from_info(
        alone.registered_commands[0], pretty_exceptions_short=False, rich_markup_mode=None
    )


def _yaml(value: object) -> str:
    return json.dumps(value).replace('"', "")


def _job(name: str) -> JobCommand:
    return next(job for job in JOBS if job.name == name)


def _train(
    file: JobFile,
    overrides: Overrides = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    root: Root = None,
    supervise: Supervise = 0,
) -> None:
    """Run the job that a file says it is."""
    from mmrlhf_ray.config import read_job_kind

    job = _job(read_job_kind(file).value)
    if not job.resumes and (resume or supervise):
        raise typer.BadParameter(f"a job of kind {job.name} is not resumed; leave --resume and --supervise out")
    _command(job)(file, overrides, resume=resume, dry_run=dry_run, root=root, supervise=supervise)


def _command(job: JobCommand) -> Callable[..., None]:
    """The command of a job; its signature has the options that the job knows."""

    def command(
        file: JobFile,
        overrides: Overrides = None,
        resume: Resume = False,
        sweep: Sweep = False,
        to: To = None,
        dry_run: DryRun = False,
        root: Root = None,
        supervise: Supervise = 0,
    ) -> None:
        from mmrlhf_ray.config import JobKind, load_config

        cfg = load_config(file, overrides or [], JobKind(job.name).config, root, job.algorithm)
        from mmrlhf_ray.planning.settle import settled  # imports torch, which a wrong file need not wait for

        cfg = settled(cfg, fetch=not dry_run)
        if supervise and not dry_run:
            words = [*_THIS, *_words(job, [str(file), *(overrides or [])], root), *(["--resume"] if resume else [])]
            raise typer.Exit(keep_running(words, cfg.run_dir, supervise))
        try:
            if to is not None and not dry_run:
                print(_write(job, cfg, *to))
            else:
                _run(job, cfg, resume, sweep, dry_run)
        except Exception as error:
            if job.resumes and isinstance(known_error(error), RunFailed):
                error.add_note(_go_on(job, cfg, [str(file), *(overrides or [])], root))
            raise

    options = (
        ("resume", job.resumes),
        ("supervise", job.resumes),
        ("sweep", job.sweep is not None),
        ("to", job.to is not None),
    )
    unknown = {name for name, known in options if not known}
    signature = inspect.signature(command)
    known = [parameter for name, parameter in signature.parameters.items() if name not in unknown]
    command.__signature__ = signature.replace(parameters=known)  # type: ignore[attr-defined]
    return command


def _go_on(job: JobCommand, cfg: "RunConfig", words: list[str], root: Path | None) -> str:
    """How to go on with a run that failed, and from where."""
    words = ["mmrlhf", *_words(job, words, root), "--resume"]
    newest = newest_step(cfg.run_dir)
    return f"go on{'' if newest is None else f' from step {newest}'} with: {shlex.join(words)}"


def _words(job: JobCommand, words: list[str], root: Path | None) -> list[str]:
    """The command that runs the job."""
    return [job.typed, *words, *(["--root", str(root)] if root else [])]


def _write(job: JobCommand, cfg: "RunConfig", kind: str, path: Path) -> Path:
    """What `--to` asks for."""
    if kind != job.to:
        raise typer.BadParameter(f"--to expects {job.to} and a directory, got {kind}")
    written: Path = import_module(job.pipeline).write_preferences(cfg, path)
    return written


def _run(job: JobCommand, cfg: "RunConfig", resume: bool, sweep: bool, dry_run: bool) -> None:
    if job.extra:
        needs(job.extra)
    from mmrlhf_ray.planning.auto import placed

    cfg = placed(cfg)
    if dry_run:
        from mmrlhf_ray.planning.dry_run import dry_run as plan

        print(plan(cfg))
        return
    module = import_module(job.sweep if sweep and job.sweep else job.pipeline)
    found = module.run(cfg, resume=resume) if job.resumes and not sweep else module.run(cfg)
    if isinstance(found, bool):
        raise typer.Exit(0 if found else 1)
    if not (sweep and job.sweep):
        for line in ending(job.name, cfg):
            print(line, file=sys.stderr)
    print(cfg.run_url or found)
