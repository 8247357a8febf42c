"""From records with real media to cases: arrays by hand, labels, boxes, and rows that cannot be decided."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from mmrlhf_ray.config import DiscreteConfig
from mmrlhf_ray.config.discrete_parts import AudioModality, FrontEnd, ImageModality, TextModality, VideoModality
from mmrlhf_ray.data.media import media_row, to_wav
from mmrlhf_ray.data.records.readers import read_records, write_records
from mmrlhf_ray.demo.clips import clip_webm
from mmrlhf_ray.demo.digits import digit_png
from mmrlhf_ray.discrete.cases import Cases
from mmrlhf_ray.discrete.spaces import observation_space
from mmrlhf_ray.discrete.tasks import (
    cases_of,
    class_scores,
    clip_array,
    costs_of,
    message_text,
    picture_array,
    sound_array,
    text_array,
)
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.schema import MEDIA, PROMPT
from tests.unit.discrete_tiny import job

SOUND = np.linspace(-0.5, 0.5, 800).astype(np.float32)
DIGITS = [media_row("image", digit_png(source)) for source in (0, 1)]
TONE = media_row("audio", to_wav(SOUND, 4000))
CLIP = media_row("video", clip_webm(3, "left"))


def row(
    prompt_id: str, media: list[Any], extras: dict[str, Any], task: str = "t", text: str = "Which one ?"
) -> dict[str, Any]:
    content = [{"type": m["kind"]} for m in media] + [{"type": "text", "text": text}]
    kinds = [kind for kind in ("image", "audio", "video") if any(m["kind"] == kind for m in media)]
    return {
        "prompt_id": prompt_id,
        "messages": json.dumps([{"role": "user", "content": content}]),
        "media_ids": [m["media_id"] for m in media],
        "task": task,
        "modality": "+".join(kinds) or "text",
        "extras": json.dumps(extras),
    }


ROWS = [
    row("both", [DIGITS[0], TONE], {"answer": 3, "box": [0, 0, 8, 16]}, text="Red dog"),
    row("two", [DIGITS[1], DIGITS[0]], {"answer": "7", "box": [8, 8, 16, 16]}, text="dog dog red cat"),
    row("clip", [CLIP], {"answer": "3", "box": [0, 0, 1, 1]}, task="other"),
]


def write(path: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    media = pa.Table.from_pylist([*DIGITS, TONE, CLIP], schema=MEDIA)
    write_records(path, pa.Table.from_pylist(rows, schema=PROMPT), media)
    return {"train": {"path": str(path)}, "heldout": {"path": str(path)}}


MODALITIES = {
    "left": {"kind": "image"},
    "right": {"kind": "image", "index": 1, "height": 8, "width": 8, "channels": 3},
    "tone": {"kind": "audio", "seconds": 0.3, "sampling_rate": 4000, "front_end": {"kind": "waveform", "bands": 100}},
    "clip": {"kind": "video", "frames": 4},
    "text": {"kind": "text", "words": 3, "buckets": 1000},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write(tmp_path_factory.mktemp("records") / "data", ROWS)


def decide(data: dict[str, Any], **keys: Any) -> DiscreteConfig:
    task = {"kind": "decide", "classes": ["3", "7"], **data, **keys}
    return job(tasks={"digit": task}, observation={"modalities": MODALITIES})


def read_cases(cfg: DiscreteConfig, task: str, part: str, quarantine_to: Path) -> Cases:
    """The cases of what the job's own key names."""
    return cases_of(cfg, task, part, read_records(getattr(cfg.tasks[task], part), PROMPT, quarantine_to))


def test_every_modality_of_every_row(data, tmp_path):
    cfg = decide(data)
    cases = read_cases(cfg, "digit", "train", tmp_path)
    seen = cases.observations(range(3))
    assert cases.prompt_ids == ("both", "two", "clip")
    np.testing.assert_array_equal(cases.labels, [0, 1, 0])
    np.testing.assert_array_equal(
        seen["present"], [[1, 0, 1, 0, 1], [1, 1, 0, 0, 1], [0, 0, 0, 1, 1]]
    )  # left, right, tone, clip, text
    for number in range(3):
        assert observation_space(cfg).contains({name: values[number] for name, values in seen.items()})
    pixels = picture_array(Image.open(io.BytesIO(digit_png(0))), ImageModality()) / np.float32(255)
    np.testing.assert_array_equal(seen["left"][0], pixels)
    small = Image.open(io.BytesIO(digit_png(0))).resize((8, 8), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(seen["right"][1], np.stack([np.asarray(small)] * 3) / 255, atol=1e-6)
    np.testing.assert_allclose(seen["tone"][0].reshape(-1), np.pad(SOUND, (0, 400)), atol=1e-4)
    assert seen["clip"][2].std() > 0.05
    assert seen["text"][1].tolist() == [seen["text"][0][1]] * 2 + [seen["text"][0][0]]


def test_media_that_rows_share_are_kept_once(data, tmp_path):
    columns = read_cases(decide(data), "digit", "train", tmp_path).columns
    assert [len(columns[name].media) for name in MODALITIES] == [2, 1, 1, 1, 3]
    assert columns["left"].media.dtype == np.uint8


def test_only_the_records_of_the_tasks_that_are_named(data, tmp_path):
    cases = read_cases(decide(data, record_tasks=["other"]), "digit", "heldout", tmp_path)
    assert cases.prompt_ids == ("clip",)
    with pytest.raises(DataError, match=r"tasks.digit.record_tasks=\['no'\]: .* only other, t; change the key"):
        read_cases(decide(data, record_tasks=["no"]), "digit", "train", tmp_path)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"label": "ansver"}, r"3 of 3 rows .*\n.*both\): extras has no 'ansver'; it has answer, box"),
        ({"classes": ["3", "8"]}, r"1 of 3 rows .*\n.*two\): its answer '7' is none of the classes; .*record_tasks"),
    ],
)
def test_rows_without_a_usable_label_are_listed(data, tmp_path, keys, message):
    with pytest.raises(DataError, match="tasks.digit.train: " + message):
        read_cases(decide(data, **keys), "digit", "train", tmp_path)


