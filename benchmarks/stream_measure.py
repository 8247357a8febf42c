"""`python -m benchmarks.stream_measure`: one epoch of mixed media through a stream; what it takes, and whether the
memory stays where it is."""

import json
import shutil
import time
from argparse import ArgumentParser
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.data.batches.stream import StreamPlan, stream
from mmrlhf_ray.data.encoding.encode import RawMedia, encode_prompt, load_encoder, media_arguments
from mmrlhf_ray.data.encoding.training_rows import EncodeOptions
from mmrlhf_ray.data.media import to_png
from mmrlhf_ray.data.records.rows import open_sources
from mmrlhf_ray.data.records.store import FileStore, LoadedRow
from mmrlhf_ray.demo.clips import DIRECTIONS, clip_webm
from mmrlhf_ray.demo.digits import SIDE, digits_of, scan
from mmrlhf_ray.demo.model import build_model
from mmrlhf_ray.demo.tones import tone_wav
from mmrlhf_ray.runtime.progress import Progress
from mmrlhf_ray.runtime.session import ray_session
from mmrlhf_ray.schema import DEMONSTRATION

_KINDS = (
    ("image",),
    ("image",),
    ("image",),
    ("image",),
    ("image", "image"),
    ("audio",),
    ("audio", "image"),
    ("video",),
)
"""Media that rows show, in turns."""
_ROWS_PER_FILE = {"image": 2.4, "audio": 2.0, "video": 5.0}
"""How often each file is shown, about."""
_SAMPLED = 400
_MARKS = (0.2, 1.0)


def _picture(number: int) -> bytes:
    """A digit with some of its pixels changed: `number` written in them."""
    digits = digits_of("train")
    pixels = scan(digits[number % len(digits)].source).repeat(SIDE // 8, axis=0).repeat(SIDE // 8, axis=1)
    pixels[0, :4] = list(number.to_bytes(4))
    return to_png(pixels)


def _sound(number: int) -> bytes:
    return tone_wav(number % 10, np.random.default_rng(number), noise=0.1)


def _clip(number: int) -> bytes:
    digits = digits_of("train")
    turn, digit = divmod(number, len(digits))
    return clip_webm(digits[digit].source, DIRECTIONS[turn % len(DIRECTIONS)])


_FILES = {"image": ("png", _picture), "audio": ("wav", _sound), "video": ("webm", _clip)}


def write_rows(directory: Path, rows: int) -> Path:
    """`rows` demonstrations and their media below `directory`; returns the .jsonl file."""
    wanted = Counter(kind for number in range(rows) for kind in _KINDS[number % len(_KINDS)])
    counts = {kind: max(1, int(count / _ROWS_PER_FILE[kind])) for kind, count in wanted.items()}
    for kind, count in counts.items():
        suffix, make = _FILES[kind]
        for number in range(count):
            path = directory / kind / f"{number // 1000}" / f"{number}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(make(number))
    rng = np.random.default_rng(0)
    with (directory / "rows.jsonl").open("w") as file:
        for number in range(rows):
            row: dict[str, Any] = {"response": "one", "row": number}
            for kind in _KINDS[number % len(_KINDS)]:
                drawn = int(rng.integers(counts[kind]))
                name = f"{kind}/{drawn // 1000}/{drawn}.{_FILES[kind][0]}"
                row.setdefault(f"{kind}s", []).append(name)
            file.write(json.dumps({"prompt": f"which digit is this ? {number % 97}", **row}) + "\n")
    return directory / "rows.jsonl"


def resident_mb() -> float:
    """Of this process and all below it; pages that several of them share count once (proportional set size)."""
    own = psutil.Process()
    total = 0.0
    for process in [own, *own.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total / 2**20


def measure(directory: Path, rows: int, workers: int) -> dict[str, Any]:
    """Stream one epoch of write_rows(); figures by name."""
    build_model(directory / "model", seed=0)
    config = DataConfig(path=str(write_rows(directory / "data", rows)), streaming=True, stream_workers=workers)
    options = EncodeOptions(str(directory / "model"), None, config.most_prompt_tokens, 4096, data=config)
    plan = StreamPlan(config, DEMONSTRATION, open_sources(config), options, seed=0)
    seconds: dict[str, float] = defaultdict(float)
    memory, seen = list[tuple[float, float]](), 0
    started = time.monotonic()
    with ray_session(), Progress("stream", rows, "row") as progress:
        for block in stream(plan, range(rows)):
            assert not block.rejected, block.rejected[0].bad
            seen += block.positions
            for stage, spent in block.seconds.items():
                seconds[stage] += spent
            progress.update(seen, block.positions)
            if seen / rows >= 0.05 * (len(memory) + 1):
                memory.append((seen / rows, resident_mb()))
        took = time.monotonic() - started
    at = {mark: next(mb for share, mb in memory if share >= mark - 1e-9) for mark in _MARKS}
    return {
        "rows": seen,
        "rows_per_s": round(seen / took, 1),
        "read_s": round(seconds["read"], 1),
        "encode_s": round(seconds["encode"], 1),
        "stages_ms_per_row": stages(plan),
        "resident_mb": {f"{mark:.0%}": round(mb, 1) for mark, mb in at.items()},
        "growth_mb": round(at[1.0] - at[0.2], 1),
        "course_mb": [round(mb) for _, mb in memory],
    }


def stages(plan: StreamPlan) -> dict[str, float]:
    """Milliseconds per row of each stage, alone in this process: what of the encoding is decoding."""
    store = FileStore(plan.config, plan.schema, plan.sources, plan.seed)
    encoder = load_encoder(plan.options.model_path, plan.config)
    took: dict[str, float] = defaultdict(float)

    def timed(name: str, since: float) -> float:
        now = time.monotonic()
        took[name] += now - since
        return now

    count = min(_SAMPLED, store.rows)
    for position in range(count):
        at = time.monotonic()
        loaded = store.load(position)
        assert isinstance(loaded, LoadedRow)
        at = timed("read", at)
        clips = [RawMedia(row["media_id"], row["kind"], row["data"]) for row in loaded.media]
        media_arguments(encoder, clips)
        at = timed("decode", at)
        encode_prompt(encoder, loaded.record["messages"], clips)
        timed("decode and process", at)
    took["process"] = took.pop("decode and process") - took["decode"]
    return {name: round(1000 * s / count, 2) for name, s in took.items()}


def _arguments() -> Iterator[tuple[str, Any]]:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--directory", type=Path, default=Path("runs/stream-measure"))
    yield from vars(parser.parse_args()).items()


if __name__ == "__main__":
    given = dict(_arguments())
    try:
        print(json.dumps(measure(given["directory"], given["rows"], given["workers"]), indent=2))
    finally:
        shutil.rmtree(given["directory"] / "data", ignore_errors=True)
