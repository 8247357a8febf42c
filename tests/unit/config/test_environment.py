"""Sections `environment`: what is refused, and that every key has a meaning."""

import pytest
from pydantic import TypeAdapter, ValidationError

from mmrlhf_ray.config import EnvironmentConfig, GymnasiumEnvironment, HttpEnvironment, PPOConfig, PythonEnvironment
from mmrlhf_ray.config import ToolsEnvironment as Tools
from mmrlhf_ray.config.described import without_meaning
from mmrlhf_ray.config.environment import named_tools, tool_name

KINDS = (Tools, PythonEnvironment, GymnasiumEnvironment, HttpEnvironment)


def made(**values):
    return TypeAdapter(EnvironmentConfig).validate_python(values)


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_has_a_meaning(kind):
    assert without_meaning(kind) == []


def test_tools_are_names_functions_and_names_with_arguments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = made(kind="tools", tools=["crop", {"python": {"seconds": 2}}, {"own/look.py:glance": {"far": True}}])
    own = f"{tmp_path}/own/look.py:glance"
    assert named_tools(cfg.tools) == [("crop", {}), ("python", {"seconds": 2}), (own, {"far": True})]
    assert tool_name(own) == "glance"
    assert Tools.model_validate_json(cfg.model_dump_json()) == cfg


def test_the_defaults_bound_everything():
    cfg = made(kind="tools", tools=["crop"])
    assert (cfg.max_turns, cfg.max_media, cfg.max_calls, cfg.call_s, cfg.processes) == (4, 8, 1, 10, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "tools", "tools": []}, "at least 1 item"),
        ({"kind": "tools", "tools": ["crop", {"crop": {}}]}, "two tools are called crop"),
        ({"kind": "tools", "tools": ["crop", "mine.py:crop"]}, "two tools are called crop"),
        ({"kind": "tools", "tools": [{"crop": {}, "zoom": {}}]}, "expected one tool with its arguments"),
        ({"kind": "tools", "tools": ["search"]}, "search_index is not given"),
        ({"kind": "tools", "tools": ["crop"], "search_index": "x"}, "tools has no search"),
        ({"kind": "http", "url": "localhost:80"}, "should match pattern"),
        ({"kind": "gymnasium"}, "id"),
        ({"kind": "tools", "tools": ["crop"], "call_format": "xml"}, "'auto', 'hermes', 'json' or 'words'"),
        ({"kind": "python", "environment": "a.py:A", "actions": {}}, "Extra inputs are not permitted"),
    ],
)
def test_what_cannot_work_is_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        made(**values)


GAME = {"kind": "python", "environment": "a.py:A", "max_observation_tokens": 32}
GIVEN = {"name": "game", "kind": "environment"}

JUDGE = {
    "name": "judge",
    "kind": "judge",
    "base_url": "http://localhost:8000/v1",
    "model": "any",
    "prompt": "{first} or {second}?",
    "pairs": {},
}


def ppo(**values):
    return PPOConfig.model_validate(
        {
            "policy": {"path": "/models/any"},
            "rewards": [GIVEN],
            "data": {"path": "/data/any.jsonl"},
            "output_dir": "/runs",
            "name": "any",
            "environment": GAME,
        }
        | values
    )


def test_a_job_has_room_for_its_episodes():
    assert ppo().environment.max_turns == 4
    compared = {"advantage_estimator": "grpo", "n_samples_per_prompt": 2}
    assert ppo(rewards=[GIVEN | {"per_turn": True, "normalise": "group"}], algorithm=compared)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"environment": None}, "rewards.game: kind environment needs `environment`"),
        ({"environment": GAME | {"max_observation_tokens": 64}}, "max_observation_tokens=64 must be below"),
        ({"environment": GAME | {"max_media": 17}}, "max_media=17 is above generator.max_media_per_prompt=16"),
        ({"rewards": [GIVEN | {"per_turn": True, "normalise": True}]}, "set normalise to group or false"),
        (
            {
                "environment": None,
                "rewards": [{"name": "f", "kind": "function", "function": "format", "per_turn": True}],
            },
            "rewards.f.per_turn: without `environment` a response is one turn",
        ),
        ({"rewards": [{"name": "usual", "kind": "fluency", "per_turn": True}]}, "fluency is of a response"),
        ({"rewards": [JUDGE | {"per_turn": True}]}, "turns of different episodes have nothing in common"),
        (
            {
                "rewards": [GIVEN | {"per_turn": True}],
                "algorithm": {"advantage_estimator": "grpo", "n_samples_per_prompt": 2},
            },
            "compares the responses to one prompt, and so their turns; set normalise to group",
        ),
        (
            {"rewards": [GIVEN | {"per_turn": True}], "algorithm": {"score_clip": 1.0}},
            "score_normalisation and score_clip change",
        ),
    ],
)
def test_what_episodes_cannot_have_is_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        ppo(**values)
