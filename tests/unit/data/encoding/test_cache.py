"""What was used last is kept, within its bounds; a clip once for all prompts; what is spilled comes back whole."""

import os
from pathlib import Path

import numpy as np
import pytest

from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.data.encoding import cache as module
from mmrlhf_ray.data.encoding.cache import FeatureCache, PromptCache, SpillDirectory, check_spill_dir, fingerprint
from mmrlhf_ray.data.encoding.encode import EncodedPrompt
from mmrlhf_ray.errors import ConfigError, RunFailed


def array(nbytes: int, value: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.full(nbytes, value, np.uint8)}


def fill(cache: FeatureCache, *items: tuple[str, int]) -> None:
    for key, nbytes in items:
        if cache.get(key) is None:
            cache.put(key, array(nbytes))


def missing(cache: FeatureCache, *keys: str) -> list[str]:
    return [key for key in keys if cache.get(key) is None]


def test_the_least_recently_used_goes_first() -> None:
    cache = FeatureCache(100)
    fill(cache, ("a", 40), ("b", 40), ("a", 40), ("c", 40))
    assert missing(cache, "a", "b", "c") == ["b"]


def test_as_many_go_as_must_and_exactly_full_is_not_too_full() -> None:
    cache = FeatureCache(100)
    fill(cache, ("a", 50), ("b", 50))
    assert missing(cache, "a", "b") == []
    fill(cache, ("c", 90))
    assert missing(cache, "a", "b", "c") == ["a", "b"]


def test_one_larger_than_the_bound_is_served_and_makes_way() -> None:
    cache = FeatureCache(100)
    fill(cache, ("a", 500))
    assert missing(cache, "a") == []
    fill(cache, ("b", 10))
    assert missing(cache, "a", "b") == ["a"]


def test_part_of_a_large_array_does_not_keep_the_rest() -> None:
    cache = FeatureCache(100)
    cache.put("a", {"x": np.zeros(10_000, np.uint8)[:10]})
    (kept,) = cache.get("a").values()  # type: ignore[union-attr]
    assert kept.base is None
    assert kept.nbytes == 10


# Prompts


class Processor:
    """Counts what it encodes."""

    def __init__(self) -> None:
        self.calls = 0

    def encode(self, *media_ids: str) -> EncodedPrompt:
        self.calls += 1
        features = {m: {"x": np.arange(10, dtype=np.float32) + ord(m)} for m in media_ids}
        return EncodedPrompt([1, 2, 3], [1, 3], features)


def test_a_prompt_is_encoded_once_and_a_clip_kept_once() -> None:
    processor, cache = Processor(), PromptCache(1000)
    one = cache.get("first", ["a", "b"], lambda: processor.encode("a", "b"))
    two = cache.get("second", ["b"], lambda: processor.encode("b"))
    again = cache.get("first", ["a", "b"], lambda: processor.encode("a", "b"))
    assert processor.calls == cache.misses == 2
    assert (again.token_ids, again.collapsed_token_ids) == (one.token_ids, one.collapsed_token_ids)
    assert all((again.features[m]["x"] == one.features[m]["x"]).all() for m in "ab")
    shared = cache.get("second", ["b"], lambda: processor.encode("b"))
    assert shared.features["b"]["x"] is again.features["b"]["x"]
    assert two.features["b"]["x"].tolist() == shared.features["b"]["x"].tolist()


def test_same_text_with_other_media_is_another_prompt() -> None:
    processor, cache = Processor(), PromptCache(1000)
    for media_id in "ab":
        found = cache.get("same", [media_id], lambda m=media_id: processor.encode(m))  # type: ignore[misc]
        assert list(found.features) == [media_id]
    assert processor.calls == 2


def test_a_prompt_whose_clip_has_gone_is_encoded_again() -> None:
    processor, cache = Processor(), PromptCache(60)
    for text, media_id in (("one", "a"), ("two", "b"), ("one", "a")):
        cache.get(text, [media_id], lambda m=media_id: processor.encode(m))  # type: ignore[misc]
    assert processor.calls == 3


