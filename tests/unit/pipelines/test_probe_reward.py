"""Which records are probed, how their rows are made, and what the scores add up to."""

import io
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from mmrlhf_ray.config import DataConfig, ModelConfig, ModelReward, ProbeRewardConfig, load_config
from mmrlhf_ray.data.encoding.encode import (
    Encoder,
    RawMedia,
    decode_response,
    encode_facts,
    encode_prompt,
    encode_response,
)
from mmrlhf_ray.data.records.readers import Records, read_records, write_records
from mmrlhf_ray.data.rowfiles import MEDIA_FILE, RECORDS_FILE
from mmrlhf_ray.errors import ConfigError, DataError, RunError
from mmrlhf_ray.pipelines.probe.job import prepare, probe_table, summary, write_preferences
from mmrlhf_ray.pipelines.probe.report import print_report, summarise
from mmrlhf_ray.pipelines.probe.rows import HONEST, ProbeRows, build_rows, choose, spread
from mmrlhf_ray.planning.placement import reservations
from mmrlhf_ray.rewards.scores import ComponentScores
from mmrlhf_ray.schema import DEMONSTRATION, MEDIA, PREFERENCE, PROBE
from tests.unit.tiny import messages, raw

QUESTION = "which digit is written ?"


def record(number: int, media: list[RawMedia], response: str, **changed: Any) -> dict[str, Any]:
    kinds = [m.kind for m in media]
    row = {
        "prompt_id": f"p{number}",
        "messages": messages(kinds, QUESTION),
        "media_ids": [m.media_id for m in media],
        "task": "digit" if media else "text",
        "modality": "+".join(dict.fromkeys(kinds)) or "text",
        "extras": {"facts": f"the image shows {number}", "style": "grounded"},
        "response": response,
        "feedback": 0.0,
    } | changed
    return row | {"extras": json.dumps(row["extras"])}


def records(rows: list[dict[str, Any]], media: list[RawMedia]) -> Records:
    clips = [{"media_id": m.media_id, "kind": m.kind, "mime": "x/y", "data": m.data} for m in media]
    table = pa.Table.from_pylist(rows, schema=DEMONSTRATION)
    return Records(table, pa.Table.from_pylist(clips, schema=MEDIA), 0, "f.jsonl", tuple(range(10, 10 + len(rows))))


def config(omni: Path | str = "m", **keys: Any) -> ProbeRewardConfig:
    reward = ModelReward(kind="model", name="rm", model=ModelConfig(path="r"))
    data = DataConfig(path="d", **keys.pop("data", {}))
    return ProbeRewardConfig(
        name="x",
        policy=ModelConfig(path=str(omni)),
        data=data,
        **{"rewards": (reward,), "max_response_tokens": 16} | keys,
    )


def test_items_are_taken_from_each_group_in_turn() -> None:
    groups = ["a", "a", "a", "b", "a", "c", "b"]
    assert spread(groups, 3) == [0, 3, 5]
    assert spread(groups, 4) == [0, 1, 3, 5]
    assert spread(groups, 6) == [0, 1, 2, 3, 5, 6]
    assert spread(groups, 99) == list(range(7))


def many() -> Records:
    rows = [record(i, [], f"answer : {i}", task="ab"[i % 10 == 0]) for i in range(40)]
    rows[3] |= {"feedback": -1.0}
    rows[4] |= {"extras": json.dumps({"style": "terse", "facts": ""})}
    rows[5] |= {"prompt_id": "p6"}
    return records(rows, [])


def test_honest_records_are_chosen_once_per_prompt_and_spread() -> None:
    chosen, honest = choose(many(), {"style": "grounded"}, 8, seed=1)
    ids = chosen.records.column("prompt_id").to_pylist()
    assert sorted(chosen.records.column("task").to_pylist()) == ["a"] * 4 + ["b"] * 4
    assert [place - 10 for place in chosen.rows] == [int(r.split()[-1]) for r in chosen.records["response"].to_pylist()]
    assert {row["prompt_id"] for row in honest} == {f"p{i}" for i in range(40)} - {"p3", "p4", "p5"}
    assert len(honest) == 37
    assert choose(many(), {"style": "grounded"}, 8, seed=1)[0].records.equals(chosen.records)
    others = choose(many(), {"style": "grounded"}, 8, seed=2)[0].records.column("prompt_id").to_pylist()
    assert others != ids
    assert len(choose(many(), {}, 99, seed=1)[0].records) == 38


