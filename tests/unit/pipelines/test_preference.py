"""What preference training makes of its records before anything starts."""

import json
from pathlib import Path

import pytest

from mmrlhf_ray.config import DataConfig, ModelConfig, PreferenceConfig, SFTConfig, load_config
from mmrlhf_ray.data.records.readers import Records, read_records
from mmrlhf_ray.errors import ConfigError, DataError, ModelError
from mmrlhf_ray.pipelines.preference import job as preference
from mmrlhf_ray.pipelines.preference.job import problems, with_mismatched
from mmrlhf_ray.pipelines.supervised.sft import demonstrations_only
from mmrlhf_ray.schema import DEMONSTRATION, PREFERENCE


def config(objective: str, **options: object) -> PreferenceConfig:
    return PreferenceConfig(
        objective=objective, **({"name": "n", "steps": 1, "model": {"path": "m"}, "data": {"path": "d"}} | options)
    )


def read(path: Path, schema: object, *rows: dict[str, object]) -> Records:
    (path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return read_records(DataConfig(path=str(path / "rows.jsonl")), schema, path / "run")


def pair(prompt: str, number: int, **more: object) -> dict[str, object]:
    return {"prompt": prompt, "chosen": f"good {number}", "rejected": f"bad {number}"} | more


def test_mismatched_responses_are_the_next_other_prompts(tmp_path: Path) -> None:
    prompts = ["a", "a", "b", "c", "a"]
    records = read(tmp_path, PREFERENCE, *(pair(prompt, n) for n, prompt in enumerate(prompts)))
    assert with_mismatched(records).records.column("mismatched").to_pylist() == [
        "good 2",
        "good 2",
        "bad 3",
        "good 4",
        "good 2",
    ]
    single = read(tmp_path, DEMONSTRATION, *({"prompt": p, "response": f"{p}{n}"} for n, p in enumerate(prompts)))
    assert with_mismatched(single).records.column("mismatched").to_pylist() == ["b2", "b2", "c3", "a4", "b2"]


def test_one_prompt_alone_has_no_mismatched_response(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl: every record has the prompt '.*'; kto needs two prompts"):
        with_mismatched(read(tmp_path, PREFERENCE, pair("a", 0), pair("a", 1)))


def test_records_that_the_objective_cannot_use(tmp_path: Path) -> None:
    rows = [{"prompt": p, "response": "x", "feedback": f} for p, f in (("a", 1), ("b", 0), ("c", -0.5))]
    single = read(tmp_path, DEMONSTRATION, *rows)
    found = problems(config("kto", unpaired=True), single.records)
    assert list(found) == [1]
    assert found[1][0].startswith("feedback is 0")
    pairs = read(tmp_path, PREFERENCE, pair("a", 0, margin=-1), pair("b", 1, margin=2), pair("c", 2))
    assert list(problems(config("dpo", margin_scale=1.0), pairs.records)) == [0]
    assert problems(config("dpo"), pairs.records) == {}


def test_bad_records_are_named_before_anything_starts(tmp_path: Path, omni: Path) -> None:
    read(tmp_path, DEMONSTRATION, {"prompt": "a", "response": "x", "feedback": 1}, {"prompt": "b", "response": "y"})
    cfg = config(
        "bco",
        unpaired=True,
        output_dir=str(tmp_path / "runs"),
        model=ModelConfig(path=str(omni)),
        data=DataConfig(path=str(tmp_path / "rows.jsonl")),
        batch_size=2,
    )
    with pytest.raises(DataError, match=r"rows.jsonl, line 2 .*: feedback is 0.*; give feedback above 0"):
        preference.run(cfg)


def test_a_reference_of_another_vocabulary_is_refused(omni: Path, vl: Path) -> None:
    cfg = config("dpo", model=ModelConfig(path=str(omni)), reference=ModelConfig(path=str(vl)))
    with pytest.raises(ModelError, match="expected the model family of"):
        preference.run(cfg)
    with pytest.raises(ModelError, match="no such model directory"):
        preference.run(config("dpo", model=ModelConfig(path=str(omni)), reference=ModelConfig(path="nowhere")))


@pytest.mark.parametrize("kind", [PreferenceConfig, SFTConfig])
def test_policies_never_see_facts(tmp_path: Path, kind: type) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("{name: n, steps: 1, model: {path: m}, data: {path: d}, eval_data: {path: e, facts_column: facts}}")
    with pytest.raises(ConfigError, match=r"eval_data.facts_column=facts is for reward models"):
        load_config(file, [], kind)


def test_without_coefficient_rows_with_feedback_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"prompt": p, "response": "x", "feedback": f} for p, f in (("a", 0), ("b", 1), ("c", 0))]
    data = DataConfig(path="unused")
    kept = demonstrations_only(read(tmp_path, DEMONSTRATION, *rows), data, tmp_path)
    assert kept.rows == (0, 2)
    assert "1 rows with feedback left out" in caplog.text
    with pytest.raises(DataError, match="every row has feedback, which counts nothing at feedback_coef=0"):
        demonstrations_only(read(tmp_path, DEMONSTRATION, rows[1]), data, tmp_path)
