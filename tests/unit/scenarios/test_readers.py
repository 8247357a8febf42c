"""What the recipes read from public layouts: each from its own stand-in, cut down by hand, and from broken ones."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.scenarios import captioning, driving, emotion, medical, questions, service, watching
from mmrlhf_ray.scenarios.cases import write_cases
from mmrlhf_ray.schema import PROMPT


def _drive(root: Path, speeds: list[float], yaw: float) -> None:
    drive = root / "2011_09_26" / "2011_09_26_drive_0001_sync"
    for place in ("image_02", "velodyne_points", "oxts"):
        (drive / place / "data").mkdir(parents=True)
    for frame, speed in enumerate(speeds):
        motion = [0.0] * 30
        motion[8], motion[19] = speed, yaw
        (drive / "oxts" / "data" / f"{frame:010d}.txt").write_text(" ".join(map(str, motion)))
        (drive / "image_02" / "data" / f"{frame:010d}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        np.array([[10.5, 0.5, 0.0, 0.3]], np.float32).tofile(drive / "velodyne_points" / "data" / f"{frame:010d}.bin")


@pytest.mark.parametrize(
    ("speeds", "yaw", "done"),
    [
        ([9.0] * 11, 0.0, "keep"),
        ([9.0 + 0.2 * i for i in range(11)], 0.0, "accelerate"),
        ([9.0 - 0.2 * i for i in range(11)], 0.2, "brake"),
        ([9.0] * 11, 0.1, "left"),
        ([9.0] * 11, -0.1, "right"),
    ],
)
def test_a_decision_is_what_the_driver_did_in_the_second_that_follows(
    tmp_path: Path, speeds: list[float], yaw: float, done: str
) -> None:
    _drive(tmp_path, speeds, yaw)
    (case,) = driving.read(tmp_path)
    assert (case.answer, case.text, case.group) == (done, "speed 9", "fast")
    assert [medium["kind"] for medium in case.media] == ["image", "image"]


def test_what_stands_on_the_road_is_seen_from_above_where_it_is() -> None:
    seen = driving.from_above(np.array([[10.5, 0.5, 0.0, 0.3], [10.5, 0.5, -1.7, 0.3], [99.0, 0.0, 0.0, 0.3]]))
    assert seen.shape == (40, 24)
    assert np.argwhere(seen).tolist() == [[29, 11]]


def test_a_clip_is_what_its_name_says_with_its_sound(tmp_path: Path) -> None:
    made = tmp_path / "made"
    watching.make(made, 3, clips=9)
    chosen = sorted(made.glob("*.mp4"))[::3]
    few = tmp_path / "few"
    few.mkdir()
    for path in chosen:
        shutil.copy(path, few)
    cases = list(watching.read(few))
    assert [case.name for case in cases] == [path.stem for path in chosen]
    for case in cases:
        assert watching.NAMES[case.name.partition("_label_")[2].split("-")[0]] == case.answer
        assert [medium["kind"] for medium in case.media] == ["video", "audio"]
    chosen[0].rename(few / "film_label_C.mp4")
    with pytest.raises(DataError, match="film_label_C.*_label_ and one of A, B1"):
        list(watching.read(few))


def test_nobody_can_be_told_from_a_medical_record(tmp_path: Path) -> None:
    medical.make(tmp_path / "public", 0, patients=60)
    cases = list(medical.read(tmp_path / "public"))
    patients = {path.stem for path in (tmp_path / "public" / "stage_2_train_images").iterdir()}
    write_cases(tmp_path, "medical", cases)
    said, people = "", 0
    for part in ("train", "heldout"):
        read = read_records(DataConfig(path=str(tmp_path / part)), PROMPT, tmp_path)
        said += json.dumps(read.records.to_pylist())
        people += len(read.records)
    assert people == len(patients) == len(cases)
    assert "Doe" not in said
    assert not any(patient in said for patient in patients)
    assert {case.answer for case in cases} == {"normal", "other", "opacity"}
    assert all(int(case.text.split()[0].removeprefix("age")) % 10 == 0 for case in cases)


@pytest.mark.parametrize(
    "read",
    [captioning.read, driving.read, emotion.read, medical.read, questions.read, service.read, watching.read],
)
def test_another_directory_is_refused_by_its_name(read: object, tmp_path: Path) -> None:
    assert callable(read)
    with pytest.raises(DataError, match=rf"{tmp_path}: expected "):
        list(read(tmp_path))


def test_no_source_is_in_both_parts_and_none_is_empty(tmp_path: Path) -> None:
    _drive(tmp_path, [9.0] * 31, 0.0)
    cases = list(driving.read(tmp_path))
    assert len({case.part for case in cases}) == 1
    with pytest.raises(DataError, match=r"5 cases of 1 sources leave none for"):
        write_cases(tmp_path / "out", "driving", cases)
