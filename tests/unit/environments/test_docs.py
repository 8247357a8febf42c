"""docs/agents.md: its examples run, and its tables are what the code says."""

import re
from pathlib import Path

import pytest

from mmrlhf_ray.config import MediaLimits, PythonEnvironment
from mmrlhf_ray.config.environment import EnvironmentBase
from mmrlhf_ray.environments.functions import tool_of
from mmrlhf_ray.environments.tools import BUILT_IN
from mmrlhf_ray.environments.user import UserEnvironment, load_class
from mmrlhf_ray.sandbox.inside import load_function

PAGE = (Path(__file__).parents[3] / "docs" / "agents.md").read_text()


@pytest.fixture
def example(tmp_path):
    def written(name):
        (text,) = re.findall(rf"^```python\n# (?:\w+/)?{name}\n(.*?)^```$", PAGE, re.M | re.S)
        (tmp_path / name).write_text(text)
        return f"{tmp_path / name}"

    return written


def test_the_table_of_tools_is_complete():
    rows = dict(
        re.findall(
            r"^\| `(\w+)` \| ((?:`\w+`[^|,]*,? ?)+)\|", PAGE.partition("## Tools")[2].partition("### Your own")[0], re.M
        )
    )
    settings = {"python": {"seconds": 1}, "search": {"index": None}}
    expected = {
        name: list(tool_of(name, function, settings.get(name, {})).model.model_fields)
        for name, function in BUILT_IN.items()
    }
    assert {name: re.findall(r"`(\w+)`", arguments) for name, arguments in rows.items()} == expected


def test_the_table_of_keys_is_complete():
    table = PAGE.partition("Keys of every kind:")[2].partition("\n## ")[0]
    keys = [key for first in re.findall(r"^\| (`[^|]*) \|", table, re.M) for key in re.findall(r"`(\w+)`", first)]
    assert sorted(keys) == sorted(EnvironmentBase.model_fields)


def test_the_tool_of_the_example_works(example, image):
    tool = tool_of("brightness", load_function(f"{example('look.py')}:brightness"), {"scale": 0.5})
    assert tool.call({"at": [30, 15]}, [image], MediaLimits()) == "127.5"


def test_the_environment_of_the_example_works(example, start):
    config = PythonEnvironment(kind="python", environment=f"{example('guess.py')}:Guess", arguments={"most": 9})
    played = UserEnvironment(load_class(config), config)
    assert played.reset(start(extras={"number": 4})) == ("It is between 0 and 9.",)
    steps = [played.step("3"), played.step("4")]
    assert [(step.observation, step.reward, step.done) for step in steps] == [(("No.",), -0.1, False), ((), 1.0, True)]
    played.close()
