"""cluster/kuberay/: what `kubectl apply -k` makes of the files, and that it agrees with jobs/, the image and itself.

That every field exists is no question for these tests: see "How far this is tested" in cluster/README.md.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmrlhf_ray.config import load_config, read_job_kind
from mmrlhf_ray.planning.placement import reservations

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "cluster" / "kuberay"
FILES = sorted(KUBERAY.rglob("*.yaml"))
JOBS = ("1node", "4nodes", "16nodes")
CLUSTERS = ("cluster", *JOBS)
LABEL = {"app.kubernetes.io/part-of": "mmrlhf"}
_BYTES = {"Gi": 2**30}


class _Once(yaml.SafeLoader):
    """YAML's own loader takes the last of two equal keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: a key is there twice: {keys}"
        return super().construct_mapping(node, deep)


def _read(name: str) -> dict[str, Any]:
    """The one document of a file, without objects that two places share."""
    return json.loads(json.dumps(yaml.load((KUBERAY / name).read_text(), _Once)))


def _patch(document: dict[str, Any], name: str) -> dict[str, Any]:
    """The document after the components and patches of the kustomization `name`, as far as they are for its kind."""
    kustomization = _read(f"{name}/kustomization.yaml")
    for component in kustomization.get("components", []):
        _patch(document, Path(component).name)
    for patch in kustomization["patches"]:
        steps = yaml.load(patch["patch"], _Once)
        if isinstance(steps, dict):
            document["spec"] |= steps.get("spec", {})
        elif patch["target"]["kind"] == document["kind"]:
            for step in steps:
                _apply(document, **step)
    return document


def _apply(document: Any, op: str, path: str, value: Any) -> None:
    *way, last = [part.replace("~1", "/") for part in path.split("/")[1:]]
    for part in way:
        document = document[int(part)] if isinstance(document, list) else document[part]
    if isinstance(document, list):
        document.append(value)
    else:
        assert (op == "replace") == (last in document), path
        document[last] = value


def rendered(name: str) -> dict[str, Any]:
    """What `kubectl kustomize cluster/kuberay/<name>` prints."""
    if name == "cluster":
        return _patch(_read("base/raycluster.yaml"), "cluster")
    job = _read("1node/rayjob.yaml")
    job["spec"]["rayClusterSpec"] = _read("base/raycluster.yaml")["spec"]
    return job if name == "1node" else _patch(job, name)


def cluster_spec(name: str) -> dict[str, Any]:
    spec = rendered(name)["spec"]
    return spec.get("rayClusterSpec", spec)


def groups(name: str) -> list[dict[str, Any]]:
    spec = cluster_spec(name)
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def _gib(quantity: str) -> int:
    number, unit = quantity[:-2], quantity[-2:]
    return int(number) * _BYTES[unit] // 2**30


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(KUBERAY)))
def test_no_key_is_there_twice(file: Path) -> None:
    assert list(yaml.load_all(file.read_text(), _Once))


@pytest.mark.parametrize("name", CLUSTERS)
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
def test_kubectl_makes_of_it_what_these_tests_look_at(name: str) -> None:
    made = subprocess.run(["kubectl", "kustomize", str(KUBERAY / name)], check=True, capture_output=True, text=True)
    (document,) = yaml.safe_load_all(made.stdout)
    assert document == rendered(name)


@pytest.mark.parametrize("name", CLUSTERS)
def test_clusters_have_the_pinned_ray_a_token_and_a_memory_of_their_own(name: str) -> None:
    spec = cluster_spec(name)
    assert f"ray=={spec['rayVersion']}" in (ROOT / "constraints" / "gpu.txt").read_text().splitlines()
    assert spec["authOptions"] == {"mode": "token"}
    services = {doc["kind"]: doc for doc in yaml.safe_load_all((KUBERAY / "services" / "redis.yaml").read_text())}
    redis, options = (
        services["StatefulSet"]["spec"]["template"]["spec"]["containers"][0],
        spec["gcsFaultToleranceOptions"],
    )
    service = services["Service"]
    assert options["redisAddress"] == f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert options["redisPassword"]["valueFrom"] == redis["env"][0]["valueFrom"]
    for group in spec["workerGroupSpecs"]:
        assert 0 < group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("name", CLUSTERS)
def test_pods_share_files_and_memory_and_are_not_root(name: str) -> None:
    for group in groups(name):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"] == "mmrlhf:gpu"
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts == {"shared": "/shared", "shm": "/dev/shm"}
        assert set(volumes) == set(mounts)
        assert container["resources"]["requests"] == container["resources"]["limits"]
        shm = volumes["shm"]["emptyDir"]
        assert shm["medium"] == "Memory"
        assert _gib(shm["sizeLimit"]) <= _gib(container["resources"]["limits"]["memory"]) / 2
        assert pod["securityContext"]["runAsNonRoot"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]


