"""The key `track`."""

import pytest
from pydantic import ValidationError

from mmrlhf_ray.config import PPOConfig
from tests.unit.tracking.runs import config


def test_tensorboard_is_the_default():
    assert PPOConfig.model_fields["track"].default == ("tensorboard",)


@pytest.mark.parametrize(
    ("track", "said"),
    [(["wandb", "wandb"], "named once"), (["wandbb"], "'tensorboard', 'wandb', 'mlflow' or 'swanlab'")],
)
def test_other_names_and_repetitions_are_refused(tmp_path, track, said):
    with pytest.raises(ValidationError, match=said):
        config(tmp_path, *track)
