"""The digits that are written and dialled, and the digits to be found: what is on disk, and how hard it is."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression

from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.data.media import decode_audio, decode_image
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.demo import discrete_data
from mmrlhf_ray.demo.discrete_data import LINE_RATE, Sizes, build, dialled
from mmrlhf_ray.schema import PROMPT

_LOW, _HIGH = (697, 770, 852, 941), (1209, 1336, 1477)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    path = tmp_path_factory.mktemp("discrete-data")
    build(path, seed=0, sizes=Sizes(train=40, heldout=20))
    return path


def test_the_directories_are_read_back_and_no_scan_is_in_two_splits(out, tmp_path):
    for name, kinds in (("digits", "image+audio"), ("boxes", "image")):
        sources = {}
        for split, count in (("train", 40), ("heldout", 20)):
            read = read_records(DataConfig(path=str(out / name / split)), PROMPT, tmp_path)
            assert len(read.records) == count
            assert set(read.records.column("modality").to_pylist()) == {kinds}
            extras = [json.loads(text) for text in read.records.column("extras").to_pylist()]
            sources[split] = {extra["source"] for extra in extras}
            assert sorted(extra["answer"] for extra in extras) == sorted(str(i % 10) for i in range(count))
        assert not sources["train"] & sources["heldout"]


def test_the_same_seed_gives_the_same_bytes(out, tmp_path):
    build(tmp_path, seed=0, sizes=Sizes(train=40, heldout=20))
    for file in ("digits/train/records.parquet", "boxes/heldout/media.parquet"):
        assert pq.read_table(out / file).equals(pq.read_table(tmp_path / file))
    build(tmp_path / "other", seed=1, sizes=Sizes(train=40, heldout=20))
    file = "digits/train/media.parquet"
    assert not pq.read_table(out / file).equals(pq.read_table(tmp_path / "other" / file))


def test_the_box_is_where_the_ink_is(out):
    records = pq.read_table(out / "boxes/train/records.parquet").to_pylist()
    media = {m["media_id"]: m["data"] for m in pq.read_table(out / "boxes/train/media.parquet").to_pylist()}
    for record in records:
        x1, y1, x2, y2 = json.loads(record["extras"])["box"]
        pixels = np.asarray(decode_image(media[record["media_ids"][0]]).convert("L"), float)
        inside = np.zeros(pixels.shape, bool)
        inside[y1:y2, x1:x2] = True
        assert pixels[inside].mean() > pixels[~inside].mean() + 20


def test_a_tone_is_of_its_digit_unless_a_sine_is_lost(monkeypatch):
    def powers(data):
        wave = decode_audio(data, LINE_RATE)
        time = np.arange(len(wave)) / LINE_RATE
        return [abs(np.exp(-2j * np.pi * f * time) @ wave) for f in (*_LOW, *_HIGH)]

    monkeypatch.setattr(discrete_data, "TONE_NOISE", 0.0)
    rng = np.random.default_rng(0)
    monkeypatch.setattr(discrete_data, "FADED", 0.0)
    for digit, (low, high) in {1: (0, 0), 6: (1, 2), 0: (3, 1)}.items():
        heard = powers(dialled(digit, rng))
        assert (np.argmax(heard[:4]), np.argmax(heard[4:])) == (low, high)
    monkeypatch.setattr(discrete_data, "FADED", 1.0)
    lost = set()
    for _ in range(20):
        heard = powers(dialled(6, rng))
        low, high = heard[1], heard[6]
        assert max(low, high) > 20 * min(low, high)
        lost.add("low" if low < high else "high")
    assert lost == {"low", "high"}


def test_lost_sines_keep_anyone_from_being_right_too_often():
    """A linear classifier on spectra, which tells whole tones apart nearly always, stays near the ceiling."""

    def spectra(count, rng):
        waves = [decode_audio(dialled(i % 10, rng), LINE_RATE) for i in range(count)]
        size = min(map(len, waves))
        return np.log(np.abs(np.fft.rfft([w[:size] for w in waves]))[:, 240:640].reshape(count, 100, 4).max(axis=2))

    rng = np.random.default_rng(0)
    learned = LogisticRegression(C=0.01, max_iter=200).fit(spectra(1500, rng), np.arange(1500) % 10)
    assert 0.7 < learned.score(spectra(500, rng), np.arange(500) % 10) <= 0.88