@pytest.mark.parametrize("name", CLUSTERS)
def test_runs_are_saved_before_a_pod_stops(name: str) -> None:
    for group in groups(name):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        (script,) = container["lifecycle"]["preStop"]["exec"]["command"]
        assert (ROOT / Path(script).relative_to("/app")).stat().st_mode & 0o111
        (stop,) = (v["value"] for v in container["env"] if v["name"] == "RAY_JOB_STOP_WAIT_TIME_S")
        assert int(stop) == pod["terminationGracePeriodSeconds"] >= 600
    assert "COPY --chown=ray . /app" in (ROOT / "cluster" / "Dockerfile").read_text()


@pytest.mark.parametrize("name", JOBS)
def test_a_rayjob_has_the_nodes_that_its_job_was_planned_for(name: str) -> None:
    spec = rendered(name)["spec"]
    command, kind, file, *overrides = spec["entrypoint"].split()
    path = ROOT / Path(file).relative_to("/app")
    assert (command, read_job_kind(path).value) == ("mmrlhf", kind)
    cfg = load_config(path, overrides[: overrides.index("--resume")], read_job_kind(path).config)
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
    assert f"-{group['replicas']}node" in path.name
    has = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    roles = reservations(cfg)
    assert sum(role.total_gpus for role in roles) == group["replicas"] * int(has["nvidia.com/gpu"])
    cpus = sum(role.total_cpus for role in roles) + spec["entrypointNumCpus"]
    assert cpus <= group["replicas"] * int(has["cpu"])
    assert cfg.output_dir.startswith("/shared/")


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*node*.yaml")), ids=lambda path: path.stem)
def test_a_rayjob_holds_every_job_of_its_size(path: Path) -> None:
    """Which one it runs is a patch of the entrypoint."""
    spec = rendered(path.stem.rpartition("-")[2])["spec"]
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    has = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    roles = reservations(load_config(path, [], read_job_kind(path).config))
    assert sum(role.total_gpus for role in roles) == group["replicas"] * int(has["nvidia.com/gpu"])
    cpus = sum(role.total_cpus for role in roles) + spec["entrypointNumCpus"]
    assert cpus <= group["replicas"] * int(has["cpu"])


def test_rayjobs_have_names_of_their_own() -> None:
    assert len({rendered(name)["metadata"]["name"] for name in JOBS}) == len(JOBS)


@pytest.mark.parametrize("name", JOBS)
def test_a_rayjob_that_failed_goes_on_and_leaves_nothing(name: str) -> None:
    spec = rendered(name)["spec"]
    assert spec["entrypoint"].endswith(" --resume --supervise 3")
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    # The driver is not on the head, whose loss it survives: no actor or driver fits there.
    assert spec["entrypointNumCpus"] > 0
    assert spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("name", CLUSTERS)
def test_nodes_that_talk_to_others_have_the_fabric(name: str) -> None:
    (group,) = cluster_spec(name)["workerGroupSpecs"]
    pod = group["template"]["spec"]
    (container,) = pod["containers"]
    several = group["maxReplicas"] > 1
    assert ("rdma/hca_shared_devices_a" in container["resources"]["limits"]) == several
    assert ("IPC_LOCK" in container["securityContext"]["capabilities"].get("add", [])) == several
    names = [variable["name"] for variable in container["env"]]
    assert len(names) == len(set(names))
    assert ("NCCL_IB_HCA" in names) == several
    assert "NCCL_SOCKET_IFNAME" in names
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]


def test_services_select_the_pods() -> None:
    pods = [group["template"] for name in CLUSTERS for group in groups(name)]
    assert all(pod["metadata"]["labels"] == LABEL for pod in pods)
    monitor = _read("services/monitor.yaml")["spec"]
    assert monitor["selector"]["matchLabels"] == LABEL
    (endpoint,) = monitor["podMetricsEndpoints"]
    ports = [port for pod in pods for port in pod["spec"]["containers"][0]["ports"] if port["name"] == endpoint["port"]]
    assert len(ports) == len(pods)
    cluster, redis = yaml.safe_load_all((KUBERAY / "services" / "network.yaml").read_text())
    assert cluster["spec"]["podSelector"]["matchLabels"] == LABEL
    assert {"podSelector": {"matchLabels": LABEL}} in cluster["spec"]["ingress"][0]["from"]
    assert {"podSelector": {"matchLabels": LABEL}} in redis["spec"]["ingress"][0]["from"]
    scraped = cluster["spec"]["ingress"][-1]["ports"]
    assert scraped == [{"protocol": "TCP", "port": ports[0]["containerPort"]}]
    assert set(_read("services/kustomization.yaml")["resources"]) == {
        path.name for path in (KUBERAY / "services").glob("*.yaml") if path.name != "kustomization.yaml"
    }