def test_no_honest_record_is_an_error_that_names_where() -> None:
    with pytest.raises(DataError, match=r"f\.jsonl: none of 40 records has .* \{'style': 'none'\}; correct `where`"):
        choose(many(), {"style": "none"}, 8, seed=0)


@pytest.fixture(scope="module")
def built(omni_encoder: Encoder) -> tuple[ProbeRows, list[RawMedia]]:
    """Two pictures, a text; read with facts."""
    media = [raw("image", 1), raw("image", 2), raw("image", 3)]
    rows = [record(i, [media[i]], f"the image shows {i} . answer : {i}") for i in range(2)]
    # Shows another picture, but its honest response is the first one's: no media to swap with.
    same = record(0, [media[2]], rows[0]["response"], prompt_id="p2")
    all_rows = [*rows, same, record(3, [], "answer : odd")]
    cfg = config(data={"facts_column": "facts"})
    chosen = records([*rows, all_rows[3]], media)
    made, unusable = build_rows(cfg, omni_encoder, chosen, all_rows)
    assert unusable == []
    return made, media


def of(made: ProbeRows, prompt_id: str) -> dict[str, dict[str, Any]]:
    rows = zip(made.prompt_ids, made.probes, made.rollouts.to_pylist(), strict=True)
    return {probe: row for own, probe, row in rows if own == prompt_id}


def test_rows_of_a_prompt_with_media(built: tuple[ProbeRows, list[RawMedia]], omni_encoder: Encoder) -> None:
    made, media = built
    rows = of(made, "p0")
    assert list(rows) == [
        *("honest", "empty", "repeated", "very_long", "prompt_copied", "every_answer", "media_removed", "media_swapped")
    ]
    asked = encode_prompt(omni_encoder, messages(["image"], QUESTION), [media[0]])
    honest = encode_response(omni_encoder, "the image shows 0 . answer : 0")
    facts = encode_facts(omni_encoder, "the image shows 0")
    for probe, row in rows.items():
        assert row["sample_id"] == f"p0#{probe}"
        assert row["modality"] == "image"
        assert row["response_token_ids"][-1] == omni_encoder.eos_token_ids[0]
        if not probe.startswith("media"):
            assert (row["prompt_id"], row["prompt_token_ids"]) == ("p0", asked.token_ids)
            assert (row["facts_token_ids"], row["media_ids"]) == (facts, [media[0].media_id])
    texts = {probe: decode_response(omni_encoder, row["response_token_ids"]) for probe, row in rows.items()}
    assert len(rows["very_long"]["response_token_ids"]) == 16
    assert (rows["honest"]["response_token_ids"], texts["empty"], texts["prompt_copied"]) == (honest, "", QUESTION)
    assert len(rows["empty"]["response_token_ids"]) == 1
    assert texts["repeated"] == " ".join(["the image shows 0 ."] * 3)
    assert (
        texts["every_answer"]
        == "the image shows 0 . answer : 0 the image shows 1 . answer :"[: len(texts["every_answer"])]
    )
    assert (
        dict(zip(made.rollouts["sample_id"].to_pylist(), made.texts, strict=True))["p0#repeated"] == texts["repeated"]
    )