def test_boxes_score_their_overlap_with_the_true_one(data, tmp_path):
    grid = {"columns": 2, "rows": 2, "width": 0.5, "height": 0.5}
    task = {"kind": "locate", "modality": "left", "grid": grid, "record_tasks": ["t"], **data}
    cfg = job(tasks={"place": task}, observation={"modalities": MODALITIES})
    cases = read_cases(cfg, "place", "train", tmp_path)
    # Left half against quarters: each left quarter shares 1/2 with it. Lower right quarter: itself.
    np.testing.assert_allclose(cases.scores, [[0.5, 0, 0.5, 0], [0, 0, 0, 1]], atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROWS[2]], "it shows no picture that a box could be on"),
        ([row("a", [DIGITS[0]], {"box": [0, 0, 17, 4]})], r"its box is \[0, 0, 17, 4\], expected .* within 16 × 16"),
        ([row("a", [DIGITS[0]], {"box": [4, 0, 4, 4]})], r"x1 < x2"),
        ([row("a", [DIGITS[0]], {"bbox": [0, 0, 4, 4]})], r"its box is None, .*extras has bbox"),
    ],
)
def test_rows_without_a_usable_box_are_listed(tmp_path, rows, message):
    task = {"kind": "locate", "modality": "left", **write(tmp_path / "data", rows)}
    cfg = job(tasks={"place": task}, observation={"modalities": MODALITIES})
    with pytest.raises(DataError, match=message):
        read_cases(cfg, "place", "train", tmp_path)


def test_f1_of_sets_of_words():
    classes = ["cat dog", "cat", "bird"]
    np.testing.assert_allclose(class_scores("dog cat", classes, "f1"), [1, 2 / 3, 0])
    np.testing.assert_allclose(class_scores("dog cat", classes, "accuracy"), [0, 0, 0])
    np.testing.assert_allclose(class_scores("cat bird", classes, "f1"), [0.5, 2 / 3, 2 / 3])


def test_words_go_into_the_same_buckets_everywhere():
    modality = TextModality(words=4, buckets=11)
    # CRC-32 of "hello" is 0x3610a686.
    assert text_array("Hello", modality).tolist() == [1 + 0x3610A686 % 10, 0, 0, 0]
    assert text_array("a b c d e", modality).tolist() == text_array("a b c d", modality).tolist()


def test_text_of_messages():
    parts = [{"type": "image"}, {"type": "text", "text": "b"}]
    assert message_text(json.dumps([{"role": "system", "content": "a"}, {"role": "user", "content": parts}])) == "a b"


def test_sound_is_cut_off_or_filled_up():
    modality = AudioModality(seconds=0.1, sampling_rate=100, front_end=FrontEnd(kind="waveform", bands=1))
    np.testing.assert_array_equal(sound_array(np.full(4, 2.0), modality), [1] * 4 + [0] * 6)
    np.testing.assert_array_equal(sound_array(np.arange(20) / 20, modality), np.float32(np.arange(10) / 20))


def test_frames_are_taken_evenly_over_the_clip():
    frames = np.arange(9, dtype=np.uint8)[:, None, None, None] * np.ones((9, 2, 2, 3), np.uint8)
    modality = VideoModality(frames=3, height=2, width=2)
    assert clip_array(frames, modality)[:, 0, 0, 0].tolist() == [0, 4, 8]
    assert clip_array(frames[:1], modality)[:, 0, 0, 0].tolist() == [0, 0, 0]


def test_colours_come_as_channels_first():
    picture = Image.new("RGB", (3, 2), (255, 128, 0))
    assert picture_array(picture, ImageModality(height=2, width=3, channels=3))[:, 0, 0].tolist() == [255, 128, 0]


def test_a_row_says_which_decisions_do_harm(tmp_path: Path) -> None:
    def costs(**keys: Any) -> np.ndarray | None:
        rows = [row("a", [], {"answer": "yes", "harm": ["no", "wait"]}), row("b", [], {"answer": "no"})]
        if "extras" in keys:
            rows.append(row("c", [], {"answer": "no", "harm": keys.pop("extras")}))
        task = {"kind": "decide", "classes": ["yes", "no", "wait"], **write(tmp_path / str(len(rows)), rows)}
        cfg = job(tasks={"t": task}, algorithm={"kind": "ppo"}, **keys)
        return costs_of(cfg, "t", "train", read_records(cfg.tasks["t"].train, PROMPT, tmp_path))

    bounded = {"reward": {"cost": {"bound": 0.1}}}
    found = costs(**bounded)
    assert found is not None
    assert found.tolist() == [[0, 1, 1], [0, 0, 0]]
    assert costs() is None
    for wrong in (["maybe"], "no"):
        with pytest.raises(DataError, match=r"tasks\.t\.train: 1 of 3 rows.*(?s:.*)harm names .*list of its task's"):
            costs(extras=wrong, **bounded)
