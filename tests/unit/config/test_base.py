"""`base:`: a job file is another file and the differences."""

from pathlib import Path

import pytest

from mmrlhf_ray.config import DiscreteConfig, PPOConfig, SFTConfig, load_config, read_job_kind
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.runtime.submit import prepare

PPO = """\
job: ppo
name: x
policy: {path: a}
rewards: [{name: rm, kind: model, model: {path: b}}]
data: {path: c, facts_column: facts}
algorithm: {kl_coef: 0.3, kl_target: 2.0}
critic: {optimizer: {lr: 0.5}}
placement:
  policy: &two {replicas: 2, num_cpus: 0.5}
  critic: *two
"""


def write(directory: Path, **files: str) -> Path:
    """The files, by their stems; returns the first."""
    for name, text in files.items():
        path = directory / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".yaml").write_text(text)
    return (directory / next(iter(files)).replace("__", "/")).with_suffix(".yaml")


def refused(path: Path, kind: type = PPOConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, [], kind)
    return str(caught.value)


def test_sections_are_merged_and_everything_else_is_replaced(tmp_path: Path) -> None:
    mine = "base: ppo.yaml\nname: y\nalgorithm: {kl_coef: 0.1}\nrewards: [{name: f, kind: function, function: g}]\n"
    cfg = load_config(write(tmp_path, mine=mine, ppo=PPO), [], PPOConfig)
    assert (cfg.name, cfg.policy.path, cfg.data.facts_column) == ("y", f"{Path.cwd()}/a", "facts")
    assert (cfg.algorithm.kl_coef, cfg.algorithm.kl_target) == (0.1, 2.0)
    assert [reward.name for reward in cfg.rewards] == ["f"]


def test_null_puts_a_section_back_and_is_a_value_elsewhere(tmp_path: Path) -> None:
    mine = "base: ppo.yaml\ncritic: null\nalgorithm: {kl_target: null}\nplacement: {policy: null}\n"
    cfg = load_config(write(tmp_path, mine=mine, ppo=PPO), [], PPOConfig)
    assert cfg.critic == PPOConfig.model_fields["critic"].default
    assert (cfg.algorithm.kl_coef, cfg.algorithm.kl_target) == (0.3, None)
    assert (cfg.placement.policy.num_cpus, cfg.placement.critic.num_cpus) == (1.0, 0.5)


def test_a_section_of_another_kind_is_another_section(tmp_path: Path) -> None:
    base = (
        "job: discrete\nname: x\ntasks: {t: {kind: decide, classes: [a, b], train: {path: d}, heldout: {path: d}}}\n"
        "observation: {modalities: {said: {kind: text}}}\nalgorithm: {kind: ppo, lr: 0.01, entropy_coef: 0.5}\n"
    )
    cfg = load_config(write(tmp_path, mine="base: it.yaml\nalgorithm: {kind: dqn}\n", it=base), [], DiscreteConfig)
    assert (
        cfg.algorithm.model_dump()
        == DiscreteConfig.model_validate({**cfg.model_dump(), "algorithm": {"kind": "dqn"}}).algorithm.model_dump()
    )


def test_chains_from_other_directories_with_overrides_on_top(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        deep__mine="base: ../middle.yaml\nsteps: 3\n",
        middle="base: ppo.yaml\nsteps: 2\nname: middle\n",
        ppo=PPO,
    )
    cfg = load_config(path, ["algorithm.kl_coef=0.9"], PPOConfig)
    assert (cfg.steps, cfg.name, cfg.algorithm.kl_coef, cfg.algorithm.kl_target) == (3, "middle", 0.9, 2.0)
    assert read_job_kind(path) == "ppo"


def test_an_error_names_the_file_and_line_that_said_it(tmp_path: Path) -> None:
    mine = "base: ppo.yaml\nalgorithm:\n  kl_coef: wrong\ncritic: {optimiser: {}}\n"
    base = PPO.replace("facts_column: facts", "facts_column: 5")
    message = refused(write(tmp_path, mine=mine, ppo=base))
    assert f"algorithm.kl_coef ({tmp_path}/mine.yaml:3): " in message
    assert f"critic.optimiser ({tmp_path}/mine.yaml:4): " in message
    assert f"data.facts_column ({tmp_path}/ppo.yaml:5): " in message


def test_loops_name_their_files(tmp_path: Path) -> None:
    message = refused(write(tmp_path, one="base: two.yaml\n", two="base: one.yaml\n"))
    assert f"base ({tmp_path}/two.yaml:1): {tmp_path}/one.yaml is based on {tmp_path}/two.yaml is based on" in message
    assert "its own" not in message
    assert "mine.yaml is based on" in refused(write(tmp_path, mine="base: mine.yaml\n"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base: gone.yaml\n", "mine.yaml:1): there is no file"),
        ("base: [a]\n", "expected the file to start from"),
        ("job: sft\nbase: ppo.yaml\n", "this is a sft job, but its base is a ppo job"),
    ],
)
def test_what_cannot_be_a_base(text: str, expected: str, tmp_path: Path) -> None:
    assert expected in refused(write(tmp_path, mine=text, ppo=PPO), SFTConfig)


def test_a_job_is_not_submitted_without_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, here__mine="base: ../ppo.yaml\n", ppo=PPO)
    monkeypatch.chdir(path.parent)
    with pytest.raises(ConfigError, match=r"\.\./ppo\.yaml is outside .*, which is what the job gets: copy it below"):
        prepare(Path("mine.yaml"), [], "http://127.0.0.1:8265")
    monkeypatch.chdir(tmp_path)
    assert "here/mine.yaml" in prepare(Path("here/mine.yaml"), [], "http://127.0.0.1:8265").entrypoint