def test_media_go_with_their_facts(built: tuple[ProbeRows, list[RawMedia]], omni_encoder: Encoder) -> None:
    made, media = built
    rows = of(made, "p1")
    removed, swapped, honest = rows["media_removed"], rows["media_swapped"], rows["honest"]
    assert removed["prompt_token_ids"] == encode_prompt(omni_encoder, messages([], QUESTION), []).token_ids
    assert (removed["facts_token_ids"], removed["media_ids"]) == ([], [])
    assert swapped["media_ids"][0] in {media[0].media_id, media[2].media_id}
    assert swapped["facts_token_ids"] == encode_facts(omni_encoder, "the image shows 0")
    assert removed["response_token_ids"] == swapped["response_token_ids"] == honest["response_token_ids"]
    prompts = {row["prompt_id"]: row for row in made.prompts.to_pylist()}
    assert prompts.keys() == {
        *("p0", "p1", "p3"),
        *(f"p{i}#media_{how}" for i in (0, 1) for how in ("removed", "swapped")),
    }
    assert prompts["p1#media_removed"]["extras"] == prompts["p1"]["extras"]
    assert json.loads(prompts["p1#media_removed"]["messages"]) == json.loads(messages([], QUESTION))
    assert set(made.features) >= {media[0].media_id, media[1].media_id}
    # The only prompt to which another response is honest.
    assert of(made, "p0")["media_swapped"]["media_ids"] == [media[1].media_id]


def test_a_text_prompt_has_no_media_probes(built: tuple[ProbeRows, list[RawMedia]]) -> None:
    assert list(of(built[0], "p3")) == ["honest", "empty", "repeated", "very_long", "prompt_copied"]


def test_media_are_not_swapped_with_themselves(omni_encoder: Encoder) -> None:
    picture = raw("image", 1)
    rows = [record(i, [picture], f"answer : {i}") for i in range(2)]
    made, _ = build_rows(config(), omni_encoder, records(rows, [picture]), rows)
    assert "media_removed" in made.probes
    assert "media_swapped" not in made.probes


def test_records_that_cannot_be_encoded_are_named(omni: Path, tmp_path: Path) -> None:
    long = record(1, [], "answer : " + "1 " * 20)
    rows = [record(0, [], "answer : 0"), long, record(2, [], "answer : 2", messages=messages([], "which " * 90))]
    cfg = config(omni, data={"max_prompt_tokens": 64})
    with pytest.raises(DataError) as caught:
        prepare(cfg, records(rows, []), tmp_path)
    for said in ("2 of 3 rows", "line 12 (p1): response has", "at most 16", "line 13 (p2): prompt has", "=64"):
        assert said in str(caught.value)
    cfg = config(omni, data={"max_prompt_tokens": 64, "on_bad_row": "quarantine"})
    assert set(prepare(cfg, records(rows, []), tmp_path).prompt_ids) == {"p0"}
    assert len((tmp_path / "quarantine.jsonl").read_text().splitlines()) == 2


def test_rows_that_fit_into_no_pass_are_a_mistake_of_the_configuration(omni: Path, tmp_path: Path) -> None:
    cfg = config(omni, score_micro_batch_tokens=20)
    with pytest.raises(ConfigError, match=r"score_micro_batch_tokens=20 is less than the \d+ tokens"):
        prepare(cfg, records([record(0, [], "answer : 0")], []), tmp_path)


def test_the_job_reserves_what_its_rewards_need() -> None:
    def roles(rewards: str) -> list[str]:
        cfg = load_config(None, ["name=x", "policy.path=p", "data.path=d", f"rewards={rewards}"], ProbeRewardConfig)
        return [r.role for r in reservations(cfg)]

    model = "{name: m, kind: model, model: {path: r}}"
    function = "{name: f, kind: function, function: accuracy}"
    assert roles(f"[{model}]") == ["scorer"]
    assert roles(f"[{model}, {function}, {{name: l, kind: fluency}}]") == ["scorer", "functions", "reference"]
    with pytest.raises(ConfigError, match="names must be unique"):
        roles(f"[{model}, {model}]")
    with pytest.raises(ConfigError, match="rewards"):
        roles("[]")


# Prompt, modality, probe, mixture, model, penalty.
SCORED = (
    ("a", "image", HONEST, 1.0, 2.0, 1.0),
    ("a", "image", "empty", 1.5, 3.0, 0.0),
    ("a", "image", "repeated", 0.5, 2.0, 1.5),
    ("b", "text", HONEST, 1.0, 1.0, math.nan),
    ("b", "text", "empty", 1.0, 0.5, 0.0),
    ("b", "text", "repeated", 0.25, 1.25, 3.0),
    ("c", "image", HONEST, 0.0, 0.0, 2.0),
    ("c", "image", "empty", math.nan, -1.0, 2.0),
    ("c", "image", "repeated", -1.0, -0.5, 2.5),
)


