"""What a run writes for TensorBoard, read back by TensorBoard."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.unit.tracking.runs import write


def test_each_step_shows_once_after_resume_by_its_group(tmp_path):
    write(tmp_path, ["tensorboard"], range(6))
    run_dir = write(tmp_path, ["tensorboard"], range(4, 8), resume_step=4)
    events = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"reward/score", "timing/seconds_step", "policy/lr"}
    assert [(e.step, e.value) for e in events.Scalars("reward/score")] == [
        (step, step + (0.25 if step >= 4 else 0)) for step in range(8)
    ]


def test_configuration_samples_and_media_are_there(tmp_path):
    events = EventAccumulator(str(write(tmp_path, ["tensorboard"], [0]) / "tensorboard")).Reload()
    (picture,) = events.Images("samples/0-0")
    assert (picture.width, picture.height) == (12, 8)
    (sound,) = events.Audio("samples/1-0")
    assert sound.sample_rate == 8000
    texts = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}
    assert "Which \\| tone?<br>Say it." in texts["samples/1/text_summary"]
    assert "| name | a-run |" in texts["config/text_summary"]
    assert "a-secret" not in texts["config/text_summary"]


def test_a_run_without_trackers_writes_metrics_alone(tmp_path):
    run_dir = write(tmp_path, [], [0])
    assert [path.name for path in run_dir.iterdir()] == ["metrics.jsonl"]
