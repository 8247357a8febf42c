"""Pairs that were asked about and the votes on them, on the disk: none lost, none counted twice.

`<run>/votes/asked.jsonl` has a line for each pair, `clips.jsonl` one for each clip that keys are pressed over,
`votes.jsonl` one for each vote, all only appended to and on the disk before anything is learned from them;
`segments/<name>.npz` holds what reward models see of a pair or clip. A resumed run reads all of it, also what came
after its checkpoint.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmrlhf_ray.behaviour.reward import Votes, vote_weights
from mmrlhf_ray.behaviour.segments import Clip, Replay, Segment, stacked
from mmrlhf_ray.errors import RunError

LEDGER_DIR = "votes"
PREFERRED: Mapping[str, float] = {"left": 1.0, "right": 0.0, "tie": 0.5, "both_bad": 0.5}
"""Choice of a pair question → μ; left is the first segment."""


UNASKED = -1


@dataclass(frozen=True)
class Pair:
    """Two segments that are asked about."""

    pair_id: str
    first: Segment
    second: Segment
    replays: tuple[Replay, Replay]
    step: int
    """Of the run, at which it was asked; UNASKED where a demonstration or presses of keys said which is better."""


@dataclass(frozen=True)
class Vote:
    """One annotator's word on one pair."""

    vote_id: str
    """Of its maker, so that it can arrive twice and count once."""
    pair_id: str
    annotator: str
    choice: str
    """left, right, tie or both_bad; left is the first segment, whatever was shown where."""


def pair_id(first: Clip, second: Clip) -> str:
    """The same for the same two segments in this order."""
    return f"{first.name}-{second.name}"