def scored() -> pa.Table:
    rows = [
        {
            "prompt_id": prompt_id,
            "task": "t",
            "modality": modality,
            "probe": probe,
            "text": f"{prompt_id} {probe}",
            "response_tokens": 3,
            "score": mixture,
            "scores": [model, penalty],
        }
        for prompt_id, modality, probe, mixture, model, penalty in SCORED
    ]
    return pa.Table.from_pylist(rows, schema=PROBE)


def rewards(**penalty: Any) -> tuple[Any, ...]:
    asked = [{"name": "model", "kind": "model", "model": {"path": "r"}}]
    asked.append({"name": "penalty", "kind": "function", "function": "length_penalty"} | penalty)
    given = ["name=x", "policy.path=p", "data.path=d", f"rewards={json.dumps(asked)}"]
    return load_config(None, given, ProbeRewardConfig).rewards


def test_shares_by_hand() -> None:
    empty, repeated = summarise(scored(), rewards(), tolerated_share=0.4)
    assert (empty.probe, repeated.probe) == ("empty", "repeated")
    mixture = empty.mixture.overall
    # c has no mixed score; b is a tie.
    assert (mixture.responses, mixture.above.estimate, mixture.equal, mixture.difference) == (2, 0.5, 0.5, 0.25)
    assert {m: f.above.estimate for m, f in empty.mixture.by_modality.items()} == {"image": 1.0, "text": 0.0}
    model = empty.components["model"].overall
    assert model.responses == 3
    assert model.above.estimate == pytest.approx(1 / 3)
    assert model.difference == pytest.approx((1.0 - 0.5 - 1.0) / 3)
    assert (model.above.low, model.above.high) == pytest.approx((0.0615, 0.7923), abs=1e-4)
    penalty = empty.components["penalty"].overall
    assert (penalty.responses, penalty.above.estimate, penalty.equal, penalty.difference) == (2, 0.0, 0.5, -0.5)
    assert (repeated.mixture.overall.above.estimate, repeated.mixture.overall.difference) == (0.0, -2.25 / 3)
    assert (empty.passed, repeated.passed) == (False, True)
    assert summarise(scored(), rewards(), tolerated_share=0.5)[0].passed


@pytest.mark.parametrize("lower_is_better", [{"weight": -1.0}, {"cost": {"bound": 1.0}}])
def test_of_costs_lower_is_better(lower_is_better: dict[str, Any]) -> None:
    empty, repeated = summarise(scored(), rewards(**lower_is_better), tolerated_share=0.0)
    assert empty.components["penalty"].overall.above.estimate == 0.5
    assert empty.components["penalty"].overall.difference == -0.5
    assert empty.components["penalty"].worst[0].prompt_id == "a"
    assert repeated.components["penalty"].overall.above.estimate == 0.0
    assert empty.components["model"].overall.above.estimate == pytest.approx(1 / 3)


def test_the_worst_come_first() -> None:
    repeated = summarise(scored(), rewards(), tolerated_share=0.0)[1]
    assert [e.prompt_id for e in repeated.mixture.worst] == ["a", "b", "c"]
    example = repeated.components["model"].worst[0]
    assert (example.prompt_id, example.text, example.honest, example.adversarial) == ("b", "b repeated", 1.0, 1.25)


def test_a_component_that_scores_none_of_them_is_left_out() -> None:
    table = scored()
    blank = [[model, math.nan] for model, _ in table.column("scores").to_pylist()]
    table = table.set_column(
        table.column_names.index("scores"), PROBE.field("scores"), pa.array(blank, pa.list_(pa.float32()))
    )
    assert set(summarise(table, rewards(), 0.0)[0].components) == {"model"}


def test_a_mixture_without_scores_cannot_pass() -> None:
    rows = [row | {"score": math.nan} for row in scored().to_pylist()]
    with pytest.raises(RunError, match="empty: every response was dropped"):
        summarise(pa.Table.from_pylist(rows, schema=PROBE), rewards(), 0.0)


