"""The reward actor in a real Ray: functions that behave and that don't, services, and nothing left of it afterwards."""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
import ray

from mmrlhf_ray.config import DataConfig, FunctionReward, JudgeReward, RemoteReward
from mmrlhf_ray.data.encoding.encode import encode_response, load_encoder
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.rewards.batch import Rows
from mmrlhf_ray.rewards.mixture import MixtureState, mix
from mmrlhf_ray.rollout.batch import Rollouts
from mmrlhf_ray.runtime.actors import ActorGroup
from mmrlhf_ray.runtime.waits import deadline_get
from mmrlhf_ray.schema import PROMPT, ROLLOUT
from mmrlhf_ray.workers.roles.functions import Functions, RewardFunctions
from tests.ray.support import ANSWER_S, START_S
from tests.unit.rewards.servers import HANG, Answer, serve

MINE = """
import os, time

def verl(data_source, solution_str, ground_truth, extra_info):
    return {"score": float(solution_str.endswith(ground_truth))}

def hangs(completions):
    time.sleep(1e9)

def dies(completions):
    os._exit(7)
"""

pytestmark = pytest.mark.usefixtures("session")


@dataclass(frozen=True)
class Stage:
    model_dir: Path
    prompts: pa.Table
    rollouts: pa.Table
    """One response to each prompt: the right answer at even rows, another one at odd rows."""
    right: list[bool]
    mine: str

    def actor(self, *rewards: Any) -> Any:
        actor = ray.remote(RewardFunctions).options(num_cpus=0).remote(rewards, self.prompts, str(self.model_dir))
        deadline_get(actor.ready.remote(), START_S, "starting")
        return actor

    def function(self, name: str, function: str, **keys: Any) -> FunctionReward:
        return FunctionReward(kind="function", name=name, function=function, **keys)


