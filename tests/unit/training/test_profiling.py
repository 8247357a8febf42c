"""PyTorch's profiler around a block."""

import gzip
import json

import torch

from mmrlhf_ray.training.profiling import profiled, step_dir


def test_a_trace_has_the_operators_of_its_block_alone(tmp_path):
    file = step_dir(tmp_path, 12) / "policy-0.json.gz"
    torch.ones(4, 4) @ torch.ones(4, 4)
    with profiled(file):
        torch.ones(4, 4).exp()
    assert file.relative_to(tmp_path).parts == ("profile", "step-000012", "policy-0.json.gz")
    names = {event.get("name") for event in json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]}
    assert "aten::exp" in names
    assert "aten::mm" not in names


def test_nothing_is_written_where_nothing_is_asked_for(tmp_path):
    with profiled(None):
        pass
    assert list(tmp_path.iterdir()) == []
