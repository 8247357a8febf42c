"""cluster/: manifests are of the right shape and agree with the rest; scripts parse."""

import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
SCRIPTS = [*sorted(CLUSTER.glob("*.sh")), ROOT / ".ci" / "run"]


def _manifest(name: str) -> dict[str, Any]:
    documents = list(yaml.safe_load_all((CLUSTER / "kuberay" / name).read_text()))
    assert len(documents) == 1
    return documents[0]


def _cluster_specs() -> list[dict[str, Any]]:
    return [_manifest("raycluster.yaml")["spec"], _manifest("rayjob.yaml")["spec"]["rayClusterSpec"]]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_stop_at_errors_and_can_be_run(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "set -euo pipefail" in script.read_text()
    assert script.stat().st_mode & 0o111


def test_manifests_are_what_they_say() -> None:
    cluster, job = _manifest("raycluster.yaml"), _manifest("rayjob.yaml")
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"]["shutdownAfterJobFinishes"] is True


@pytest.mark.parametrize("spec", _cluster_specs(), ids=["RayCluster", "RayJob"])
def test_clusters_have_the_pinned_ray_a_token_shared_storage_and_memory(spec: dict[str, Any]) -> None:
    pins = (ROOT / "constraints" / "cpu.txt").read_text().splitlines()
    assert f"ray=={spec['rayVersion']}" in pins
    assert spec["authOptions"] == {"mode": "token"}
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounts) == volumes
        assert set(mounts.values()) == {"/shared", "/dev/shm"}
        assert container["resources"]["requests"] == container["resources"]["limits"]
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_job_manifest_runs_a_job_that_exists_and_the_image_holds_it() -> None:
    command, kind, file, *_ = _manifest("rayjob.yaml")["spec"]["entrypoint"].split()
    assert (command, kind) == ("mmrlhf", "ppo")
    assert (ROOT / Path(file).relative_to("/app")).is_file()
    assert "COPY --chown=ray . /app" in (CLUSTER / "Dockerfile").read_text()


def test_extras_of_the_image_and_the_makefile_are_the_packages() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"cpu", "gpu", "feedback", "onnx", "dev"} == set(extras)
    assert ".[$(EXTRA),feedback,onnx,dev]" in (ROOT / "Makefile").read_text()
    assert all((ROOT / "constraints" / f"{extra}.txt").is_file() for extra in ("cpu", "gpu"))
    assert "ARG EXTRA=cpu" in (CLUSTER / "Dockerfile").read_text()
    assert "EXTRA ?= cpu" in (ROOT / "Makefile").read_text()