@pytest.fixture(scope="module")
def stage(model_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    scratch = tmp_path_factory.mktemp("rewards")
    (scratch / "mine.py").write_text(MINE)
    prompts = read_records(DataConfig(path=str(data_dir / "prompts_heldout")), PROMPT, scratch).records
    encoder = load_encoder(model_dir)
    rows = []
    for i, prompt in enumerate(prompts.to_pylist()):
        extras = json.loads(prompt["extras"])
        said = extras["answer"] if i % 2 == 0 else "tone" if extras["answer"] != "tone" else "image"
        ids = encode_response(encoder, f"{extras['facts']} . answer : {said}")
        rows.append(
            {name: prompt[name] for name in ("prompt_id", "task", "modality", "media_ids")}
            | {
                "sample_id": f"{prompt['prompt_id']}#0",
                "group_id": i,
                "policy_version": 0,
                "versions": [],
                "segments": [],
                "prompt_token_ids": [1],
                "facts_token_ids": [],
                "response_token_ids": ids,
                "response_mask": [True] * len(ids),
                "rollout_logprobs": [0.0] * len(ids),
                "finish_reason": "stop",
            }
        )
    return Stage(
        model_dir,
        prompts,
        pa.Table.from_pylist(rows, schema=ROLLOUT),
        [i % 2 == 0 for i in range(len(rows))],
        f"{scratch}/mine.py",
    )


def family(actor: Any) -> list[psutil.Process]:
    """Processes that the actor's process started."""
    pid = deadline_get(actor.__ray_call__.remote(lambda self: __import__("os").getpid()), ANSWER_S, "pid")
    return psutil.Process(pid).children(recursive=True)


def ended(processes: list[psutil.Process]) -> bool:
    until = time.monotonic() + 30
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def score(actor: Any, stage: Stage) -> dict[str, Any]:
    answers, seconds = deadline_get(actor.score.remote(stage.rollouts, None), ANSWER_S, "scoring")
    assert seconds > 0
    return answers


def test_components_score_their_rows(stage: Stage) -> None:
    rewards = [
        stage.function("accuracy", "accuracy"),
        stage.function("verl", f"{stage.mine}:verl", convention="verl"),
        stage.function("seen", "grounding", arguments={"ignore": ["answer"]}, modalities=["image"]),
    ]
    actor = stage.actor(*rewards)
    answers = score(actor, stage)
    assert list(answers) == ["accuracy", "verl", "seen"]
    assert answers["accuracy"].values == answers["verl"].values == tuple(map(float, stage.right))
    modalities = stage.rollouts["modality"].to_pylist()
    seen = answers["seen"].values
    assert [v is not None for v in seen] == [m == "image" for m in modalities]
    assert {0.0 < v <= 1.0 for v in seen if v is not None} == {True}
    mixed = mix(rewards, answers, Rows.of(stage.rollouts), MixtureState.start(rewards))
    assert [s >= 2 for s in mixed.scores] == stage.right
    processes = family(actor)
    assert len(processes) >= 6  # three functions and their guards
    deadline_get(actor.close.remote(), ANSWER_S, "closing")
    assert ended(processes)


def test_prompts_that_come_with_their_responses(stage: Stage) -> None:
    """As in a streamed run, where the actor cannot know them from the start."""
    actor = replace(stage, prompts=PROMPT.empty_table()).actor(stage.function("accuracy", "accuracy"))
    half = len(stage.prompts) // 2
    parts = [stage.prompts.slice(0, half), stage.prompts.slice(half)]
    functions = Functions(ActorGroup(("functions-0",), (actor,)), ANSWER_S)
    asked = Rollouts(stage.rollouts, ray.put(stage.rollouts), {}, 0.0, tuple(map(ray.put, parts)))
    answers, _ = deadline_get(functions.ask(asked), ANSWER_S, "scoring")
    assert answers["accuracy"].values == tuple(map(float, stage.right))
    deadline_get(actor.close.remote(), ANSWER_S, "closing")


def test_a_function_that_hangs_or_dies_leaves_the_others_alone(stage: Stage) -> None:
    actor = stage.actor(
        stage.function("hangs", f"{stage.mine}:hangs", deadline_s=2),
        stage.function("dies", f"{stage.mine}:dies"),
        stage.function("accuracy", "accuracy"),
    )
    before = family(actor)
    for _ in range(2):
        answers = score(actor, stage)
        assert answers["accuracy"].values == tuple(map(float, stage.right))
        assert set(answers["hangs"].problems) == {"did not answer by its deadline and was killed (deadline_s=2)"}
        assert set(answers["dies"].problems) == {"ended its process with status 7"}
        assert set(answers["hangs"].values) == set(answers["dies"].values) == {None}
    after = family(actor)
    ray.kill(actor)
    assert ended([*before, *after])


def test_services_that_fail_now_and_then(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    def answer(request: Any) -> Answer:
        nonlocal count
        count += 1
        if count % 10 == 3:
            return Answer(status=500)
        if count % 20 == 7:
            return HANG
        if request.path == "/v1/chat/completions":
            words = len(request.body["messages"][0]["content"].split())
            return Answer(body={"choices": [{"message": {"content": f"Grade: {words}"}, "finish_reason": "stop"}]})
        return Answer(body={"scores": [float(len(text)) for text in request.body["completions"]]})

    with serve(answer) as server:
        actor = stage.actor(
            RemoteReward(kind="remote", name="far", url=server.url, batch_size=1, timeout_s=1, backoff_s=0.01),
            JudgeReward(
                kind="judge",
                name="judge",
                base_url=server.url + "/v1",
                model="m",
                prompt="{response}",
                highest=100,
                timeout_s=1,
                backoff_s=0.01,
            ),
        )
        answers = score(actor, stage)
    encoder = load_encoder(stage.model_dir)
    texts = [
        encoder.tokenizer.decode(ids, skip_special_tokens=True).strip()
        for ids in stage.rollouts["response_token_ids"].to_pylist()
    ]
    assert answers["far"].values == tuple(float(len(text)) for text in texts)
    assert answers["judge"].values == tuple(len(text.split()) / 100 for text in texts)
    assert count > 2 * len(texts)
    ray.kill(actor)


def test_what_cannot_work_is_said_at_the_start(stage: Stage) -> None:
    with pytest.raises(ConfigError, match="gone.*cannot be imported.*FileNotFoundError"):
        stage.actor(stage.function("gone", f"{Path(stage.mine).with_name('gone.py')}:f"))
    with pytest.raises(ConfigError, match="far: token_env=NO_SUCH_TOKEN"):
        stage.actor(RemoteReward(kind="remote", name="far", url="http://localhost:1", token_env="NO_SUCH_TOKEN"))
