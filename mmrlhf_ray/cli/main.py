"""The `mmrlhf` command. Heavy imports happen inside the commands, so that `--help` is quick."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mmrlhf_ray.cli.data import app as data_app
from mmrlhf_ray.cli.discrete import discrete_export, discrete_serve
from mmrlhf_ray.cli.feedback import app as feedback_app

app = typer.Typer(
    help="RLHF for multimodal models on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")
app.add_typer(feedback_app, name="feedback")

QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_OFFLINE": "1",  # models are directories; nothing is fetched behind the user's back
}
"""Environment in which libraries leave the terminal to us; what the user has set wins."""

JobFile = Annotated[Path, typer.Argument(help="YAML file of the job, e.g. one of jobs/.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the file to replace, e.g. algorithm.kl_coef=0.05."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest complete checkpoint.")]


@app.command()
def demo(
    fast: Annotated[bool, typer.Option("--fast", help="Every stage, but short; figures mean nothing.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of data, model and training.")] = 0,
    output: Annotated[Path, typer.Option(help="Directory for the run.")] = Path("runs/demo"),
) -> None:
    """The whole loop on a small model: SFT, feedback, reward model, PPO, evaluation; ends with a table and a report."""
    from mmrlhf_ray.demo.run import run_demo

    _exit_by(run_demo(output, seed, fast))


@app.command()
def sft(file: JobFile, overrides: Overrides = None, resume: Resume = False) -> None:
    """Supervised fine-tuning on demonstrations."""
    from mmrlhf_ray.config import SFTConfig, load_config

    cfg = load_config(file, overrides or [], SFTConfig)
    from mmrlhf_ray.pipelines.supervised import sft as pipeline

    print(pipeline.run(cfg, resume=resume))


@app.command(name="reward-model")
def reward_model(file: JobFile, overrides: Overrides = None, resume: Resume = False) -> None:
    """Train a reward model on preferences, rankings or ratings."""
    from mmrlhf_ray.config import RewardModelConfig, load_config

    cfg = load_config(file, overrides or [], RewardModelConfig)
    from mmrlhf_ray.pipelines.supervised import reward_model as pipeline

    print(pipeline.run(cfg, resume=resume))


@app.command()
def preference(file: JobFile, overrides: Overrides = None, resume: Resume = False) -> None:
    """Train a policy on preferences without a reward model: DPO, IPO, KTO, ORPO, SimPO, BCO, MPO."""
    from mmrlhf_ray.config import PreferenceConfig, load_config

    cfg = load_config(file, overrides or [], PreferenceConfig)
    from mmrlhf_ray.pipelines.preference import job as pipeline

    print(pipeline.run(cfg, resume=resume))


@app.command(name="probe-reward")
def probe_reward(file: JobFile, overrides: Overrides = None) -> None:
    """Score adversarial responses beside honest ones: which of them fool the rewards?"""
    from mmrlhf_ray.config import ProbeRewardConfig, load_config

    cfg = load_config(file, overrides or [], ProbeRewardConfig)
    from mmrlhf_ray.pipelines.probe import job as pipeline

    _exit_by(pipeline.run(cfg))


@app.command()
def ppo(
    file: JobFile,
    overrides: Overrides = None,
    resume: Resume = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print placement, memory and batch arithmetic; start nothing.")
    ] = False,
) -> None:
    """Train a policy with PPO against a reward model."""
    from mmrlhf_ray.config import PPOConfig, load_config

    cfg = load_config(file, overrides or [], PPOConfig)
    if dry_run:
        from mmrlhf_ray.planning.plan import plan_ppo, render

        print(render(plan_ppo(cfg)))
        return
    from mmrlhf_ray.pipelines.ppo import job as pipeline

    print(pipeline.run(cfg, resume=resume))


@app.command()
def evaluate(file: JobFile, overrides: Overrides = None) -> None:
    """Answer held-out prompts with one or two policies and score the responses."""
    from mmrlhf_ray.config import EvaluateConfig, load_config

    cfg = load_config(file, overrides or [], EvaluateConfig)
    from mmrlhf_ray.pipelines.evaluate import job as pipeline

    print(pipeline.run(cfg))


@app.command()
def iterate(file: JobFile, overrides: Overrides = None, resume: Resume = False) -> None:
    """From people's votes to a better policy, round by round: sample, ask, learn, evaluate."""
    from mmrlhf_ray.config import IterateConfig, load_config

    cfg = load_config(file, overrides or [], IterateConfig)
    from mmrlhf_ray.pipelines.iterate import job as pipeline

    pipeline.run(cfg, resume=resume)


