"""A configuration of the loop for tests that start nothing."""

import json
from typing import Any

from mmrlhf_ray.config import IterateConfig

KEYS: dict[str, Any] = {
    "name": "loop",
    "policy": {"path": "/model"},
    "prompts": {"path": "/prompts", "facts_column": "facts"},
    "feedback": {"serve": {}},
    "reward_model": {"job": {"epochs": 1, "ensemble": 3}},
    "train": {"ppo": {"steps": 2}},
    "evaluate": {
        "data": {"path": "/heldout"},
        "rewards": [{"name": "gold", "kind": "function", "function": "accuracy"}],
    },
}


def loop_config(**changes: Any) -> IterateConfig:
    return IterateConfig.model_validate_json(json.dumps(KEYS | changes))
