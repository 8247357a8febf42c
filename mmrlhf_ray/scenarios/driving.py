"""Driving decisions from camera, lidar and motion, in the layout of KITTI's raw recordings.

    DATE/DATE_drive_NNNN_sync/
        image_02/data/0000000000.png            camera
        velodyne_points/data/0000000000.bin     float32 [n, 4]: x ahead, y left, z up in m, reflection
        oxts/data/0000000000.txt                30 numbers, the 9th speed ahead in m/s, the 20th yaw in rad/s

Ten frames a second. What the driver did in the second that follows is the demonstration.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmrlhf_ray.data.media import media_row, to_png
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.scenarios.cases import Case
from mmrlhf_ray.scenarios.pictures import grey

CLASSES = ("keep", "accelerate", "brake", "left", "right")
_RATE = 10
_EVERY = 5
"""Frames from one case to the next."""
_SPEED, _YAW = 8, 19
_LATER = 1.0
"""m/s that the speed changes within a second where the driver brakes or accelerates."""
_TURN = 0.06
"""rad/s, left is positive."""
_AHEAD_M, _ASIDE_M, _CELL_M = 40.0, 12.0, 1.0
_DRIVES, _SECONDS = 110, 8


def read(root: Path) -> Iterator[Case]:
    """A case every half second of each drive below `root`. Raises DataError where there is none."""
    drives = sorted(path.parent for path in root.glob("*/*_sync/oxts"))
    if not drives:
        raise DataError(f"{root}: expected KITTI's raw recordings, DATE/DATE_drive_NNNN_sync/oxts/data; found none")
    for drive in drives:
        files = sorted((drive / "oxts" / "data").glob("*.txt"))
        motion = np.array([[float(word) for word in file.read_text().split()] for file in files])
        for frame in range(0, len(files) - _RATE, _EVERY):
            speed = motion[frame, _SPEED]
            name = files[frame].stem
            lidar = np.fromfile(drive / "velodyne_points" / "data" / f"{name}.bin", np.float32).reshape(-1, 4)
            camera = (drive / "image_02" / "data" / f"{name}.png").read_bytes()
            yield Case(
                name=f"{drive.name}-{name}",
                source=drive.name,
                text=f"speed {speed:.0f}",
                media=(media_row("image", camera), media_row("image", to_png(from_above(lidar)))),
                answer=_done(motion[frame : frame + _RATE + 1]),
                group="slow" if speed < 8.0 else "fast",
            )


def from_above(points: np.ndarray) -> np.ndarray:
    """uint8 [40, 24]: what stands more than 0.3 m above the road, by square metre; the car looks up from below."""
    high = points[points[:, 2] > -1.4]  # the scanner is 1.73 m above the road
    row = ((_AHEAD_M - high[:, 0]) / _CELL_M).astype(int)
    column = ((_ASIDE_M - high[:, 1]) / _CELL_M).astype(int)
    rows, columns = int(_AHEAD_M / _CELL_M), int(2 * _ASIDE_M / _CELL_M)
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    seen = np.zeros((rows, columns))
    np.add.at(seen, (row[inside], column[inside]), 1.0)
    return grey(seen / 4.0)


def _done(motion: np.ndarray) -> str:
    change = motion[-1, _SPEED] - motion[0, _SPEED]
    yaw = motion[1:, _YAW].mean()
    if change < -_LATER:
        return "brake"
    if abs(yaw) > _TURN:
        return "left" if yaw > 0 else "right"
    return "accelerate" if change > _LATER else "keep"


@dataclass
class _Road:
    """A car on a road that bends, with another car ahead at times."""

    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.night = self.rng.random() < 0.3
        self.speed = self.rng.uniform(5.0, 13.0)
        self.wished = self.rng.uniform(8.0, 14.0)
        self.bends = [0.0] * _RATE
        """Of the road in the second that comes, in 1/m."""
        self.gap = np.inf
        """To the car ahead, in m."""
        self.other = 0.0
        """Its speed."""

    def drive(self) -> float:
        """A tenth of a second; the yaw rate."""
        turns = self.rng.random() < 0.06
        bend = self.bends.pop(0)
        self.bends.append(float(self.rng.choice([-0.012, 0.0, 0.0, 0.012])) if turns else self.bends[-1])
        if not np.isfinite(self.gap) and self.rng.random() < 0.03:
            self.gap, self.other = self.rng.uniform(26.0, 38.0), self.rng.uniform(0.0, 4.0)
        if self.gap < 2.5 * self.speed and self.other < self.speed:
            self.speed -= 0.35
        elif bend == 0.0 and self.speed < self.wished - 1.5:
            self.speed += 0.2
        self.speed = max(self.speed, 1.0)
        self.gap -= (self.speed - self.other) / _RATE
        if self.gap < 3.0 or self.rng.random() < 0.01:
            self.gap = np.inf
        return bend * self.speed

    def camera(self) -> np.ndarray:
        """uint8 [32, 48]: the road bends as it will, the other car is as large as it is near; at night hard to see."""
        picture = np.full((32, 48), 0.7)
        for row in range(10, 32):
            far = (32 - row) / 22.0
            middle, half = 24 - 900.0 * float(np.mean(self.bends)) * far**2, 3 + 20 * (1 - far)
            columns = np.arange(48)
            picture[row] = np.where(np.abs(columns - middle) < half, 0.3, 0.5)
        if np.isfinite(self.gap):
            size = int(np.clip(90.0 / self.gap, 2, 14))
            bottom = int(10 + np.clip(120.0 / self.gap, 2, 20))
            picture[max(bottom - size, 0) : bottom, 24 - size // 2 : 24 + size // 2 + 1] = 0.05
        if self.night:
            picture *= 0.12
        return grey(picture + self.rng.normal(0.0, 0.05, picture.shape))

    def lidar(self) -> np.ndarray:
        """float32 [n, 4]: road, roadside, and the back of the other car."""
        road = self.rng.uniform([2, -8, -1.75], [_AHEAD_M, 8, -1.65], (120, 3))
        side = self.rng.uniform([2, 8, -1.6], [_AHEAD_M, 12, 1.0], (30, 3)) * [1, self.rng.choice([-1, 1]), 1]
        parts = [road, side]
        if self.gap < _AHEAD_M:
            parts.append(self.rng.normal([self.gap, 0.0, -0.7], [0.15, 0.6, 0.3], (40, 3)))
        points = np.concatenate(parts)
        return np.column_stack([points, self.rng.uniform(0, 1, len(points))]).astype(np.float32)


def make(root: Path, seed: int) -> None:
    """Drives on drawn roads, by a driver who brakes for what is ahead and follows the bends."""
    for number in range(_DRIVES):
        road = _Road(np.random.default_rng([seed, number]))
        drive = root / "2011_09_26" / f"2011_09_26_drive_{number:04d}_sync"
        places = [drive / name / "data" for name in ("image_02", "velodyne_points", "oxts")]
        for place in places:
            place.mkdir(parents=True)
        for frame in range(_SECONDS * _RATE):
            camera, lidar, speed = road.camera(), road.lidar(), road.speed
            motion = np.zeros(30)
            motion[_YAW], motion[_SPEED] = road.drive(), speed
            if frame % _EVERY == 0:  # nothing else is looked at
                (places[0] / f"{frame:010d}.png").write_bytes(to_png(camera))
                lidar.tofile(places[1] / f"{frame:010d}.bin")
            (places[2] / f"{frame:010d}.txt").write_text(" ".join(f"{value:.6f}" for value in motion))