@app.command()
def discrete(
    file: JobFile,
    overrides: Overrides = None,
    resume: Resume = False,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Try what the section `sweep` names with Ray Tune; prints the best.")
    ] = False,
) -> None:
    """Learn decisions over several modalities with RLlib: DQN, PPO, A2C, REINFORCE, cloning."""
    from mmrlhf_ray.config import DiscreteConfig, load_config

    cfg = load_config(file, overrides or [], DiscreteConfig)
    if sweep:
        from mmrlhf_ray.pipelines.discrete import sweep as discrete_sweep

        print(discrete_sweep.run(cfg))
        return
    from mmrlhf_ray.pipelines.discrete import job as pipeline

    print(pipeline.run(cfg, resume=resume))


@app.command()
def parity(
    model_dir: Annotated[Path | None, typer.Argument(help="Model directory in Hugging Face format.")] = None,
    families: Annotated[
        bool, typer.Option("--families", help="Tiny models of every family that has an adapter, made here.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="With --families: file whose marked table is replaced, e.g. docs/models.md.")
    ] = None,
) -> None:
    """Compare vLLM with the learner: token ids and log-probabilities, before and after a weight push."""
    if (model_dir is None) != families:
        raise typer.BadParameter("give either a model directory or --families")
    if model_dir is None:
        from mmrlhf_ray.demo.families import FAMILIES
        from mmrlhf_ray.demo.families.table import run as run_families

        _exit_by(run_families(FAMILIES, output))
    else:
        from mmrlhf_ray.pipelines.parity import job as pipeline

        _exit_by(pipeline.run(model_dir))


@app.command()
def doctor(fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended, then check.")] = False) -> None:
    """Check the machine and the environment, and say what to do about each finding."""
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
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the log and end as the job does.")] = True,
) -> None:
    """Run a job on a cluster through Ray's job submission."""
    from mmrlhf_ray.runtime import submit as submission

    job = submission.prepare(file, overrides or [], address, root=root, env=env or [], python=python, resume=resume)
    _exit_by(submission.submit(job, address, wait=wait))


app.command(name="discrete-export")(discrete_export)
app.command(name="discrete-serve")(discrete_serve)


def main() -> None:
    """Entry point. Exit status: 0 done; 1 failed or a bar was missed; 2 a mistake of use or input; 130 Ctrl-C."""
    os.environ.update(QUIET | os.environ)
    try:
        app()
    except Exception as error:
        mistake = user_error(error)
        if mistake is None:
            raise
        print(f"error: {mistake}", file=sys.stderr)
        for note in getattr(mistake, "__notes__", ()):
            print(note, file=sys.stderr)
        sys.exit(2)


def user_error(error: BaseException) -> Exception | None:
    """The error that the user can mend in `error` or in what Ray wrapped into it; None where there is none."""
    from mmrlhf_ray.errors import ConfigError, DataError, FeedbackError, RunError, SchemaError

    from_ray = type(error).__module__.startswith("ray.")
    if isinstance(error, ConfigError | DataError | FeedbackError | RunError | SchemaError) and not from_ray:
        return error
    inner: list[Any] = [error.__cause__]
    if from_ray:
        inner += [getattr(error, "cause", None), *getattr(error, "worker_failures", {}).values()]
    for candidate in inner:
        found = user_error(candidate) if isinstance(candidate, BaseException) else None
        if found is not None:
            return found
    return None


def _exit_by(success: bool) -> None:
    raise typer.Exit(0 if success else 1)


if __name__ == "__main__":
    main()