# On disk


def test_spilled_features_come_back_equal(tmp_path: Path) -> None:
    processor = Processor()
    for _ in range(2):  # the second time all is on disk
        cache = PromptCache(1, "f", SpillDirectory(tmp_path, 1 << 20))
        for media_id in "abcab":
            found = cache.get(media_id, [media_id], lambda m=media_id: processor.encode(m))  # type: ignore[misc]
            assert found.token_ids == [1, 2, 3]
            assert found.features[media_id]["x"].tolist() == [n + ord(media_id) for n in range(10)]
        cache.get("end", [], lambda: EncodedPrompt([], [], {}))
    assert processor.calls == 3


def test_another_fingerprint_finds_nothing(tmp_path: Path) -> None:
    processor = Processor()
    for name in ("f", "g"):
        cache = PromptCache(1, name, SpillDirectory(tmp_path, 1 << 20))
        for media_id in "ab":
            cache.get(media_id, [media_id], lambda m=media_id: processor.encode(m))  # type: ignore[misc]
    assert processor.calls == 4


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, damage: str) -> None:
    spill = SpillDirectory(tmp_path, 1 << 20)
    spill.put("k", array(1000, 7))
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"cut": content[:-100], "flip": content, "empty": b""}[damage])
    assert spill.get("k") is None
    assert not path.exists()
    spill.put("k", array(1000, 7))
    assert spill.get("k")["x"].tolist() == [7] * 1000  # type: ignore[index]


def test_the_disk_is_bounded_too(tmp_path: Path) -> None:
    spill = SpillDirectory(tmp_path, 20_000)
    for number, key in enumerate("abcdef"):
        spill.put(key, array(5_000))
        os.utime(tmp_path / f"{key}.features", (number, number))
        assert spill.get("a") is not None, "in use"
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 20_000
    assert spill.get("b") is None
    assert spill.get("f") is not None


def test_files_that_another_process_deletes_are_only_missing(tmp_path: Path) -> None:
    spill = SpillDirectory(tmp_path, 12_000)
    spill.put("a", array(5_000))
    (tmp_path / "a.features").unlink()
    assert spill.get("a") is None
    for key in "bcd":
        spill.put(key, array(5_000))
    assert spill.get("d") is not None


def test_no_half_written_file_is_left_or_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    spill = SpillDirectory(tmp_path, 1 << 20)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(RunFailed, match="no room left .* set data.spill_dir to another disk"):
            spill.put("a", array(10))
    assert SpillDirectory(tmp_path, 1 << 20).get("a") is None
    assert list(tmp_path.iterdir()) == []


def test_preflight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(path="x.jsonl", spill_dir=str(tmp_path / "spill"), spill_mb=1)
    check_spill_dir(DataConfig(path="x.jsonl"))
    check_spill_dir(config)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="spill_dir .*file cannot be written to"):
        check_spill_dir(config.model_copy(update={"spill_dir": str(tmp_path / "file")}))
    with pytest.raises(ConfigError, match="MiB are free, .* MiB needed"):
        check_spill_dir(config.model_copy(update={"spill_mb": 1 << 40}))
    usage = type("Usage", (), {"total": 1000 << 20, "free": 40 << 20})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(ConfigError, match="40 MiB are free, 51 MiB needed"):
        check_spill_dir(config)


def test_the_fingerprint_is_that_of_what_encodes(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("weights")
    config = DataConfig(path="x.jsonl")
    first = fingerprint(str(tmp_path), config)
    (tmp_path / "model.safetensors").write_text("other weights")
    assert fingerprint(str(tmp_path), config.model_copy(update={"path": "y.jsonl"})) == first
    assert fingerprint(str(tmp_path), config.model_copy(update={"max_prompt_tokens": 5})) != first
    assert fingerprint(str(tmp_path), config, [{"function": {"name": "crop"}}]) != first
    (tmp_path / "preprocessor_config.json").write_text('{"size": 1}')
    assert fingerprint(str(tmp_path), config) != first
