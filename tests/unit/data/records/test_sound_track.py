"""`data.video.sound`: the sound of a clip follows it as an audio of its own."""

import io
import json

import av
import numpy as np
import pytest

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.encoding.encode import RawMedia, encode_prompt
from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.media import decode_audio, decode_sound_track, media_id, media_row
from mmrlhf_ray.data.records.readers import read_records, write_records
from mmrlhf_ray.data.records.sound_track import with_sound_tracks
from mmrlhf_ray.data.validate import Shown, conversation
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.schema import PROMPT
from tests.unit.tiny import noise, picture, raw


@pytest.fixture(scope="module")
def talking(tone):
    """A clip with a sound track."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=4)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=48_000, layout="mono")
        for shade in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * shade, np.uint8), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(tone(440, 48_000)[None], format="fltp", layout="mono")
        sound.sample_rate = 48_000
        for block in av.AudioResampler(format=audio.format, frame_size=1024).resample(sound):
            container.mux(audio.encode(block))
        container.mux(audio.encode(None))
    return buffer.getvalue()


@pytest.fixture
def file(tmp_path, talking):
    for name, data in {
        "a.mp4": talking,
        "mute.webm": raw("video", 1).data,
        "i.png": picture(1),
        "s.wav": noise(1, 0.2),
    }.items():
        (tmp_path / name).write_bytes(data)
    rows = [
        {"prompt": "<video> who <image> talks <video>?", "videos": ["a.mp4", "mute.webm"], "images": ["i.png"]},
        {"prompt": "<video><audio> same?", "videos": ["a.mp4"], "audios": ["s.wav"]},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def shown(record):
    return [part["type"] for part in json.loads(record["messages"])[0]["content"]]


def test_sounds_stand_behind_their_clips(file, talking, tmp_path):
    read = read_records(DataConfig(path=str(file), format="mmrlhf", video={"sound": True}), PROMPT, tmp_path)
    first, second = read.records.to_pylist()
    assert shown(first) == ["video", "audio", "text", "image", "text", "video", "text"]
    assert shown(second) == ["video", "audio", "audio", "text"]
    sound = media_id(decode_sound_track(talking))
    assert first["media_ids"][1] == second["media_ids"][1] == sound
    assert second["media_ids"][2] == media_id(noise(1, 0.2))
    assert first["modality"] == "image+audio+video"
    (stored,) = [row for row in read.media.to_pylist() if row["media_id"] == sound]
    assert (stored["kind"], stored["mime"]) == ("audio", "audio/wav")
    samples = decode_audio(stored["data"], 16_000)
    assert np.argmax(np.abs(np.fft.rfft(samples))) * 16_000 / len(samples) == pytest.approx(440, abs=2)


def test_without_it_nothing_is_added(file, tmp_path):
    read = read_records(DataConfig(path=str(file), format="mmrlhf"), PROMPT, tmp_path)
    assert [shown(record).count("audio") for record in read.records.to_pylist()] == [0, 1]


def test_records_that_have_them_get_no_second(file, tmp_path):
    config = {"format": "mmrlhf", "video": {"sound": True}}
    read = read_records(DataConfig(path=str(file), **config), PROMPT, tmp_path)
    write_records(tmp_path / "written", read.records, read.media)
    again = read_records(DataConfig(path=str(tmp_path / "written"), **config), PROMPT, tmp_path)
    assert again.records.to_pylist() == read.records.to_pylist()
    assert sorted(again.media["media_id"].to_pylist()) == sorted(read.media["media_id"].to_pylist())


def test_stored_clips_get_their_sounds_too(file, tmp_path):
    mute = read_records(DataConfig(path=str(file), format="mmrlhf"), PROMPT, tmp_path)
    write_records(tmp_path / "written", mute.records, mute.media)
    config = DataConfig(path=str(tmp_path / "written"), format="mmrlhf", video={"sound": True})
    read = read_records(config, PROMPT, tmp_path)
    assert [shown(record).count("audio") for record in read.records.to_pylist()] == [1, 2]
    assert {i for ids in read.records["media_ids"].to_pylist() for i in ids} == set(read.media["media_id"].to_pylist())


def test_a_damaged_track_costs_its_row(talking):
    clip = media_row("video", talking[:-400])
    messages, _ = conversation({"prompt": "<video>", "videos": ["a.mp4"]})
    config = DataConfig(path="x", video={"sound": True})
    with pytest.raises(RowError, match="sound track of video a.mp4: .*cut off"):
        with_sound_tracks(messages, [Shown("video", clip["media_id"], "a.mp4")], lambda _: clip, config)


def test_a_family_without_audio_says_so(file, tmp_path, vl_encoder):
    read = read_records(DataConfig(path=str(file), format="mmrlhf", video={"sound": True}), PROMPT, tmp_path)
    clips = {r["media_id"]: RawMedia(r["media_id"], r["kind"], r["data"]) for r in read.media.to_pylist()}
    record = read.records.to_pylist()[1]
    with pytest.raises(ValueError, match="model family qwen2_5_vl takes image, video, got audio"):
        encode_prompt(vl_encoder, record["messages"], [clips[i] for i in record["media_ids"]])


def test_damage_stops_the_run_with_file_and_row(file, tmp_path, talking):
    (tmp_path / "a.mp4").write_bytes(talking[:-400])
    with pytest.raises(DataError, match=r"rows.jsonl, line 1.*cut off"):
        read_records(DataConfig(path=str(file), format="mmrlhf", video={"sound": True}), PROMPT, tmp_path)
