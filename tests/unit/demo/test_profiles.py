"""The job files of the demo are what the demo runs."""

from pathlib import Path

import pytest

from mmrlhf_ray.config import EvaluateConfig, PPOConfig, RewardModelConfig, SFTConfig, load_config
from mmrlhf_ray.demo import profiles
from mmrlhf_ray.demo.profiles import FAST_PROFILE, FULL_PROFILE, Paths

JOBS = Path(__file__).parents[3] / "jobs"
PATHS = Paths(Path("runs/demo"))


@pytest.mark.parametrize(
    ("file", "kind", "expected"),
    [
        ("demo-sft.yaml", SFTConfig, profiles.sft(PATHS, FULL_PROFILE, 0)),
        ("demo-reward-model.yaml", RewardModelConfig, profiles.reward_model(PATHS, FULL_PROFILE, 0)),
        ("demo-ppo.yaml", PPOConfig, profiles.ppo(PATHS, FULL_PROFILE, 0)),
        (
            "demo-ppo-fast.yaml",
            PPOConfig,
            # A name of its own, so that it does not replace the demo's run.
            profiles.ppo(PATHS, FAST_PROFILE, 0).model_copy(update={"name": "ppo-fast"}),
        ),
        ("demo-evaluate.yaml", EvaluateConfig, profiles.evaluate(PATHS, FULL_PROFILE, 0)),
    ],
)
def test_job_files_say_what_the_demo_does(file, kind, expected):
    assert load_config(JOBS / file, [], kind) == expected
