"""An algorithm by its name: its recipe below the file, and a refusal where the file names another."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from mmrlhf_ray.cli.main import app
from mmrlhf_ray.config import AlgorithmConfig, JobKind, PPOConfig, load_config
from mmrlhf_ray.config.aliases import ALIASES
from mmrlhf_ray.errors import ConfigError

ONLINE = """
job: ppo
name: a
policy: {path: m}
data: {path: d.jsonl}
rewards: [{name: r, kind: function, function: length}]
"""
PAIRS = "job: preference\nname: a\nmodel: {path: m}\ndata: {path: d.jsonl}\nsteps: 1\n"


def load(tmp_path: Path, name: str, more: str = "", overrides: tuple[str, ...] = ()) -> Any:
    kind = JobKind(ALIASES[name].job)
    file = tmp_path / "job.yaml"
    file.write_text((ONLINE if kind is JobKind.PPO else PAIRS) + more)
    return load_config(file, overrides, kind.config, algorithm=name)


@pytest.mark.parametrize("name", ALIASES)
def test_a_file_that_names_no_algorithm_gets_the_recipe(name: str, tmp_path: Path) -> None:
    cfg = load(tmp_path, name)
    for key, value in (*ALIASES[name].means.items(), *ALIASES[name].advises.items()):
        found = cfg
        for part in key.split("."):
            found = getattr(found, part)
        assert (found.model_dump(exclude_unset=True) if isinstance(value, dict) else found) == value


def test_the_file_and_the_command_line_change_the_recipe(tmp_path: Path) -> None:
    cfg = load(tmp_path, "grpo", "algorithm: {n_samples_per_prompt: 4}\n", ("algorithm.kl_coef=0",))
    assert (cfg.algorithm.n_samples_per_prompt, cfg.algorithm.kl_coef, cfg.algorithm.kl_estimator) == (4, 0.0, "k3")


def test_a_file_of_another_algorithm_is_refused_with_what_would_run_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "grpo", "algorithm:\n  advantage_estimator: rloo\n  n_samples_per_prompt: 4\n")
    assert str(caught.value) == (
        f"algorithm.advantage_estimator ({tmp_path}/job.yaml:8): `mmrlhf grpo` means grpo, but this says rloo; run it "
        "with `mmrlhf rloo` or `mmrlhf ppo`, or leave the key out"
    )
    with pytest.raises(ConfigError, match=r"objective \(override objective=ipo\): `mmrlhf dpo` means dpo"):
        load(tmp_path, "dpo", overrides=("objective=ipo",))
    assert load(tmp_path, "dpo", overrides=("objective=dpo",)).objective == "dpo"


def test_a_file_of_another_job_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(PAIRS)
    with pytest.raises(ConfigError, match="this is a preference job, not ppo"):
        load_config(file, [], PPOConfig, algorithm="grpo")


def test_an_algorithm_in_the_place_of_the_job_is_answered(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(ONLINE.replace("job: ppo", "job: gspo"))
    with pytest.raises(ConfigError) as caught:
        load_config(file, [], PPOConfig)
    assert str(caught.value) == (
        f"job ({file}:2): gspo is an algorithm of ppo jobs; write `job: ppo` with "
        "`algorithm.advantage_estimator: grpo`, `algorithm.policy_loss: gspo`, or run "
        "`mmrlhf gspo` on a file with `job: ppo`"
    )


RECIPES = {"GRPO": "grpo", "Dr. GRPO": "dr-grpo", "RLOO": "rloo", "REINFORCE++": "reinforce-pp", "DAPO": "dapo",
           "GSPO": "gspo", "CISPO": "cispo"}  # fmt: skip
PAGE = (Path(__file__).parents[3] / "docs" / "algorithms.md").read_text()


@pytest.mark.parametrize("heading", RECIPES)
def test_an_algorithm_is_what_its_recipe_says(heading: str) -> None:
    block = PAGE.partition(f"### {heading}\n")[2].partition("```yaml\n")[2].partition("```")[0]
    written = AlgorithmConfig.model_validate(yaml.safe_load(block)["algorithm"])
    named = AlgorithmConfig.model_validate(ALIASES[RECIPES[heading]].values["algorithm"])
    assert written.model_dump(exclude={"mini_batch_size"}) == named.model_dump(exclude={"mini_batch_size"})
    assert written.update_size == named.update_size


def test_online_algorithms_have_a_recipe() -> None:
    assert set(RECIPES.values()) == {name for name, alias in ALIASES.items() if alias.job == "ppo"}


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`grpo` runs the job with the algorithm set, `train` the job that the file says."""
    from mmrlhf_ray.cli import jobs

    ran: list[Any] = []
    monkeypatch.setattr(jobs, "_run", lambda job, cfg, *rest: ran.append((job.typed, cfg, *rest)))
    file = tmp_path / "job.yaml"
    file.write_text(ONLINE)
    assert CliRunner().invoke(app, ["grpo", str(file), "steps=3"]).exit_code == 0
    assert CliRunner().invoke(app, ["train", str(file), "--resume"]).exit_code == 0
    (grpo, first, *_), (ppo, second, resume, *_) = ran
    assert (grpo, first.steps, first.algorithm.advantage_estimator) == ("grpo", 3, "grpo")
    assert (ppo, second.algorithm.advantage_estimator, resume) == ("ppo", "gae", True)
    said = CliRunner().invoke(app, ["dapo", "--help"]).stdout
    assert "With algorithm.advantage_estimator=grpo. Unless the file says otherwise:" in " ".join(said.split())


def test_train_says_which_jobs_are_not_resumed(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("job: evaluate\nname: a\npolicy: {path: m}\ndata: {path: d}\n")
    result = CliRunner().invoke(app, ["train", str(file), "--resume"])
    assert (result.exit_code, "a job of kind evaluate is not resumed" in result.output) == (2, True)
