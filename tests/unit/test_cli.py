import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from ray.exceptions import RayTaskError
from typer.testing import CliRunner

from mmrlhf_ray import __version__, pipelines
from mmrlhf_ray.cli import jobs
from mmrlhf_ray.cli import main as cli
from mmrlhf_ray.cli.examples import EXAMPLES, MEANT
from mmrlhf_ray.cli.groups import Group
from mmrlhf_ray.cli.jobs import JOBS, JobCommand
from mmrlhf_ray.config import JobKind, dotted_keys
from mmrlhf_ray.config.aliases import ALIASES
from mmrlhf_ray.config.discrete_parts import PPO as PPOPart
from mmrlhf_ray.errors import ConfigError, DataError, RoleFailed, RunError, SchemaError, chain, known_error


def _mmrlhf(*args: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "mmrlhf_ray.cli", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_help_shows_every_command() -> None:
    done = _mmrlhf("--help")
    assert done.returncode == 0
    for command in ("demo", "sft", "reward-model", "preference", "ppo", "evaluate", "parity", "doctor", "submit"):
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize("group", [["data"], ["feedback"], ["feedback", "annotators"]])
def test_every_command_is_a_sentence_that_is_not_cut_off(group: list[str]) -> None:
    lines = CliRunner().invoke(cli.app, [*group, "--help"]).stdout.partition("Commands:\n")[2]
    lines = lines.partition("\n\n")[0].splitlines()
    assert lines
    for line in lines:
        assert line.startswith("  "), line
        assert line[2:3].strip(), f"{line!r} goes on from the line above"
        assert line.endswith("."), line
        assert not line.endswith("..."), line


def test_commands_stand_below_headings_each_a_sentence() -> None:
    said = CliRunner().invoke(cli.app, ["--help"]).stdout.partition("Start here:\n")[2]
    lines = [line for line in said.splitlines() if line.startswith(" ")]
    assert [line for line in lines if not line.endswith(".") or not line[2:3].strip()] == []
    shown = [line.split()[0] for line in lines if not line.startswith("  as ")]
    assert sorted(shown) == sorted({command.name or "" for command in _root().commands.values()})
    assert "More:" not in said  # a command that no heading of GROUPS names


def test_algorithms_stand_in_the_help() -> None:
    said = CliRunner().invoke(cli.app, ["--help"]).stdout.partition("in the place of the job:")[2]
    assert set(re.findall(r"[a-z-]+(?=[,.])", said)) == {*ALIASES}


def test_every_help_ends_with_examples() -> None:
    assert {*EXAMPLES} == {*_paths(_root(), "")}
    for path in EXAMPLES:
        said = CliRunner().invoke(cli.app, [*path.split(), "--help"]).stdout
        assert said.rstrip().endswith(EXAMPLES[path][-1]), path


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_an_example_would_be_understood(line: str) -> None:
    program, *words = shlex.split(line.partition(" > ")[0])
    assert program == "mmrlhf"
    command, words = _root().commands[words[0]], words[1:]
    while isinstance(command, Group):
        words = words or ["list"]  # which `mmrlhf runs` alone is
        command, words = command.commands[words[0]], words[1:]
    context = command.make_context("x", words)
    if "file" in context.params and "overrides" in context.params:
        named = line.split()[1]
        job = JobKind(named) if named in set(JobKind) else JobKind.PPO
        known = {*dotted_keys(job.config), *dotted_keys(PPOPart, "algorithm.")}
        assert {text.partition("=")[0] for text in context.params["overrides"] or ()} <= known


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evalute"], "there is no command 'evalute'; did you mean `mmrlhf evaluate`?"),
        (["GRPO"], "did you mean `mmrlhf grpo`?"),
        (["finetune", "x.yaml"], "did you mean `mmrlhf sft`?"),
        (["rewrd-model"], "did you mean `mmrlhf reward-model`?"),
        (["check", "x"], "did you mean `mmrlhf data check`?"),
        (["data", "chek"], "there is no command 'chek'; did you mean `mmrlhf data check`?"),
        (["zzzz"], "there is no command 'zzzz'; see --help"),
    ],
)
def test_a_mistyped_command_is_answered_with_the_nearest(words: list[str], said: str) -> None:
    result = CliRunner().invoke(cli.app, words, prog_name="mmrlhf")
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


def test_what_others_call_a_command_is_one_of_ours() -> None:
    paths = {*_paths(_root(), "")}
    assert {*MEANT.values()} <= paths
    assert {*MEANT} & {*_root().commands, *ALIASES} == set()


def _root() -> Any:
    return typer.main.get_command(cli.app)


def _paths(group: Any, prefix: str) -> Iterator[str]:
    for name, command in group.commands.items():
        yield f"{prefix}{name}"
        yield from _paths(command, f"{prefix}{name} ") if isinstance(command, Group) else ()


def test_there_is_a_command_for_every_kind_of_job() -> None:
    assert {job.name for job in JOBS} == set(JobKind)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_job_s_options_are_those_of_its_pipeline(job: JobCommand) -> None:
    said = CliRunner().invoke(cli.app, [job.name, "--help"]).stdout
    parameters = inspect.signature(import_module(job.pipeline).run).parameters
    assert ("--resume" in said) is ("resume" in parameters) is job.resumes
    assert ("--sweep" in said) is (job.sweep is not None)
    assert "--dry-run" in said


def test_the_version() -> None:
    done = CliRunner().invoke(cli.app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"mmrlhf {__version__}\n")


