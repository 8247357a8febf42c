"""The generator against bare vLLM on the same requests: tokens a second, side by side.

Bare vLLM is `vllm.LLM` in this process, given decoded media and one call for all prompts. The generator's sampler gets
tables as in a run: it decodes media, checks ids, and returns a table. Both engines live at once and take turns, with
the same model, settings, prompts of all modalities, and seeds; their tokens are compared as well. No weights are pushed
in between, so that both keep their caches.

    python -m benchmarks.generator_vs_vllm OUT.json --model MODEL --prompts PROMPTS

Without --model a tiny model of Omni-Digits is made, whose overhead is all there is to see.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmrlhf_ray.config import DataConfig, GeneratorConfig, ModelConfig, SamplingConfig
from mmrlhf_ray.data.encoding.encode import RawMedia, load_encoder, processor_kwargs
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.demo.data import Sizes, build_data
from mmrlhf_ray.demo.model import build_model
from mmrlhf_ray.schema import PROMPT
from mmrlhf_ray.workers.roles.encoder import PromptEncoder
from mmrlhf_ray.workers.roles.engine_input import prefix_order, sampling_parameters, vllm_input
from mmrlhf_ray.workers.roles.sampler_process import Generate, SamplerProcess, SamplerSpec

_BLOCK = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--prompts", type=Path, help="a directory of records, as in data.path")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48, help="most tokens of a response")
    parser.add_argument("--max-prompt-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(options, Path(scratch))
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({name: value for name, value in found.items() if name != "rounds"}, indent=1))


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Tokens a second of both in every round, their medians, and the ratio."""
    model, prompts = options.model or scratch / "model", options.prompts or scratch / "data" / "prompts_heldout"
    if options.model is None:
        build_model(model, seed=0)
    if options.prompts is None:
        build_data(scratch / "data", 0, Sizes(26, 39, options.count, 20, 10, 10, 10))
    data = DataConfig(path=str(prompts), max_prompt_tokens=options.max_prompt_tokens)
    sampling = SamplingConfig(max_response_tokens=options.tokens)
    config = GeneratorConfig(max_num_seqs=64, block_size=_BLOCK)
    encoder: Any = PromptEncoder(str(model), data, read_records(data, PROMPT, scratch), scratch, seed=0)
    rows = encoder.begin(encoder.find_bad(0, 1, None), 1, True).rows
    table, _, _, *clips = encoder.slice(0, min(options.count, rows))
    media = pa.concat_tables(clips[::2])
    spec = SamplerSpec(ModelConfig(path=str(model)), config, sampling, data.most_prompt_tokens, 0, None, data)
    ours, bare = SamplerProcess(spec, scratch), _Bare(spec, table, media, options.samples)
    rounds = []
    with asyncio.Runner() as runner:
        for number in range(options.rounds + 1):
            request = Generate(table, media, options.samples, together=True)
            start = time.monotonic()
            rollouts, _ = runner.run(ours.ask(request))
            middle = time.monotonic()
            ids = bare.generate()
            end = time.monotonic()
            sampled = rollouts.column("response_token_ids").to_pylist()
            tokens = sum(map(len, sampled)), sum(map(len, ids))
            if number:  # the first one warms both up
                rounds.append({
                    "generator": tokens[0] / (middle - start),
                    "vllm": tokens[1] / (end - middle),
                    "same": sampled == ids,
                })  # fmt: skip
    return {
        "generator_tokens_per_s": statistics.median(r["generator"] for r in rounds),
        "vllm_tokens_per_s": statistics.median(r["vllm"] for r in rounds),
        "ratio": statistics.median(r["generator"] / r["vllm"] for r in rounds),
        "same_tokens": all(r["same"] for r in rounds),
        "prompts": len(table),
        "samples": options.samples,
        "rounds": rounds,
    }


class _Bare:
    """`vllm.LLM` with the same model and settings."""

    def __init__(self, spec: SamplerSpec, prompts: pa.Table, media: pa.Table, samples: int):
        os.environ |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": str(spec.config.cpu_kv_cache_gb),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "TORCHDYNAMO_DISABLE": "1",
        }
        from vllm import LLM

        encoder = load_encoder(spec.model.path, spec.data)
        rows = prompts.to_pylist()
        clips = {row["media_id"]: RawMedia.of(row) for row in media.to_pylist()}
        self._order = prefix_order(rows)
        self._inputs = [vllm_input(encoder, rows[i], clips) for i in self._order]
        self._params = [
            sampling_parameters(encoder, spec.sampling, samples, rows[i]["group_id"] * samples) for i in self._order
        ]
        self._llm = LLM(
            model=spec.model.path,
            dtype=spec.model.compute_dtype,
            max_model_len=spec.max_prompt_tokens + spec.sampling.max_response_tokens,
            max_num_seqs=spec.config.max_num_seqs,
            distributed_executor_backend="uni",
            enforce_eager=True,
            block_size=_BLOCK,
            logprobs_mode="processed_logprobs",
            limit_mm_per_prompt=dict.fromkeys(encoder.adapter.placeholders, spec.config.max_media_per_prompt),
            mm_processor_kwargs=processor_kwargs(encoder),
            seed=spec.seed,
            disable_log_stats=True,
        )

    def generate(self) -> list[list[int]]:
        """Tokens of each response, in prompt order."""
        outputs = self._llm.generate(self._inputs, self._params, use_tqdm=False)
        by_row = dict(zip(self._order, outputs, strict=True))
        return [list(one.token_ids) for row in sorted(by_row) for one in by_row[row].outputs]


if __name__ == "__main__":
    main()
