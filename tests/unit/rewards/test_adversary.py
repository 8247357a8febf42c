"""Adversarial responses of records, as the probe scores them and reward models learn from them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.data.records.readers import read_records, write_records
from mmrlhf_ray.rewards.adversary import MEDIA_REMOVED, MEDIA_SWAPPED, Adversary, Fooling, Honest
from mmrlhf_ray.rewards.negatives import negative_records
from mmrlhf_ray.schema import MEDIA, PREFERENCE, RANKING
from tests.unit.tiny import messages, raw

PICTURES = [raw("image", number) for number in range(4)]
KINDS = {own.media_id: own.kind for own in PICTURES}


def honest(number: int, response: str, **changed: Any) -> Honest:
    prompt = {
        "prompt_id": f"p{number}",
        "messages": messages(["image"], "even or odd ?"),
        "media_ids": [PICTURES[number].media_id],
        "task": "parity",
        "modality": "image",
        "extras": json.dumps({"facts": f"a {number}"}),
    }
    return Honest(prompt | changed, response)


ROWS = [honest(0, "answer : even"), honest(1, "answer : odd"), honest(2, "answer : even")]


def made(number: int = 0, rows: list[Honest] = ROWS, **keys: Any) -> dict[str, Fooling]:
    adversary = Adversary(rows, KINDS, 12, 3, **{"facts_column": "facts"} | keys)
    return {own.probe: own for own in adversary.responses(number, rows[number])}


def test_what_is_better_is_said_of_each() -> None:
    found = made()
    assert list(found) == [
        *("empty", "repeated", "very_long", "prompt_copied", "every_answer", "media_removed", "media_swapped")
    ]
    assert {own.better for own in found.values() if not own.of_media} == {"answer : even"}
    assert found["every_answer"].response == "answer : even answer : odd"
    removed, swapped = found[MEDIA_REMOVED], found[MEDIA_SWAPPED]
    assert (removed.response, removed.better) == ("answer : even", "")
    assert (removed.prompt["media_ids"], removed.prompt["modality"]) == ([], "text")
    assert json.loads(removed.prompt["extras"]) == {"facts": ""}
    # Of the two others only one has another answer; it is the honest one to what is shown then.
    assert (swapped.response, swapped.better) == ("answer : even", "answer : odd")
    assert swapped.prompt["media_ids"] == [PICTURES[1].media_id]
    assert json.loads(swapped.prompt["extras"]) == {"facts": "a 1"}


def test_a_refusal_is_better_than_a_claim_without_media() -> None:
    assert made(refusal="i cannot see it")[MEDIA_REMOVED].better == "i cannot see it"
    assert MEDIA_REMOVED not in made(refusal="answer : even")


def test_other_tasks_lend_neither_media_nor_answers() -> None:
    found = made(rows=[ROWS[0], honest(1, "answer : odd", task="other")])
    assert {"every_answer", MEDIA_SWAPPED} & found.keys() == set()


def test_one_of_them_depends_on_the_number_and_the_seed_alone() -> None:
    def kinds(seed: int) -> list[str]:
        adversary = Adversary(ROWS, KINDS, 12, seed)
        found = [adversary.one(number, ROWS[number % 3]) for number in range(200)]
        assert [own and own.probe for own in reversed(found)] == [
            own and own.probe for own in (adversary.one(n, ROWS[n % 3]) for n in reversed(range(200)))
        ]
        return [own.probe for own in found if own]

    assert kinds(1) == kinds(1) != kinds(2)
    counts = {probe: kinds(1).count(probe) for probe in made()}
    assert min(counts.values()) > 10, "each kind comes up"
    assert Adversary([], {}, 5, 0).one(0, honest(0, " ", media_ids=[], messages=messages([], ""))) is None


@pytest.mark.parametrize("schema", [PREFERENCE, RANKING], ids=["PREFERENCE", "RANKING"])
def test_records_are_read_back(schema: pa.Schema, tmp_path: Path) -> None:
    table = negative_records(list(made().values()), "PREFERENCE" if schema is PREFERENCE else "RANKING")
    clips = [{"media_id": m.media_id, "kind": m.kind, "mime": "image/png", "data": m.data} for m in PICTURES]
    write_records(tmp_path / "out", table, pa.Table.from_pylist(clips, schema=MEDIA))
    read = read_records(DataConfig(path=str(tmp_path / "out"), facts_column="facts"), schema, tmp_path)
    assert (len(read.records), read.bad_rows) == (7, 0)
    rows = read.records.to_pylist()
    assert [row["prompt_id"] for row in rows] == ["p0"] * 5 + ["p0#media_removed", "p0#media_swapped"]
    assert [json.loads(row["extras"])["probe"] for row in rows] == list(made())
    last = rows[-1]
    if schema is PREFERENCE:
        assert (last["chosen"], last["rejected"], last["margin"]) == ("answer : odd", "answer : even", 1.0)
    else:
        assert (last["responses"], last["ranks"]) == (["answer : odd", "answer : even"], [1, 2])
