"""SwanLab on this machine, read back by its own dashboard's code."""

import json

import pytest
from PIL import Image

from tests.unit.tracking.runs import RED, write

pytest.importorskip("swanlab")
pytest.importorskip("swanboard")


@pytest.fixture(autouse=True)
def _no_account(monkeypatch, tmp_path):
    for name in ("SWANLAB_API_KEY", "SWANLAB_MODE", "SWANLAB_LOG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_curves_and_a_picture_come_back_and_a_resumed_run_shows_all_steps(tmp_path, monkeypatch):
    write(tmp_path, ["swanlab"], range(6))
    run_dir = write(tmp_path, ["swanlab"], range(4, 8), resume_step=4)

    from swanboard.controller.experiment import get_tag_data
    from swanboard.db import Experiment, connect

    monkeypatch.setattr("swanboard.settings.SWANLOG_DIR", str(run_dir / "swanlog"))
    connect(path=str(run_dir / "swanlog"), autocreate=True)
    first, resumed = Experiment.select()

    def points(experiment, tag):
        return json.loads(get_tag_data(experiment.id, tag).body)["data"]["list"]

    curves = [[(int(p["index"]), p["data"]) for p in points(one, "reward/score")] for one in (first, resumed)]
    assert curves[0] == [(n, n) for n in range(6)]
    assert curves[1] == [(n, n + (0.25 if n >= 4 else 0)) for n in range(8)]
    (shown,) = points(resumed, "samples/image")
    assert len(shown["data"]) == 2
    file = next((run_dir / "swanlog" / resumed.run_id / "media").rglob(shown["data"][0]))
    with Image.open(file) as image:
        assert (image.size, image.getpixel((3, 3))) == ((12, 8), RED)
    assert shown["more"][0]["caption"] == "0.75 · A seven."
    ((video,),) = (point["data"] for point in points(resumed, "samples/video"))
    with Image.open(next((run_dir / "swanlog" / resumed.run_id / "media").rglob(video))) as moving:
        assert moving.n_frames > 3