def test_what_is_printed_and_written() -> None:
    results = summarise(scored(), rewards(), tolerated_share=0.1)
    console = Console(width=80, record=True, file=io.StringIO())
    print_report(results, 0.1, console)
    shown = console.export_text()
    assert "MISSED  empty: share above the honest response 0.500 [" in shown
    assert "passed  repeated: share above the honest response 0.000 [" in shown
    assert "empty, a: 1.500 against 1.000: 'a empty'" in shown
    assert "repeated, a" not in shown
    by_modality = shown[shown.index("where modalities differ") :]
    assert ["empty", "1.000", "0.000"] in [line.split() for line in by_modality.splitlines()]
    written = json.loads(json.dumps(summary(config(), results), allow_nan=False))
    assert written["probes"]["empty"] == json.loads(json.dumps(asdict(results[0])))


def test_the_table_has_scores_in_the_order_of_rewards(built: tuple[ProbeRows, list[RawMedia]]) -> None:
    made = built[0]
    count = len(made.rollouts)
    answers = {
        "first": ComponentScores.of(range(count)),
        "second": ComponentScores((None,) * count, (None,) * count),
    }
    table = probe_table(made, answers, tuple(float(-i) for i in range(count)))
    for i, row in enumerate(table.to_pylist()):
        assert (row["score"], row["scores"][0], row["prompt_id"]) == (-i, i, made.prompt_ids[i])
        assert math.isnan(row["scores"][1])
        assert row["response_tokens"] == len(made.rollouts["response_token_ids"][i])


def test_probes_are_written_as_preferences(omni: Path, tmp_path: Path) -> None:
    pictures = [raw("image", number) for number in range(2)]
    rows = [record(n, [picture], f"answer : {n}") for n, picture in enumerate(pictures)]
    read = records(rows, pictures)
    write_records(tmp_path / "honest", read.records, read.media)
    given = [f"output_dir={tmp_path / 'runs'}", "name=x", f"policy.path={omni}", f"data.path={tmp_path / 'honest'}"]
    given.append("data.max_prompt_tokens=64")
    cfg = load_config(
        None, [*given, "rewards=[{name: f, kind: function, function: repetition_penalty}]"], ProbeRewardConfig
    )
    made = read_records(
        DataConfig(path=str(write_preferences(cfg, tmp_path / "out"))), PREFERENCE, tmp_path
    ).records.to_pylist()
    assert len(made) == 2 * 7
    assert {row["chosen"] for row in made if row["prompt_id"] == "p0"} == {"answer : 0"}
    assert {row["prompt_id"]: (row["chosen"], row["rejected"]) for row in made if "#" in row["prompt_id"]} == {
        "p0#media_removed": ("", "answer : 0"),
        "p0#media_swapped": ("answer : 1", "answer : 0"),
        "p1#media_removed": ("", "answer : 1"),
        "p1#media_swapped": ("answer : 0", "answer : 1"),
    }


def test_only_media_that_the_written_probes_show_are_written(omni: Path, tmp_path: Path) -> None:
    pictures = [raw("image", number) for number in range(4)]
    read = records([record(n, [picture], f"answer : {n}") for n, picture in enumerate(pictures)], pictures)
    write_records(tmp_path / "honest", read.records, read.media)
    given = ["name=x", f"output_dir={tmp_path / 'runs'}", f"policy.path={omni}", f"data.path={tmp_path / 'honest'}"]
    given += ["data.max_prompt_tokens=64", "prompts=1"]
    given.append("rewards=[{name: f, kind: function, function: repetition_penalty}]")
    out = write_preferences(load_config(None, given, ProbeRewardConfig), tmp_path / "out")
    shown = {i for ids in pq.read_table(out / RECORDS_FILE)["media_ids"].to_pylist() for i in ids}
    assert len(shown) == 2  # the record's own, and the one that it was swapped for
    assert set(pq.read_table(out / MEDIA_FILE)["media_id"].to_pylist()) == shown