def test_shells_can_complete() -> None:
    assert "--install-completion" in CliRunner().invoke(cli.app, ["--help"]).stdout


@pytest.mark.parametrize(
    ("typed", "completed"),
    [("mmrlhf re", "reward-model"), ("mmrlhf gr", "grpo"), ("mmrlhf config pp", "ppo"), ("mmrlhf data ch", "check")],
)
def test_what_a_shell_completes(typed: str, completed: str) -> None:
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1), "_MMRLHF_COMPLETE": "complete_bash"}
    said = CliRunner().invoke(cli.app, [], prog_name="mmrlhf", env=words).stdout
    assert completed in said.split()


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import mmrlhf_ray.cli.main, sys; print([m for m in ('torch', 'ray', 'vllm', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["check", "convert", "show"])
def test_rows_are_read_without_what_models_need(command: str) -> None:
    code = (
        f"import mmrlhf_ray.pipelines.data.{command}, sys; "
        "print([m for m in ('torch', 'transformers', 'ray', 'vllm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_driver_waits_for_what_its_roles_import() -> None:
    jobs = sorted(path.parent.name for path in Path(pipelines.__path__[0]).glob("*/job.py"))
    assert len(jobs) > 5
    code = (
        f"import importlib, sys; [importlib.import_module(f'mmrlhf_ray.pipelines.{{job}}.job') for job in {jobs}]; "
        "print([m for m in ('deepspeed', 'vllm', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_mistake_is_one_message_on_stderr_and_status_2(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    done = _mmrlhf("ppo", str(missing))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {missing}")
    assert "Traceback" not in done.stderr


def test_every_unknown_key_is_named_before_anything_starts(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("job: sft\nname: x\nmodel: {path: m}\ndata: {path: d}\nsteps: 1\nbatch_sise: 4\n")
    done = _mmrlhf("sft", str(job))
    assert done.returncode == 2
    assert "batch_sise" in done.stderr
    assert "batch_size" in done.stderr


def test_wrong_use_is_status_2() -> None:
    assert _mmrlhf("trian").returncode == 2
    assert _mmrlhf("ppo").returncode == 2


def _main_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    cli.main()


@pytest.mark.parametrize("kind", [ConfigError, DataError, RunError, SchemaError])
def test_errors_of_the_user_lose_their_traceback(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        _main_with(kind("row 3: too long"), monkeypatch)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: row 3: too long\n"


def test_failures_that_are_nobodys_mistake_are_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = RoleFailed("update: policy-1 died: killed")
    error.add_note("go on with: mmrlhf ppo job.yaml --resume")
    with pytest.raises(SystemExit) as caught:
        _main_with(error, monkeypatch)
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: update: policy-1 died: killed\ngo on with: mmrlhf ppo job.yaml --resume\n"


def test_what_an_actor_raised_from_rays_wrapping_of_itself_is_walked_once() -> None:
    cause = OSError(28, "No space left on device")
    wrapped = RayTaskError("f", "remote traceback", cause).as_instanceof_cause()
    cause.__cause__ = wrapped
    assert known_error(cause) is None
    assert list(chain(cause)) == [cause, wrapped]


@pytest.mark.parametrize("fails", [True, False])
def test_a_run_that_fails_says_how_to_go_on(fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line again with --resume, and the step of the newest checkpoint."""
    job = tmp_path / "job.yaml"
    job.write_text("name: a\nmodel: {path: m}\ndata: {path: d}\nsteps: 3\n")
    error = RoleFailed("x") if fails else RunError("x")

    def fail(*given: object) -> None:
        raise error

    monkeypatch.setattr(jobs, "_run", fail)
    monkeypatch.chdir(tmp_path)
    for step in (2, 10):
        (tmp_path / f"runs/a/checkpoints/step-{step:08d}").mkdir(parents=True)
        (tmp_path / f"runs/a/checkpoints/step-{step:08d}/manifest.json").touch()
    result = CliRunner().invoke(cli.app, ["sft", "job.yaml", "steps=20", "--root", str(tmp_path)])
    assert result.exception is error
    said = [f"go on from step 10 with: mmrlhf sft job.yaml steps=20 --root {tmp_path} --resume"]
    assert getattr(error, "__notes__", []) == (said if fails else [])


def test_errors_of_ours_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        _main_with(ZeroDivisionError("x"), monkeypatch)


def test_what_ray_wrapped_is_unwrapped() -> None:
    cause = DataError("row 3: too long")
    wrapped = RayTaskError("f", "remote traceback", cause).as_instanceof_cause()
    assert isinstance(wrapped, DataError)
    assert known_error(wrapped) is cause

    class GroupError(Exception):
        """As Ray Train's: failures by rank."""

        __module__ = "ray.train.v2.api.exceptions"

        def __init__(self) -> None:
            self.worker_failures = {1: wrapped}

    assert known_error(GroupError()) is cause
    assert known_error(RayTaskError("f", "remote traceback", KeyError("x"))) is None


def test_the_outermost_error_of_the_user_is_shown() -> None:
    outer = RunError("outer")
    outer.__cause__ = DataError("inner")
    assert known_error(outer) is outer


def test_ctrl_c_is_status_130() -> None:
    code = (
        "import mmrlhf_ray.cli.main as cli\n"
        "@cli.app.command()\n"
        "def stop():\n    raise KeyboardInterrupt\n"
        "import sys; sys.argv = ['mmrlhf', 'stop']; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
