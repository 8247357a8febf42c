import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmrlhf_ray.demo.data import STYLES, DataPaths, Sizes, build_data, demonstrate
from mmrlhf_ray.demo.digits import digit_png, digits_of
from mmrlhf_ray.demo.gold import gold_reward
from mmrlhf_ray.demo.tasks import TASKS, Case, Item
from mmrlhf_ray.schema import DEMONSTRATION, MEDIA, PROMPT, check

SMALL = Sizes(
    demonstrations=520, prompts_train=260, prompts_heldout=130, tones=40, tones_heldout=20, clips=40, clips_heldout=20
)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> DataPaths:
    return build_data(tmp_path_factory.mktemp("omni-digits"), seed=0, sizes=SMALL)


def read(directory: Path) -> tuple[pa.Table, pa.Table]:
    return pq.read_table(directory / "records.parquet"), pq.read_table(directory / "media.parquet")


def test_tables_keep_the_contract(built):
    expected = (
        (built.demonstrations, DEMONSTRATION, 520),
        (built.prompts_train, PROMPT, 260),
        (built.prompts_heldout, PROMPT, 130),
    )
    for directory, schema, rows in expected:
        records, media = read(directory)
        check(records, schema, "test")
        check(media, MEDIA, "test")
        assert records.num_rows == rows
        assert len(set(records["prompt_id"].to_pylist())) == rows


def test_media_match_the_parts_of_the_messages(built):
    for directory in (built.demonstrations, built.prompts_train, built.prompts_heldout):
        records, media = read(directory)
        kind = dict(zip(media["media_id"].to_pylist(), media["kind"].to_pylist(), strict=True))
        assert set(kind) == {m for row in records["media_ids"].to_pylist() for m in row}
        for row in records.to_pylist():
            parts = [p["type"] for p in json.loads(row["messages"])[0]["content"] if p["type"] != "text"]
            assert [kind[m] for m in row["media_ids"]] == parts
            modality = "+".join(k for k in ("image", "audio", "video") if k in parts) or "text"
            assert row["modality"] == modality


def test_nothing_held_out_is_trained_on(built):
    trained = {m for d in (built.demonstrations, built.prompts_train) for m in read(d)[1]["media_id"].to_pylist()}
    heldout = set(read(built.prompts_heldout)[1]["media_id"].to_pylist())
    assert heldout
    assert not trained & heldout
    pictures = {digit_png(d.source) for d in digits_of("heldout")}
    media = read(built.prompts_heldout)[1].to_pylist()
    assert {m["data"] for m in media if m["kind"] == "image"} <= pictures


def test_answers_are_balanced(built):
    for directory in (built.demonstrations, built.prompts_train, built.prompts_heldout):
        counts: dict[str, Counter] = {}
        for row in read(directory)[0].to_pylist():
            counts.setdefault(row["task"], Counter())[json.loads(row["extras"])["answer"]] += 1
        assert set(counts) == {task.name for task in TASKS}
        for task in TASKS:
            seen = [counts[task.name][option] for option in task.options]
            assert max(seen) - min(seen) <= 1, (task.name, counts[task.name])


def test_same_seed_same_bytes(tmp_path):
    sizes = Sizes(26, 13, 13, tones=10, tones_heldout=10, clips=8, clips_heldout=8)
    first, again, other = (build_data(tmp_path / name, seed, sizes) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    for left, right in zip(vars(first).values(), vars(again).values(), strict=True):
        for file in ("records.parquet", "media.parquet"):
            assert (left / file).read_bytes() == (right / file).read_bytes()
    assert read(first.prompts_train)[0] != read(other.prompts_train)[0]


def test_styles_are_what_they_say(built):
    for row in read(built.demonstrations)[0].to_pylist():
        truth = json.loads(row["extras"])
        gold = gold_reward(row["response"], "stop", len(row["response"].split()) + 1, truth)
        style = truth["style"]
        assert gold.correct == (style != "wrong")
        assert gold.length_penalty == 0
        if style == "grounded":
            assert gold.grounded
        if style in ("terse", "hallucinated"):
            assert not gold.grounded


def test_styles_are_as_frequent_as_declared():
    task = next(t for t in TASKS if t.name == "image_parity")
    case = Case(task, task.questions[0], (Item(7, "m"),), "odd")
    rng = np.random.default_rng(0)
    counts = Counter(demonstrate(case, rng)[0] for _ in range(4000))
    assert sum(STYLES.values()) == pytest.approx(1.0)
    for style, share in STYLES.items():
        assert counts[style] / 4000 == pytest.approx(share, abs=0.03)
