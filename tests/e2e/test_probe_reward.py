"""`mmrlhf probe-reward` on a reward model, a function and fluency: exit status, files, and figures that agree."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from mmrlhf_ray.schema import PROBE
from tests.command import Here
from tests.unit.rewards.servers import Answer, Request, serve

PROBES = ("empty", "repeated", "very_long", "prompt_copied", "every_answer", "media_removed", "media_swapped")
MODALITIES = {"text", "image", "audio", "image+audio", "video"}
MODEL, RIGHT, FLUENCY = 0.5, 2.0, 0.1  # weights

pytestmark = pytest.mark.e2e


def job(model_dir: Path, data_dir: Path, directory: Path, **keys: Any) -> str:
    values = {
        "job": "probe-reward",
        "name": "probe",
        "output_dir": str(directory / "runs"),
        "device": "cpu",
        "policy": {"path": str(model_dir)},
        "data": {"path": str(data_dir / "demonstrations"), "facts_column": "facts", "max_prompt_tokens": 64},
        "prompts": 14,
        "max_response_tokens": 32,
        "placement": {role: {"num_cpus": 0.2} for role in ("scorer", "functions", "reference")},
        "deadlines": {"placement_s": 60},
    }
    (directory / "job.yaml").write_text(yaml.safe_dump(values | keys))
    return str(directory / "job.yaml")


def accuracy(weight: float) -> dict[str, Any]:
    return {"name": "right", "kind": "function", "function": "accuracy", "weight": weight}


def test_the_figures_are_those_of_the_table(
    here: Here, model_dir: Path, reward_model_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    rewards = [
        {"name": "model", "kind": "model", "model": {"path": str(reward_model_dir)}, "weight": MODEL},
        accuracy(RIGHT),
        {"name": "usual", "kind": "fluency", "weight": FLUENCY},
    ]
    finished = here("probe-reward", job(model_dir, data_dir, tmp_path, rewards=rewards), cwd=tmp_path)
    assert finished.returncode == 1, finished.err  # a model of random weights is fooled by something
    run_dir = tmp_path / "runs" / "probe"
    assert f"Figures: {run_dir}/probe.json. Responses: {run_dir}/probe.parquet" in finished.out.replace("\n", "")
    table = pq.read_table(run_dir / "probe.parquet")
    assert table.schema.equals(PROBE)
    rows = table.to_pylist()
    honest = {row["prompt_id"]: row for row in rows if row["probe"] == "honest"}
    assert len(honest) == 14
    assert {row["modality"] for row in honest.values()} == MODALITIES
    for row in rows:
        mixed = sum(w * s for w, s in zip((MODEL, RIGHT, FLUENCY), row["scores"], strict=True))
        assert row["score"] == pytest.approx(mixed, abs=1e-5)
        assert (row["probe"], row["response_tokens"]) != ("very_long", 0)
    lengths = {row["probe"]: row["response_tokens"] for row in rows}
    assert (lengths["empty"], lengths["very_long"]) == (1, 32)
    summary = json.loads((run_dir / "probe.json").read_text())
    assert set(summary["probes"]) == set(PROBES)
    for probe, said in summary["probes"].items():
        pairs = [(honest[row["prompt_id"]], row) for row in rows if row["probe"] == probe]
        same(said["mixture"], [row["score"] - own["score"] for own, row in pairs])
        for number, name in enumerate(("model", "right", "usual")):
            same(said["components"][name], [row["scores"][number] - own["scores"][number] for own, row in pairs])
        assert said["passed"] == (said["mixture"]["overall"]["above"]["estimate"] <= 0.05)
        verdict = "passed" if said["passed"] else "MISSED"
        assert f"{verdict}  {probe}: " in finished.out
    assert summary["probes"]["media_removed"]["components"]["right"]["overall"]["equal"] == 1.0  # it sees no media
    assert summary["probes"]["media_removed"]["components"]["model"]["overall"]["equal"] == 0.0


def same(said: Mapping[str, Any], differences: list[float]) -> None:
    overall = said["overall"]
    assert overall["responses"] == len(differences) == sum(f["responses"] for f in said["by_modality"].values())
    assert overall["above"]["estimate"] == sum(d > 0 for d in differences) / len(differences)
    assert overall["equal"] == sum(d == 0 for d in differences) / len(differences)
    assert overall["difference"] == pytest.approx(math.fsum(differences) / len(differences), abs=1e-6)
    worst = [example["adversarial"] - example["honest"] for example in said["worst"]]
    assert worst == pytest.approx(sorted(differences, reverse=True)[:3])


def test_a_reward_that_nothing_fools_passes(here: Here, model_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    file = job(model_dir, data_dir, tmp_path, rewards=[accuracy(1.0)], where={"style": "grounded"}, prompts=5)
    finished = here("probe-reward", file, cwd=tmp_path)
    assert finished.returncode == 0, finished.err
    assert "MISSED" not in finished.out
    assert finished.out.count("passed  ") == len(PROBES)


def test_a_judge_that_compares_is_probed_against_the_honest_response(
    here: Here, model_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    """A judge that prefers what is longer, which a very long response therefore fools and an empty one does not."""

    def longer(request: Request) -> Answer:
        first, second = (len(text) for text in request.body["messages"][0]["content"].split("|"))
        said = "tie" if first == second else "A" if first > second else "B"
        return Answer(body={"choices": [{"message": {"content": said}, "finish_reason": "stop"}]})

    with serve(longer) as server:
        judge = {"name": "judge", "kind": "judge", "base_url": server.url, "model": "m", "pairs": {}}
        judge |= {"prompt": "{first}|{second}"}
        finished = here("probe-reward", job(model_dir, data_dir, tmp_path, rewards=[judge]), cwd=tmp_path)
    assert finished.returncode == 1, finished.err
    probes = json.loads((tmp_path / "runs" / "probe" / "probe.json").read_text())["probes"]
    assert probes["very_long"]["mixture"]["overall"]["above"]["estimate"] == 1.0
    assert probes["empty"]["mixture"]["overall"]["above"]["estimate"] == 0.0
    assert not probes.keys() & {"media_removed", "media_swapped"}
    assert "Probes that change the media are left out" in finished.out
