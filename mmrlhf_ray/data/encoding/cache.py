"""Processor outputs, kept once per clip and once per prompt: in memory up to a bound, then on disk up to another."""

import hashlib
import json
import logging
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.encoding.encode import EncodedPrompt, Features
from mmrlhf_ray.data.encoding.features import features_table, read_features
from mmrlhf_ray.disk import writing
from mmrlhf_ray.errors import ConfigError, RunFailed

logger = logging.getLogger(__name__)

_SUFFIX = ".features"
_DIGEST_BYTES = 32
_ROOM_SHARE = 0.05
"""Of a disk that must be free: others write there, too."""
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")


class SpillDirectory:
    """Features in files that are named by their keys; the least recently used are deleted first.

    Several processes may share a directory: files appear complete, and one that another has deleted is only missing.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self._max_bytes = directory, max_bytes
        self._bytes = sum(size for _, size, _ in self._files())

    def get(self, key: str) -> Features | None:
        """The entry put under `key`; None where there is none, or only part of one."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        payload = content[_DIGEST_BYTES:]
        if hashlib.sha256(payload).digest() != content[:_DIGEST_BYTES]:
            logger.warning("%s is damaged; its features are computed anew", path)
            path.unlink(missing_ok=True)
            return None
        with suppress(FileNotFoundError):
            os.utime(path)
        return read_features(pa.ipc.open_stream(payload).read_all())[key]

    def put(self, key: str, features: Features) -> None:
        path = self._path(key)
        if path.exists():
            return
        table = features_table({key: features})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        payload = sink.getvalue().to_pybytes()
        temporary = path.with_suffix(f".{os.getpid()}")
        try:
            with writing(path, "data.spill_dir"):
                temporary.write_bytes(hashlib.sha256(payload).digest() + payload)
                temporary.replace(path)
        except RunFailed:
            temporary.unlink(missing_ok=True)
            raise
        self._bytes += len(payload) + _DIGEST_BYTES
        if self._bytes > self._max_bytes:
            self._make_room()

    def _make_room(self) -> None:
        files = sorted(self._files())
        self._bytes = sum(size for _, size, _ in files)
        for _, size, path in files:
            if self._bytes <= self._max_bytes:
                return
            path.unlink(missing_ok=True)
            self._bytes -= size

    def _files(self) -> Iterable[tuple[float, int, Path]]:
        """(time of last use, bytes, path) of each file."""
        for path in self._directory.glob(f"*{_SUFFIX}"):
            try:
                about = path.stat()
            except FileNotFoundError:
                continue
            yield about.st_mtime, about.st_size, path

    def _path(self, key: str) -> Path:
        return self._directory / f"{key}{_SUFFIX}"


class FeatureCache:
    """Arrays by key, least recently used first out, at most `max_bytes` in memory; what goes is spilled."""

    def __init__(self, max_bytes: int, spill: SpillDirectory | None = None) -> None:
        self._max_bytes, self._spill = max_bytes, spill
        self._bytes = 0
        self._items: OrderedDict[str, Features] = OrderedDict()

    def get(self, key: str) -> Features | None:
        if key in self._items:
            self._items.move_to_end(key)
            return self._items[key]
        found = self._spill.get(key) if self._spill else None
        if found is not None:
            self.put(key, found)
        return found

    def put(self, key: str, features: Features) -> None:
        if key in self._items:
            self._items.move_to_end(key)
            return
        # Copies, as a clip's part of the processor's output would keep all of that alive.
        own = {name: value.copy() if value.base is not None else value for name, value in features.items()}
        self._items[key] = own
        self._bytes += _size(own)
        while self._bytes > self._max_bytes and len(self._items) > 1:
            old_key, old = self._items.popitem(last=False)
            self._bytes -= _size(old)
            if self._spill:
                self._spill.put(old_key, old)


class PromptCache:
    """Encoded prompts. A clip's features are kept once, however many prompts show it."""

    def __init__(self, max_bytes: int, fingerprint: str = "", spill: SpillDirectory | None = None) -> None:
        self._cache = FeatureCache(max_bytes, spill)
        self._fingerprint = fingerprint
        self.misses = 0

    def get(self, messages: str, media_ids: Sequence[str], encode: Callable[[], EncodedPrompt]) -> EncodedPrompt:
        """The cached prompt, or a fresh one."""
        key = self._key(hashlib.sha256("\n".join([messages, *media_ids]).encode()).hexdigest())
        tokens = self._cache.get(key)
        features = {media_id: self._cache.get(self._key(media_id)) for media_id in media_ids} if tokens else {}
        found = {media_id: own for media_id, own in features.items() if own is not None}
        if tokens is not None and len(found) == len(features):
            return EncodedPrompt(tokens["token_ids"].tolist(), tokens["collapsed_token_ids"].tolist(), found)
        self.misses += 1
        fresh = encode()
        for media_id, own in fresh.features.items():
            self._cache.put(self._key(media_id), own)
        tokens = {name: np.asarray(getattr(fresh, name), np.int32) for name in ("token_ids", "collapsed_token_ids")}
        self._cache.put(key, tokens)
        return fresh

    def _key(self, name: str) -> str:
        return f"{name}-{self._fingerprint}"


def prompt_cache(model_path: str, config: DataConfig, tools: Sequence[Mapping[str, Any]] = ()) -> PromptCache:
    """The cache that the configuration asks for. `tools`: JSON schemas of those that prompts describe."""
    spill = SpillDirectory(Path(config.spill_dir), config.spill_mb << 20) if config.spill_dir else None
    return PromptCache(config.encoder_cache_mb << 20, fingerprint(model_path, config, tools), spill)


def fingerprint(model_path: str, config: DataConfig, tools: Sequence[Mapping[str, Any]] = ()) -> str:
    """What, besides prompt and media, decides how prompts are encoded: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted(Path(model_path).iterdir()):
        if path.is_file() and not path.name.endswith((*_WEIGHTS, ".index.json")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    digest.update(config.model_dump_json(include={"video", "max_prompt_tokens", "over_long"}).encode())
    digest.update(json.dumps(list(tools)).encode())
    return digest.hexdigest()[:16]


def check_spill_dir(config: DataConfig) -> None:
    """Raise ConfigError where `spill_dir` cannot be written to, or its disk is nearly full."""
    if config.spill_dir is None:
        return
    directory = Path(config.spill_dir)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f".probe.{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"data.spill_dir {directory} cannot be written to: {error.strerror}; choose another directory"
        ) from error
    disk = shutil.disk_usage(directory)
    held = sum(path.stat().st_size for path in directory.glob(f"*{_SUFFIX}"))
    needed = (config.spill_mb << 20) - held + int(_ROOM_SHARE * disk.total)
    if disk.free < needed:
        raise ConfigError(
            f"data.spill_dir {directory}: {disk.free >> 20} MiB are free, {needed >> 20} MiB needed "
            f"(data.spill_mb, and {_ROOM_SHARE:.0%} of the disk left free); lower data.spill_mb or choose another disk"
        )


def _size(features: Features) -> int:
    return sum(value.nbytes for value in features.values())