class Ledger:
    """Of one run. Not for two processes at once; the run's directory has a lock."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / LEDGER_DIR
        (self._path / "segments").mkdir(parents=True, exist_ok=True)
        self.pairs: dict[str, Pair] = {}
        self.clips: dict[str, Clip] = {}
        """Shown for keys to be pressed."""
        self.votes: dict[str, Vote] = {}
        for row in _lines(self._path / "asked.jsonl"):
            first, second = self._loaded(row["pair_id"], row["replays"])
            replays = (first.replay, second.replay)
            self.pairs[row["pair_id"]] = Pair(row["pair_id"], first.segment, second.segment, replays, row["step"])
        for row in _lines(self._path / "clips.jsonl"):
            (self.clips[row["clip"]],) = self._loaded(row["clip"], [row["replay"]])
        for row in _lines(self._path / "votes.jsonl"):
            self.votes[row["vote_id"]] = Vote(**row)

    def ask(self, first: Clip, second: Clip, step: int) -> Pair:
        """Write down a pair that will be asked about. One that is there already stays as it is."""
        name = pair_id(first, second)
        if name in self.pairs:
            return self.pairs[name]
        pair = Pair(name, first.segment, second.segment, (first.replay, second.replay), step)
        self._keep(name, (first, second))
        seeds = [_seed(replay) for replay in pair.replays]
        _append(self._path / "asked.jsonl", {"pair_id": name, "replays": seeds, "step": step})
        self.pairs[name] = pair
        return pair

    def show(self, clip: Clip) -> None:
        """Write down a clip that keys will be pressed over. One that is there already stays as it is."""
        if clip.name not in self.clips:
            self._keep(clip.name, (clip,))
            _append(self._path / "clips.jsonl", {"clip": clip.name, "replay": _seed(clip.replay)})
            self.clips[clip.name] = clip

    def add(self, votes: Iterable[Vote]) -> int:
        """Write down votes; how many were new. Raises RunError for a vote on a pair that was never asked about."""
        new = 0
        for vote in votes:
            if vote.pair_id not in self.pairs:
                raise RunError(f"vote {vote.vote_id}: this run never asked about the pair {vote.pair_id}")
            if vote.vote_id not in self.votes:
                _append(self._path / "votes.jsonl", asdict(vote))
                self.votes[vote.vote_id] = vote
                new += 1
        return new

    @property
    def asked(self) -> int:
        """Pairs and clips that annotators were asked about."""
        return len(self.clips) + sum(pair.step != UNASKED for pair in self.pairs.values())

    def open_pairs(self, overlap: int = 1) -> list[Pair]:
        """Pairs that annotators were asked about with fewer than `overlap` votes, oldest first."""
        counts = dict.fromkeys(self.pairs, 0)
        for vote in self.votes.values():
            counts[vote.pair_id] += 1
        return [pair for name, pair in self.pairs.items() if counts[name] < overlap and pair.step != UNASKED]

    def material(self, members: int, heldout: float) -> Votes | None:
        """All votes as the reward models learn from them; None where there are none."""
        votes = list(self.votes.values())
        if not votes:
            return None
        pairs = [self.pairs[vote.pair_id] for vote in votes]
        return Votes(
            stacked([pair.first for pair in pairs]),
            stacked([pair.second for pair in pairs]),
            np.array([PREFERRED[vote.choice] for vote in votes], np.float32),
            vote_weights([vote.vote_id for vote in votes], members, heldout),
        )

    def _file(self, name: str) -> Path:
        return self._path / "segments" / f"{name}.npz"

    def _keep(self, name: str, clips: Sequence[Clip]) -> None:
        """Have what reward models see of these clips on the disk, and how to play them again."""
        arrays: dict[str, np.ndarray] = {}
        for side, clip in enumerate(clips):
            arrays |= {f"{side}_{key}": values for key, values in _flat(clip.segment)}
            arrays[f"replay{side}"] = clip.replay.actions
        file = self._file(name)
        partial = file.with_name(f".{file.name}.partial")
        with partial.open("wb") as out:
            np.savez_compressed(out, allow_pickle=False, **arrays)
            out.flush()
            os.fsync(out.fileno())
        partial.rename(file)

    def _loaded(self, name: str, seeds: Sequence[Sequence[int]]) -> list[Clip]:
        """The clips that _keep() wrote; seed and steps shown of each."""
        file = self._file(name)
        try:
            with np.load(file) as arrays:
                found = {key: arrays[key] for key in arrays.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise RunError(f"{file}: what was asked about cannot be read: {error}; restore the file") from error
        clips = []
        for side, (seed, shown) in enumerate(seeds):
            seen = {k.partition("_obs_")[2]: v for k, v in found.items() if k.startswith(f"{side}_obs_")}
            replay = Replay(seed, found[f"replay{side}"], shown)
            clips.append(Clip(Segment(seen, found[f"{side}_actions"]), replay))
        return clips


def set_ledger_aside(run_dir: Path) -> None:
    """Keep an earlier run's votes under another name: a run that starts over asks anew, but people's work stays."""
    path = run_dir / LEDGER_DIR
    if not path.exists():
        return
    if not (path / "votes.jsonl").exists():
        shutil.rmtree(path)
        return
    number = 1
    while (target := path.with_name(f"{LEDGER_DIR}.previous-{number}")).exists():
        number += 1
    path.rename(target)


def _seed(replay: Replay) -> list[int]:
    return [replay.seed, replay.shown]


def _flat(segment: Segment) -> list[tuple[str, np.ndarray]]:
    return [*((f"obs_{name}", v) for name, v in segment.observations.items()), ("actions", segment.actions)]


def _append(file: Path, row: Mapping[str, Any]) -> None:
    """Add a line and have it on the disk. What a kill left of a line before it is cut off first."""
    with file.open("ab+") as out:
        end = out.seek(0, os.SEEK_END)
        if end:
            out.seek(end - 1)
            if out.read(1) != b"\n":
                out.seek(0)
                out.truncate(out.read().rfind(b"\n") + 1)
        out.write(json.dumps(row).encode() + b"\n")
        out.flush()
        os.fsync(out.fileno())


def _lines(file: Path) -> Iterable[dict[str, Any]]:
    """All complete lines."""
    if not file.exists():
        return
    for line in file.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            yield json.loads(line)
