"""docs/rewards.md shows configurations that load and names every built-in function with its arguments."""

import inspect
import re
from pathlib import Path

import yaml
from pydantic import TypeAdapter

from mmrlhf_ray.config import Reward
from mmrlhf_ray.rewards.batch import OWN_COLUMNS
from mmrlhf_ray.rewards.functions import BUILT_IN

PAGE = (Path(__file__).parents[3] / "docs" / "rewards.md").read_text()


def test_examples_are_valid():
    blocks = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S)]
    components = [component for b in blocks for component in (b["rewards"] if isinstance(b, dict) else b)]
    assert len(components) >= 7
    for component in components:
        TypeAdapter(Reward).validate_python(component)


def test_the_table_is_complete():
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", PAGE, re.M))
    for name, function in BUILT_IN.items():
        parameters = inspect.signature(function).parameters.values()
        options = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in OWN_COLUMNS]
        assert [o for o in options if f"`{o}`" not in rows[name]] == [], name
