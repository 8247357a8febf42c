"""Spaces: what the configuration says, and boxes by hand."""

import numpy as np
import pytest

from mmrlhf_ray.config.discrete_parts import AudioModality, Grid, ImageModality, TextModality, VideoModality
from mmrlhf_ray.discrete.spaces import (
    action_names,
    action_space,
    decision_counts,
    empty_observation,
    grid_boxes,
    modality_space,
    observation_space,
)
from mmrlhf_ray.discrete.tasks import fitted
from tests.unit.discrete_tiny import NOWHERE, job

LOCATE = {"kind": "locate", "grid": {"columns": 3, "rows": 2, "width": 0.5, "height": 1.0}, **NOWHERE}
DECIDE = {"kind": "decide", "classes": ["a", "b"], **NOWHERE}


@pytest.mark.parametrize(
    ("modality", "shape", "dtype"),
    [
        (ImageModality(height=5, width=7, channels=3), (3, 5, 7), np.float32),
        (VideoModality(frames=2, height=5, width=7), (2, 1, 5, 7), np.float32),
        (TextModality(words=9), (9,), np.int64),
    ],
)
def test_shapes(modality, shape, dtype):
    space = modality_space(modality)
    assert (space.shape, space.dtype) == (shape, dtype)


@pytest.mark.parametrize("kind", ["log_mel", "mfcc", "waveform"])
def test_sound_has_bounds_that_the_loudest_sounds_keep(kind):
    modality = AudioModality(seconds=0.2, sampling_rate=8000, front_end={"kind": kind})
    space, time = modality_space(modality), np.arange(1600) / 8000
    for sound in (np.ones(1600), np.sin(2 * np.pi * 440 * time), np.sign(np.sin(2 * np.pi * 100 * time)), np.zeros(9)):
        assert space.contains(fitted(sound.astype(np.float32), modality))


def test_boxes_are_flush_with_the_edges_and_evenly_spaced():
    boxes = grid_boxes(Grid(columns=3, rows=2, width=0.5, height=0.4))
    expected = [[x, y, x + 0.5, y + 0.4] for y in (0.0, 0.6) for x in (0.0, 0.25, 0.5)]
    np.testing.assert_allclose(boxes, expected, atol=1e-7)
    np.testing.assert_allclose(grid_boxes(Grid(columns=1, rows=1, width=0.5, height=0.2)), [[0.25, 0.4, 0.75, 0.6]])


def test_several_tasks_share_the_largest_action_space_and_are_told_apart():
    cfg = job(tasks={"two": DECIDE, "six": LOCATE})
    assert decision_counts(cfg) == {"two": 2, "six": 6}
    assert action_space(cfg).n == 6
    assert observation_space(cfg)["task"].shape == (2,)
    assert "task" not in observation_space(job()).spaces
    assert action_names(cfg.tasks["six"])[1] == "[0.250, 0.000, 0.750, 1.000]"


def test_requests_are_further_actions():
    assert action_space(job(sequential={"first": "image"})).n == 3 + 2


@pytest.mark.parametrize("cfg", [job(), job(tasks={"two": DECIDE, "six": LOCATE})])
def test_the_empty_observation_is_one(cfg):
    assert observation_space(cfg).contains(empty_observation(cfg))
