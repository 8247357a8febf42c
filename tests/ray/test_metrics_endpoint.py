"""The metrics of a run show on Ray's own metrics endpoint."""

import math
import re
import time
import urllib.request

import ray

from mmrlhf_ray.runtime.metrics import MetricsWriter

PATIENCE_S = 90


def gauges(address):
    """Gauges of ours by name; Ray puts its own prefix before them."""
    with urllib.request.urlopen(address, timeout=10) as answer:
        text = answer.read().decode()
    return {
        name: (labels, float(value))
        for name, labels, value in re.findall(r"^ray_(mmrlhf_\w+)\{(.*)\} (\S+)$", text, flags=re.MULTILINE)
    }


def test_gauges_carry_the_latest_values_and_the_run(session, tmp_path):
    with MetricsWriter(tmp_path / "a-run", "ppo") as metrics:
        (node,) = ray.nodes()
        address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        metrics.log(0, {"score": 0.25, "seconds/generate": 1.5, "kl": 0.5})
        metrics.log(1, {"score": 0.75, "seconds/generate": 2.5, "kl": math.nan})
        deadline = time.monotonic() + PATIENCE_S
        found = {}
        while found.get("mmrlhf_ppo_score", ("", 0))[1] != 0.75 and time.monotonic() < deadline:
            time.sleep(0.5)
            found = gauges(address)
    assert found["mmrlhf_ppo_score"][1] == 0.75
    assert 'run="a-run"' in found["mmrlhf_ppo_score"][0]
    assert found["mmrlhf_ppo_seconds_generate"][1] == 2.5
    assert found["mmrlhf_ppo_kl"][1] == 0.5
