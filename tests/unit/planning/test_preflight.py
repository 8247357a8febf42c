"""What is wrong with a job is said before Ray starts, by a run and by a dry run alike."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from safetensors.torch import load_file, save_file

from mmrlhf_ray.config import DataConfig, EvaluateConfig, PPOConfig, RunConfig, SFTConfig, load_config
from mmrlhf_ray.config.iterate import IterateConfig
from mmrlhf_ray.errors import ConfigError, DataError, ModelError, PlacementError, UserError
from mmrlhf_ray.pipelines.evaluate import job as evaluate
from mmrlhf_ray.pipelines.iterate import job as iterate
from mmrlhf_ray.pipelines.ppo import job as ppo
from mmrlhf_ray.pipelines.run_dir import run_directory
from mmrlhf_ray.pipelines.supervised import sft
from mmrlhf_ray.planning.dry_run import dry_run
from mmrlhf_ray.planning.preflight import (
    check_models,
    check_training_data,
    preflight,
    read_all,
    refuse_streaming,
)
from tests.unit.pipelines.loop import loop_config
from tests.unit.tiny import describe_tools, picture

SOURCES = [{"path": "a.jsonl", "weight": 2.0}, {"path": "b.jsonl"}]


def config(**changes: Any) -> DataConfig:
    return DataConfig.model_validate({"path": "a.jsonl"} | changes)


def test_augmentation_needs_a_stream() -> None:
    augment = {"tasks": ["t"], "image": {"crop": 0.1}}
    check_training_data(config(augment=augment, streaming=True))
    with pytest.raises(ConfigError, match="set data.streaming to true"):
        check_training_data(config(augment=augment))


def test_weights_need_a_stream_where_every_row_counts_once() -> None:
    mixture = DataConfig.model_validate({"sources": SOURCES})
    check_training_data(mixture)
    check_training_data(mixture.model_copy(update={"streaming": True}), weighted=False)
    check_training_data(DataConfig.model_validate({"sources": [{"path": "a"}, {"path": "b"}]}), weighted=False)
    with pytest.raises(ConfigError, match="set data.streaming to true or drop weight"):
        check_training_data(mixture, weighted=False)


def test_who_needs_all_rows_refuses_a_stream() -> None:
    refuse_streaming(config(), "it")
    refuse_streaming(config(streaming=True), None)
    with pytest.raises(ConfigError, match=r"eval_data\.streaming: it needs all rows before it starts"):
        refuse_streaming(config(streaming=True), "it", "eval_data")


def test_models_are_looked_for_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "config.json").write_text(json.dumps({"model_type": "x"}))
    (tmp_path / "empty").mkdir()
    check_models(str(tmp_path / "good"))
    with pytest.raises(ModelError, match="no such model directory; check the path"):
        check_models(str(tmp_path / "good"), "org/name-on-a-hub")
    with pytest.raises(ModelError, match=r"found no config\.json"):
        check_models(str(tmp_path / "empty"))


ROLES = ("generator", "scorer", "functions", "reference", "policy", "critic", "encoder")
RUNS: dict[type[RunConfig], Callable[[Any], object]] = {
    PPOConfig: ppo.run,
    EvaluateConfig: evaluate.run,
    SFTConfig: sft.run,
    IterateConfig: iterate.run,
}


@pytest.fixture
def world(model_dir: Path, reward_model_dir: Path, data_dir: Path, tmp_path: Path) -> dict[str, str]:
    return {
        "model": str(model_dir),
        "reward_model": str(reward_model_dir),
        "data": str(data_dir),
        "output": str(tmp_path / "runs"),
    }


def job(kind: type[RunConfig], world: dict[str, str], *changes: str) -> RunConfig:
    """A small job of that kind in which nothing is wrong, but for the changes."""
    model, data = world["model"], f"path: {world['data']}/prompts_train, max_prompt_tokens: 64"
    small = ["sampling.max_response_tokens=8", *(f"placement.{role}.num_cpus=0.2" for role in ROLES)]
    keys = {
        PPOConfig: [
            f"policy.path={model}",
            f"data={{{data}, facts_column: facts}}",
            f"rewards=[{{name: rm, kind: model, model: {{path: {world['reward_model']}}}}}]",
            "algorithm={prompts_per_step: 13, mini_batch_size: 13}",
            *small,
        ],
        EvaluateConfig: [f"policy.path={model}", f"data={{{data}}}", *small],
        SFTConfig: [
            f"model.path={model}",
            f"data={{path: {world['data']}/demonstrations, max_prompt_tokens: 64}}",
            "steps=1",
            "batch_size=26",
            "workers={replicas: 2, num_cpus: 0.2}",
        ],
    }[kind]
    replaced = tuple(change.partition("=")[0] for change in changes)
    kept = [key for key in (f"output_dir={world['output']}", *keys) if not key.startswith(replaced)]
    return load_config(None, ["name=x", "device=cpu", *kept, *changes], kind)


@pytest.mark.parametrize("kind", [PPOConfig, EvaluateConfig, SFTConfig])
def test_a_job_in_which_nothing_is_wrong_passes_and_is_read_once(kind: type[RunConfig], world: dict[str, str]) -> None:
    cfg = job(kind, world)
    with preflight(cfg, run_directory(cfg)) as checked:
        assert checked.run_dir == Path(world["output"]) / "x"
        assert len(checked.records["data"].records) == (26 if kind is SFTConfig else 39)
        assert checked.not_checked == ()
    said = dry_run(cfg)
    assert "Nothing was started" in said
    assert f"{'26' if kind is SFTConfig else '39'} rows" in said
    assert "Not checked" not in said


FUNCTION = "rewards=[{{name: f, kind: function, function: '{}'}}]"


@pytest.mark.parametrize("way", ["run", "dry run"])
@pytest.mark.parametrize(
    ("kind", "change", "error", "message"),
    [
        # A reward function that does not exist.
        (PPOConfig, FUNCTION.format("HERE/mine.py:wrong"), ConfigError, "mine.py:wrong cannot be imported"),
        (PPOConfig, FUNCTION.format("HERE/gone.py:f"), ConfigError, "there is no file HERE/gone.py"),
        # Fewer rows than the batch.
        (
            PPOConfig,
            "algorithm={prompts_per_step: 40, mini_batch_size: 40}",
            DataError,
            "has 39 usable rows, fewer than algorithm.prompts_per_step=40",
        ),
        (SFTConfig, "batch_size=28", DataError, "has 26 usable rows, fewer than batch_size=28"),
        # A context too long.
        (PPOConfig, "sampling.max_response_tokens=449", ConfigError, "= 513 is more than the 512 tokens of"),
        (EvaluateConfig, "sampling.max_response_tokens=449", ConfigError, "= 513 is more than the 512 tokens of"),
        # More CPUs than there are.
        (PPOConfig, "placement.encoder.num_cpus=5000", PlacementError, "CPUs, the job needs 5001"),
        (EvaluateConfig, "placement.encoder.num_cpus=5000", PlacementError, "CPUs, the job needs 5000"),
        (SFTConfig, "workers={replicas: 2, num_cpus: 5000}", PlacementError, "CPUs, the job needs 10000: workers 2"),
        # Others.
        (SFTConfig, "learner.lora={target_modules: [nothing]}", ModelError, "nothing"),
        (SFTConfig, "output_dir=nope://bucket", ConfigError, "output_dir=nope://bucket/x: Protocol not known: nope"),
        (EvaluateConfig, "data.streaming=true", ConfigError, "an evaluation needs all rows before it starts"),
        (EvaluateConfig, "generator.tensor_parallel_size=2", ConfigError, "needs placement.generator.num_gpus=2"),
    ],
)
def test_refusals(
    way: str,
    kind: type[RunConfig],
    change: str,
    error: type[UserError],
    message: str,
    world: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "mine.py").write_text("def right(prompts, completions): return [1.0] * len(completions)\n")
    cfg = job(kind, world, change.replace("HERE", str(tmp_path)))
    with pytest.raises(error) as caught:
        dry_run(cfg) if way == "dry run" else RUNS[kind](cfg)
    assert message.replace("HERE", str(tmp_path)) in str(caught.value)
    assert not ray.is_initialized()
    assert "Ray dashboard" not in capsys.readouterr().err
    if way == "dry run":
        assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("key", ["baseline", "reference"])
def test_every_model_of_an_evaluation_reads_the_policys_tokens(key: str, vl: Path, world: dict[str, str]) -> None:
    """Responses go from one to the other as token ids."""
    with pytest.raises(ModelError, match="expected the model family"):
        evaluate.run(job(EvaluateConfig, world, f"{key}={{path: {vl}}}"))


@pytest.mark.parametrize(
    ("kind", "change", "error", "message"),
    [
        (PPOConfig, "policy.path=SHORT", ConfigError, "= 72 is more than the 40 tokens of"),
        (PPOConfig, "reference.path=SHORT", ConfigError, "= 72 is more than the 40 tokens of"),
        (EvaluateConfig, "reference.path=SHORT", ConfigError, "= 72 is more than the 40 tokens of"),
        (EvaluateConfig, "reward_model.path=SHORT", ModelError, "expected a reward model"),
        (SFTConfig, "model.path=REWARD", ModelError, "this is a reward model"),
        (PPOConfig, "reference.path=REWARD", ModelError, "this is a reward model"),
        (EvaluateConfig, "baseline.path=REWARD", ModelError, "this is a reward model"),
        (EvaluateConfig, "policy.path=BARE", ModelError, "found no processor_config.json"),
        (EvaluateConfig, "policy.path=TORN", ModelError, "its files lack 1 weights that Qwen2_5OmniThinker"),
        (SFTConfig, "model.path=TORN", ModelError, "needs: lm_head.weight; copy"),
        (SFTConfig, "sampling.allow_tokens=['<|IMAGE|>']", ModelError, "sampling.allow_tokens: '<|IMAGE|>' of"),
        (EvaluateConfig, "sampling.allow_tokens=['<box>']", ModelError, "has no token '<box>'"),
        (SFTConfig, "learner.engine.deepspeed={zero_optimization: {overlap_com: true}}", ConfigError, "overlap_com"),
    ],
)
def test_models_that_do_not_fit_their_use(
    kind: type[RunConfig], change: str, error: type[UserError], message: str, world: dict[str, str], tmp_path: Path
) -> None:
    for name, lacks in (("short", ""), ("bare", "processor_config.json"), ("torn", "model.safetensors")):
        (tmp_path / name).mkdir()
        for file in Path(world["model"]).iterdir():
            if file.name not in (lacks, "config.json"):
                (tmp_path / name / file.name).symlink_to(file)
        config = (Path(world["model"]) / "config.json").read_text()
        config = config.replace('"max_position_embeddings": 512', '"max_position_embeddings": 40')
        (tmp_path / name / "config.json").write_text(config)
    tensors = load_file(Path(world["model"]) / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if "lm_head" not in n}, tmp_path / "torn" / "model.safetensors")
    paths = {name.upper(): tmp_path / name for name in ("torn", "short", "bare")} | {"REWARD": world["reward_model"]}
    for word, path in paths.items():
        change = change.replace(word, str(path))
    cfg = job(kind, world, change)
    for way in (dry_run, RUNS[kind]):
        with pytest.raises(error) as caught:
            way(cfg)
        assert message in str(caught.value)
    assert not ray.is_initialized()


@pytest.mark.parametrize("kind", [PPOConfig, EvaluateConfig])
def test_a_prompt_with_more_media_than_the_sampler_takes_is_named(
    kind: type[RunConfig], world: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(picture(0))
    rows = [
        {"prompt_id": f"shows-{n}", "prompt": "<image>" * n + "what ?", "images": ["a.png"] * n} for n in (1, 16, 17)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = f"data={{path: {tmp_path}/rows.jsonl, max_prompt_tokens: 400}}"
    few = ["algorithm={prompts_per_step: 2, mini_batch_size: 2}"] if kind is PPOConfig else []
    said = r"1 bad rows?[^$]*shows-17[^$]*17 media of kind image, more than generator.max_media_per_prompt=16"
    for way in (dry_run, RUNS[kind]):
        with pytest.raises(DataError, match=said) as error:
            way(job(kind, world, data, *few))
        assert "shows-16" not in str(error.value)
    assert "Nothing was started" in dry_run(job(kind, world, data, "generator.max_media_per_prompt=17", *few))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("policy.path=gone/model", "policy"),
        ("rewards=[{name: far, kind: model, model: {path: gone/model}}]", "rewards.far.model"),
        ("data={path: gone/model, max_prompt_tokens: 64}", "data"),
    ],
)
def test_what_is_not_here_is_refused_by_a_run_and_told_by_a_dry_run(
    change: str, key: str, world: dict[str, str]
) -> None:
    cfg = job(PPOConfig, world, change)
    with pytest.raises(UserError, match="gone/model"):
        ppo.run(cfg)
    assert f"  {key}: " in dry_run(cfg).partition("Not checked\n")[2]


def test_a_spill_directory_must_be_one_and_a_dry_run_does_not_touch_it(world: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    data = f"path: {world['data']}/prompts_train, max_prompt_tokens: 64"
    cfg = job(PPOConfig, world, f"data={{{data}, facts_column: facts, spill_dir: {tmp_path}/file}}")
    with pytest.raises(ConfigError, match="spill_dir .* cannot be written to"):
        ppo.run(cfg)
    assert "Nothing was started" in dry_run(cfg)


@pytest.mark.parametrize(
    ("row", "changes", "reason"),
    [
        ({"prompt": "is 3 even or odd ? " * 40, "response": "even"}, [], "more than data.max_prompt_tokens=64"),
        ({"prompt": "is 3 even ?", "response": "is 3 even or odd ? " * 100}, [], r"tokens \(.*\), more than the"),
    ],
)
def test_a_row_that_is_too_long_is_named_before_anything_starts(
    row: dict[str, str], changes: list[str], reason: str, world: dict[str, str], tmp_path: Path
) -> None:
    rows = [{"prompt": "is 1 even ?", "response": "odd"}, row, {"prompt": "is 2 even ?", "response": "even " * 20}]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = f"data.path={tmp_path / 'long.jsonl'}"
    with pytest.raises(DataError, match=reason) as refused:
        dry_run(job(SFTConfig, world, path, "batch_size=2", *changes))
    assert "long.jsonl, line 2" in str(refused.value)
    assert "1 of 3 rows cannot be used" in str(refused.value)
    dry_run(job(SFTConfig, world, path, "batch_size=2", "data.on_bad_row=quarantine", *changes))


def test_tools_make_prompts_longer(world: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "is 1 even ?", "response": "odd"}\n' * 2)
    data = f"data={{path: {tmp_path}/rows.jsonl, max_prompt_tokens: 64}}"
    world["model"] = str(shutil.copytree(world["model"], tmp_path / "model"))
    describe_tools(tmp_path / "model")
    dry_run(job(SFTConfig, world, data, "batch_size=2"))
    with pytest.raises(DataError, match=r"its prompt has \d+ tokens .*, more than data.max_prompt_tokens=64"):
        dry_run(job(SFTConfig, world, data, "batch_size=2", "environment={kind: tools, tools: [crop, listen]}"))


def test_a_dry_run_sets_no_row_aside(world: dict[str, str], tmp_path: Path) -> None:
    rows = [{"prompt_id": f"p{i}", "prompt": "is 3 even or odd ?"} for i in range(3)]
    rows += [{"prompt_id": "no prompt"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = f"data={{path: {tmp_path}/rows.jsonl, max_prompt_tokens: 64, on_bad_row: quarantine}}"
    said = dry_run(job(EvaluateConfig, world, data))
    assert "3 rows, 0 media, 1 bad ones set aside" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl"]


def test_a_job_for_gpus_that_are_not_here_is_a_plan_for_a_cluster(world: dict[str, str]) -> None:
    cfg = job(PPOConfig, world, "placement.scorer={num_gpus: 4, num_cpus: 40}", "placement.reference.num_gpus=8")
    cfg = cfg.model_copy(update={"device": "auto"})
    with pytest.raises(PlacementError, match=r"GPUs, the job needs 12: scorer 1 × 4 \+ reference 1 × 8"):
        ppo.run(cfg)
    assert "2 nodes of 8 GPUs and 96 CPUs" in dry_run(cfg)


def test_the_jobs_of_a_round_are_checked_before_the_first(world: dict[str, str], tmp_path: Path) -> None:
    data = {"path": f"{world['data']}/prompts_train", "max_prompt_tokens": 64}
    small = {role: {"num_cpus": 0.01} for role in ROLES}
    keys: dict[str, Any] = {
        "policy": {"path": world["model"]},
        "output_dir": str(tmp_path),
        "prompts": data,
        "evaluate": {"data": data, "rewards": []},
        "placement": small,
        "reward_model": {"job": {"epochs": 1, "workers": {"replicas": 2, "num_cpus": 0.01}}},
    }
    worthless = {"name": "gold", "kind": "function", "function": "worthless"}
    assert "by each round's job 'policy'" in dry_run(loop_config(**keys))
    for changes, message in (
        ({"evaluate": {"data": data, "rewards": [worthless]}}, "worthless"),
        ({"train": {"ppo": {"rewards": [worthless]}}}, "worthless"),
        ({"train": {"ppo": {"learner": {"engine": {"micro_batch_tokens": 9}}}}}, "micro_batch_tokens=9 is less than"),
        ({"reward_model": {"job": {"epochs": 1, "workers": {"num_cpus": 5000}}}}, "workers 2 × 5000"),
        ({"sample": {"max_response_tokens": 449}}, "prompts.max_prompt_tokens .* = 513 is more than the 512"),
    ):
        for way in (dry_run, iterate.run):
            with pytest.raises(UserError, match=message):
                way(loop_config(**keys | changes))
    assert not ray.is_initialized()


def test_records_that_several_keys_name_are_read_once(world: dict[str, str], tmp_path: Path) -> None:
    data = {"path": f"{world['data']}/prompts_train"}
    cfg = loop_config(prompts=data, evaluate={"data": data})
    read = read_all(cfg, tmp_path)
    assert read["prompts"] is read["evaluate.data"]
