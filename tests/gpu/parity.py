"""`python -m tests.gpu.parity FAMILY KERNEL DEVICE`: sampler and learner in bfloat16, by modality, as JSON."""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import torch

from mmrlhf_ray.algorithms.mismatch import gap
from mmrlhf_ray.config import GeneratorConfig, ModelConfig, SamplingConfig
from mmrlhf_ray.config.gate import ParityGate
from mmrlhf_ray.data.batches.collate import collate, flat_column, rollout_rows
from mmrlhf_ray.data.encoding.encode import load_encoder
from mmrlhf_ray.demo.families import FAMILIES
from mmrlhf_ray.models import load_policy, set_kernel
from mmrlhf_ray.pipelines.parity.cases import make_cases
from mmrlhf_ray.training.logprobs import ResponseLogprobs
from mmrlhf_ray.workers.roles.sampler import Sampler

SAMPLING = SamplingConfig(max_response_tokens=16)
SAMPLES = 4


def compare(model_dir: Path, kernel: str, device: str) -> Iterator[tuple[str, dict[str, float]]]:
    """Modality → how far sampler and learner are apart, and whether that is within the gate of a run."""
    encoder, bounds = load_encoder(model_dir), ParityGate().bounds("bfloat16")
    model = load_policy(encoder.adapter, model_dir, torch.bfloat16).to(device).eval()
    set_kernel(model.backbone, kernel)
    cases = make_cases(encoder)
    longest = max(len(ids) for case in cases for ids in case.prompts.column("prompt_token_ids").to_pylist())
    named = ModelConfig(path=str(model_dir), dtype="bfloat16")
    sampler = Sampler(named, GeneratorConfig(gpu_memory_utilization=0.3), SAMPLING, longest, seed=0, encoder=encoder)
    runner = asyncio.Runner()  # the engine answers to one loop alone
    try:
        for case in cases:
            rollouts, _ = runner.run(sampler.generate(case.prompts, case.media, SAMPLES, together=True))
            batch = collate(rollout_rows(rollouts, with_facts=False), [], case.features, encoder.eos_token_ids[0])
            batch = batch.to(torch.device(device))
            with torch.no_grad():
                output = model(batch.response_positions, **batch.inputs)
                learned = ResponseLogprobs(encoder)(output, batch.response_tokens).cpu()
            found = gap(_sampled(rollouts), learned, bounds.outlier or 0.0)
            within = found.mean <= (bounds.mean or 0) and found.kl <= (bounds.kl or 0)
            within = within and found.outliers <= (bounds.outliers or 0)
            yield case.name, {"mean": found.mean, "kl": found.kl, "outliers": found.outliers, "within": float(within)}
    finally:
        sampler.close()
        runner.close()


def _sampled(rollouts: pa.Table) -> torch.Tensor:
    return torch.from_numpy(flat_column(rollouts, "rollout_logprobs", range(len(rollouts))).copy())


if __name__ == "__main__":
    family, chosen, where = sys.argv[1:]
    with TemporaryDirectory() as scratch:
        FAMILIES[family](Path(scratch), 0)
        print(json.dumps(dict(compare(Path(scratch), chosen, where))))
