"""MLflow on an SQLite file, read back by its own client."""

import pytest
from PIL import Image

from tests.unit.tracking.runs import RED, names, write

pytest.importorskip("mlflow")


@pytest.fixture(autouse=True)
def _no_server(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


def test_curves_configuration_and_a_picture_come_back_and_a_resumed_run_is_the_same_one(tmp_path):
    import mlflow
    from mlflow.tracking import MlflowClient

    write(tmp_path, ["mlflow"], range(6))
    run_dir = write(tmp_path, ["mlflow"], range(4, 8), resume_step=4)
    mlflow.set_tracking_uri(f"sqlite:///{run_dir / 'mlflow.db'}")
    client = MlflowClient()
    (experiment,) = [found for found in client.search_experiments() if found.name == "mmrlhf"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status, run.data.tags["mmrlhf.run"]) == ("a-run", "FINISHED", names(run_dir))
    history = client.get_metric_history(run.info.run_id, "reward/score")
    curve = {metric.step: metric.value for metric in sorted(history, key=lambda metric: metric.timestamp)}
    assert curve == {step: step + (0.25 if step >= 4 else 0) for step in range(8)}
    assert (run.data.params["steps"], run.data.params["model.path"][-8:]) == ("10", "/a-model")
    assert not any("SOME_TOKEN" in key for key in run.data.params)
    files = [file.path for file in client.list_artifacts(run.info.run_id, "samples/step-000007")]
    names_of = ["00-0.png", "01-0.wav", "02-0.png", "02-1.webm"]
    assert files == [f"samples/step-000007/{name}" for name in names_of]
    with Image.open(client.download_artifacts(run.info.run_id, files[0], str(tmp_path))) as image:
        assert (image.size, image.getpixel((3, 3))) == ((12, 8), RED)
    table = client.load_table(experiment.experiment_id, "samples.json", [run.info.run_id])
    assert table[["step", "response", "score"]].values.tolist() == [
        [5, "A seven.", 0.75], [5, "A five.", -0.25], [5, "A two.", 0.0],
        [7, "A seven.", 0.75], [7, "A five.", -0.25], [7, "A two.", 0.0],
    ]  # fmt: skip


def test_a_server_that_cannot_be_reached_stops_nothing_and_is_told_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run_dir = write(tmp_path, ["mlflow"], range(3))
    assert len((run_dir / "metrics.jsonl").read_text().splitlines()) == 3
    (said,) = caplog.messages
    assert said.startswith("mlflow is not used any more: ")
