"""The demo runs the job files, wherever it is told to keep its models and data."""

from pathlib import Path

import pytest

from mmrlhf_ray.config import EvaluateConfig, PPOConfig, RewardModelConfig, SFTConfig, load_config
from mmrlhf_ray.demo import profiles
from mmrlhf_ray.demo.profiles import FAST_PROFILE, FULL_PROFILE, JOBS, Paths

FILES = Path(__file__).parents[3] / "jobs"
HERE = Paths(Path("runs/demo"))


@pytest.mark.parametrize(
    ("file", "kind", "made"),
    [
        ("demo-sft.yaml", SFTConfig, profiles.sft(HERE, FULL_PROFILE, 0)),
        ("demo-reward-model.yaml", RewardModelConfig, profiles.reward_model(HERE, FULL_PROFILE, 0)),
        ("demo-ppo.yaml", PPOConfig, profiles.ppo(HERE, FULL_PROFILE, 0)),
        ("demo-evaluate.yaml", EvaluateConfig, profiles.evaluate(HERE, 0)),
    ],
)
def test_the_full_demo_is_the_job_files(file, kind, made):
    assert made == load_config(FILES / file, [], kind)
    assert (JOBS / file).read_bytes() == (FILES / file).read_bytes()


def test_the_fast_ppo_has_a_file_of_its_own_with_another_name():
    fast = load_config(FILES / "demo-ppo-fast.yaml", [], PPOConfig)
    assert profiles.ppo(HERE, FAST_PROFILE, 0).model_copy(update={"name": "ppo-fast"}) == fast


def test_another_root_moves_every_path_and_nothing_else():
    elsewhere = Paths(Path("/else/where"))
    for make in (profiles.sft, profiles.sample, profiles.reward_model, profiles.ppo):
        here, moved = (make(paths, FAST_PROFILE, 3).model_dump_json() for paths in (HERE, elsewhere))
        assert f"{Path.cwd()}/runs/demo" in here
        assert moved == here.replace(f"{Path.cwd()}/runs/demo", "/else/where")


def test_responses_for_annotators_are_the_sft_policys_alone():
    cfg = profiles.sample(HERE, FAST_PROFILE, 0)
    assert cfg.policy.path == f"{Path.cwd()}/runs/demo/sft/model"
    assert cfg.data.path == f"{Path.cwd()}/runs/demo/data/prompts_train"
    assert (cfg.baseline, cfg.reward_model, cfg.ablate_media) == (None, None, False)
    assert cfg.n_samples_per_prompt == FAST_PROFILE.samples_per_prompt
