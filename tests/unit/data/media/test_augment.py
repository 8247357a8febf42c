"""Seeded changes of media: the same seed gives the same bytes, and nothing else is touched."""

import io

import numpy as np
import pytest
from PIL import Image

from mmrlhf_ray.config.data import AugmentConfig, DataConfig
from mmrlhf_ray.data.media import decode_audio, decode_image, decode_video, media_id, media_row
from mmrlhf_ray.data.media.augment import augment
from tests.unit.tiny import picture, raw

ALL = {
    "image": {"crop": 0.3, "flip": 0.5, "colour": 0.2},
    "audio": {"noise_db": 20, "gain_db": 6},
    "video": {"jitter": 0.5},
}


def data(changes=ALL, **others):
    return DataConfig(path="x", augment=AugmentConfig(tasks=("looks",), **changes), **others)


def record(rows, task="looks"):
    return {"prompt_id": "p", "task": task, "media_ids": [row["media_id"] for row in rows], "messages": "[]"}


@pytest.fixture(scope="module")
def rows():
    return [media_row(kind, raw(kind, 2).data) for kind in ("image", "audio", "video")]


def ids(rows, config, seed):
    return augment(record(rows), rows, config, seed)[0]["media_ids"]


def test_new_media_are_rows_of_their_own(rows):
    before = record(rows)
    after, made = augment(before, rows, data(), (7, 0, 3))
    assert after["media_ids"] == [row["media_id"] for row in made]
    assert not set(after["media_ids"]) & set(before["media_ids"])
    assert all(row["media_id"] == media_id(row["data"]) for row in made)
    assert [row["kind"] for row in made] == ["image", "audio", "video"]
    assert {k: v for k, v in after.items() if k != "media_ids"} == {k: v for k, v in before.items() if k != "media_ids"}
    assert before["media_ids"] == [row["media_id"] for row in rows]


def test_the_seed_says_everything(rows):
    first = ids(rows, data(), (7, 0, 3))
    assert ids(rows, data(), (7, 0, 3)) == first
    for other in ((8, 0, 3), (7, 1, 3), (7, 0, 4)):
        assert not set(ids(rows, data(), other)[:2]) & set(first), other  # four frames may be jittered alike


def test_each_place_is_changed_on_its_own(rows):
    twice = [rows[0], rows[0]]
    a, b = ids(twice, data(), (1, 0, 0))
    assert a != b


def test_other_tasks_and_no_configuration_change_nothing(rows):
    for config, task in ((data(), "reads"), (DataConfig(path="x"), "looks")):
        before = record(rows, task)
        after, kept = augment(before, rows, config, (7, 0, 3))
        assert after is before
        assert kept == rows


def test_kinds_that_nothing_is_asked_of_stay(rows):
    _, made = augment(record(rows), rows, data({"audio": {"gain_db": 3}}), (7, 0, 3))
    assert [a == b for a, b in zip(made, rows, strict=True)] == [True, False, True]


def changed(row, changes, seed=(1, 2, 3), **others):
    return augment(record([row]), [row], data(changes, **others), seed)[1][0]["data"]


def gradient():
    columns = np.linspace(0, 255, 64).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.tile(columns, (48, 1))[..., None].repeat(3, -1)).save(buffer, "PNG")
    return media_row("image", buffer.getvalue())


def test_crop_cuts_off_no_more_than_it_may():
    sizes = [decode_image(changed(gradient(), {"image": {"crop": 0.25}}, (0, 0, n))).size for n in range(20)]
    assert len(set(sizes)) > 10
    assert all(48 <= width <= 64 and 36 <= height <= 48 for width, height in sizes)


def test_flip_mirrors_always_or_never_or_sometimes():
    image = np.asarray(decode_image(gradient()["data"]))
    assert np.array_equal(np.asarray(decode_image(changed(gradient(), {"image": {"flip": 1}}))), image[:, ::-1])
    seen = {changed(gradient(), {"image": {"flip": 0.5}}, (0, 0, n)) for n in range(20)}
    assert len(seen) == 2


def test_colour_stays_within_its_range():
    grey = io.BytesIO()
    Image.new("RGB", (8, 8), (100, 100, 100)).save(grey, "PNG")
    row = media_row("image", grey.getvalue())
    values = [decode_image(changed(row, {"image": {"colour": 0.2}}, (0, 0, n))).getpixel((0, 0))[0] for n in range(20)]
    assert len(set(values)) > 5
    assert all(80 <= value <= 120 for value in values)


def test_gain_is_in_decibels(wav, tone):
    row = media_row("audio", wav(tone(440, 22_050, amplitude=0.2), 22_050))
    gains = []
    for n in range(20):
        samples = decode_audio(changed(row, {"audio": {"gain_db": 6}}, (0, 0, n)), None)
        assert len(samples) == 22_050  # at its own rate
        gains.append(20 * np.log10(np.abs(samples).max() / 0.2))
    assert min(gains) >= -6.1
    assert max(gains) <= 6.1
    assert max(gains) - min(gains) > 3


def test_noise_lies_so_many_decibels_below_the_sound(wav, tone):
    clean = tone(440, 16_000, seconds=2)
    got = decode_audio(changed(media_row("audio", wav(clean)), {"audio": {"noise_db": 20}}), None)
    ratio = 10 * np.log10(np.mean(clean.astype(float) ** 2) / np.mean((got - clean).astype(float) ** 2))
    assert ratio == pytest.approx(20, abs=0.5)


def test_silence_stays_silent(wav):
    got = decode_audio(changed(media_row("audio", wav(np.zeros(1_000, np.float32))), {"audio": {"noise_db": 10}}), None)
    assert not got.any()


@pytest.mark.parametrize("sampling", [{}, {"fps": 3}, {"max_frames": 3}])
def test_jitter_only_replaces_frames_by_neighbours(sampling):
    row = media_row("video", raw("video", 2).data)
    config = data({"video": {"jitter": 1}}, video=sampling)
    before = decode_video(row["data"], sampling=config.video)
    after = decode_video(changed(row, {"video": {"jitter": 1}}, video=sampling), sampling=config.video)
    assert (len(after), after.total / after.fps) == (len(before), pytest.approx(before.total / before.fps, rel=0.5))
    for place, frame in enumerate(after.frames):
        around = before.frames[max(0, place - 1) : place + 2]
        assert any(np.array_equal(frame, other) for other in around), place


def test_broken_media_say_so(rows):
    broken = {**rows[0], "data": picture(1)[:40]}
    with pytest.raises(ValueError, match=r"cut off|broken"):
        augment(record([broken]), [broken], data(), (0, 0, 0))
