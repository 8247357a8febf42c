"""What is compared are the job files, for a demo run that lies anywhere."""

from pathlib import Path

import pytest

from benchmarks import algorithms
from mmrlhf_ray.config import PPOConfig, PreferenceConfig, load_config
from mmrlhf_ray.demo.profiles import Paths

JOBS = Path(__file__).parents[3] / "jobs"


@pytest.mark.parametrize("name", algorithms.NAMES)
def test_a_run_is_its_job_file_below_another_root(name: str) -> None:
    kind = PreferenceConfig if name in algorithms.OFFLINE else PPOConfig
    make = algorithms.offline if name in algorithms.OFFLINE else algorithms.online
    said = load_config(JOBS / f"demo-{name}.yaml", ["seed=3"], kind)
    assert make(name, Paths(Path("runs/demo")), 3) == said
    elsewhere = make(name, Paths(Path("/else/where")), 3)
    here = str(Path("runs/demo").absolute())
    assert elsewhere.data.path == said.data.path.replace(here, "/else/where")
    assert "runs/demo" not in elsewhere.model_dump_json()
    assert elsewhere.model_dump_json().replace("/else/where", here) == said.model_dump_json()
