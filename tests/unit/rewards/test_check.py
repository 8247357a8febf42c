"""What is wrong with rewards is said before anything starts."""

from itertools import combinations

import pytest

from mmrlhf_ray.config import (
    CostConfig,
    FluencyReward,
    FunctionReward,
    JudgeReward,
    ModelConfig,
    ModelReward,
    RemoteReward,
)
from mmrlhf_ray.data.validate import Shown, build_record
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.rewards.check import check_rewards
from mmrlhf_ray.schema import PROMPT

COLUMNS = frozenset({"answer", "facts"})


def built_in(function, columns=COLUMNS, **keys):
    return check_rewards([FunctionReward(kind="function", name="r", function=function, **keys)], columns)


@pytest.fixture
def users(tmp_path):
    def check(source, columns=COLUMNS, **keys):
        file = tmp_path / "mine.py"
        file.write_text(source)
        built_in(f"{file}:f", columns, **keys)

    return check


def test_good_rewards_pass(users, monkeypatch):
    monkeypatch.setenv("A_TOKEN", "t")
    users("def f(prompts, completions, answer, factor=1): ...", arguments={"factor": 2})
    users("def f(completions, **columns): ...", arguments={"anything": 1})
    users("def f(data_source, solution_str, ground_truth, extra_info=None): ...", convention="verl")
    users("def f(solution_str): ...", convention="verl", ground_truth="not there, not asked for")
    users("def f(completions, unknown): ...", columns=None)
    built_in("accuracy", arguments={"take": "choice", "choices": "ABCD"})
    built_in("length_penalty", arguments={"free_tokens": 20, "cost": 1})
    built_in("grounding", arguments={"ignore": ["answer"]})
    built_in("f1", columns=None, arguments={"key": "truth"})
    url = "http://localhost:1/x"
    check_rewards(
        [
            ModelReward(kind="model", name="m", model=ModelConfig(path="p"), modalities=["image+audio"]),
            FluencyReward(kind="fluency", name="f", weight=0.5),
            RemoteReward(kind="remote", name="r", url=url, token_env="A_TOKEN", cost=CostConfig(bound=0)),
            JudgeReward(kind="judge", name="j", base_url=url, model="m", prompt="{response}"),
        ],
        COLUMNS,
    )
    check_rewards([], None)


@pytest.mark.parametrize("kinds", [k for n in range(4) for k in combinations(("image", "audio", "video"), n)])
def test_a_reward_can_be_for_any_modality_that_rows_have(kinds):
    modality = build_record({}, PROMPT, [], [Shown(kind, kind, kind) for kind in kinds])["modality"]
    built_in("accuracy", modalities=[modality])
    if len(kinds) > 1:
        with pytest.raises(ConfigError, match="no modality"):
            built_in("accuracy", modalities=["+".join(reversed(kinds))])


@pytest.mark.parametrize(
    ("function", "keys", "problem"),
    [
        ("exact_mach", {}, r"no built-in 'exact_mach'; the nearest is exact_match; .* path/to/file.py:function"),
        ("f1", {"arguments": {"kee": "answer"}}, r"arguments.kee: f1 has no such argument; the nearest is key"),
        ("format", {}, r"arguments.pattern: required by format, but not given"),
        ("format", {"arguments": {"pattern": 3}}, r"arguments.pattern: .*string, got 3"),
        ("format", {"arguments": {"pattern": "("}}, r"pattern expects a regular expression, got '\('"),
        ("accuracy", {"arguments": {"take": "last"}}, r"arguments.take: .*'marker', 'boxed'.*got 'last'"),
        ("length_penalty", {"arguments": {"free_tokens": "9"}}, r"arguments.free_tokens: .*integer, got '9'"),
        ("length_penalty", {"arguments": {"free_tokens": 9, "response_tokens": []}}, "no such argument"),
        ("iou", {}, r"it needs the column 'boxes', which no prompt has in its extras; there are answer, facts, fin"),
        ("f1", {"arguments": {"key": "truth"}}, r"it needs the column 'truth'"),
        ("f1", {"arguments": {"key": "key"}}, r"may not be named 'key'"),
        ("f1", {"convention": "verl"}, r"for functions of yours"),
        ("nowhere.py:f", {}, r"there is no file /.*nowhere.py"),
    ],
)
def test_wrong_built_in_functions(function, keys, problem):
    with pytest.raises(ConfigError, match=problem):
        built_in(function, **keys)


@pytest.mark.parametrize(
    ("source", "keys", "problem"),
    [
        ("def g(): ...", {}, r"mine.py:f cannot be imported: .*no function 'f'; its functions are g"),
        ("def f(completions, truth): ...", {}, r"it needs the column 'truth'"),
        ("def f(completions): ...", {"arguments": {"x": 1}}, r"mine.py:f has no such argument"),
        ("def f(completions): ...", {"arguments": {"prompts": 1}}, r"prompts is given by us"),
        ("def f(completions): ...", {"convention": "verl", "conversational": True}, "conversational is for"),
        ("def f(solution_str, completions): ...", {"convention": "verl"}, "needs completions; verl gives data_source"),
        (
            "def f(ground_truth, **more): ...",
            {"convention": "verl", "ground_truth": "truth"},
            r"it needs the column 'truth'",
        ),
    ],
)
def test_wrong_functions_of_the_user(users, source, keys, problem):
    with pytest.raises(ConfigError, match=problem):
        users(source, **keys)


def test_everything_is_said_at_once(monkeypatch):
    monkeypatch.delenv("NO_TOKEN", raising=False)
    rewards = [
        RemoteReward(kind="remote", name="far", url="http://", token_env="NO_TOKEN"),
        JudgeReward(kind="judge", name="j", base_url="http://h:port", model="m", prompt="{response}"),
        FunctionReward(
            kind="function", name="f", function="f2", modalities=["images"], weight=2, cost=CostConfig(bound=1)
        ),
    ]
    with pytest.raises(ConfigError) as error:
        check_rewards(rewards, COLUMNS)
    lines = [line.strip() for line in str(error.value).splitlines()]
    assert lines[0] == "rewards: 6 problems:"
    assert lines[1].startswith("far: url has no host: http://")
    assert lines[2].startswith("far: token_env=NO_TOKEN, but that environment variable is not set")
    assert lines[3].startswith("j: base_url is not an address: http://h:port")
    assert lines[4] == "f: modalities: no modality 'images'; the nearest is image"
    assert lines[5].startswith("f: weight=2 is not used for a cost")
    assert lines[6].startswith("f: function: no built-in 'f2'")
