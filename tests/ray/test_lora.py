"""An adapter from a ZeRO-3 group to a vLLM generator: it alone is pushed, sampler and learner agree, the reference is
the policy without it; and the export is one model in transformers, peft and vLLM, merged and apart."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch
from safetensors.torch import load_file

from mmrlhf_ray.config import AlgorithmConfig, DataConfig, EngineConfig, LearnerConfig, ModelConfig, OptimizerConfig
from mmrlhf_ray.config.online import SamplingConfig
from mmrlhf_ray.config.parts import LoRAConfig
from mmrlhf_ray.data.batches.batching import PassBudget, plan_shards
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.rollout.batch import Prompts, Rollouts
from mmrlhf_ray.runtime.session import SessionInfo
from mmrlhf_ray.runtime.waits import deadline_get
from mmrlhf_ray.schema import EXPERIENCE
from mmrlhf_ray.training.objectives import PolicyObjective
from mmrlhf_ray.weights.buckets import pack
from mmrlhf_ray.workers.roles.generator import Generator, Generators
from mmrlhf_ray.workers.roles.learner import Learners, Updated
from tests.e2e.test_export import PRELUDE, cases
from tests.ray.support import ANSWER_S, encoded_prompts, end, start_generators, start_learners, stored

TOLERANCE = 1e-4
TEMPERATURE = 0.7
BUCKET_BYTES = 20_000
LORA = LoRAConfig(rank=3, alpha=6.0)
# Of the demo's model, three layers: q, k, v and o are 128 → 128, gate and up 128 → 320, down 320 → 128.
ADAPTER_BYTES = 4 * 3 * LORA.rank * (4 * (128 + 128) + 3 * (128 + 320))

__all__ = ["cases"]


@dataclass(frozen=True)
class Stage:
    """The roles of this test, and the prompts that all of it uses."""

    model_dir: Path
    policy: Learners
    generators: Generators
    prompts: Prompts

    def push(self, policy_version: int) -> int:
        return self.policy.push(self.generators, policy_version, BUCKET_BYTES)


@pytest.fixture(scope="module")
def stage(
    session: SessionInfo, model_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    table, media, features = encoded_prompts(
        model_dir, DataConfig(path=str(data_dir / "prompts_heldout")), tmp_path_factory.mktemp("scratch")
    )
    model = ModelConfig(path=str(model_dir))
    optimizer = OptimizerConfig(lr=0.02, max_grad_norm=100.0)
    sampling = SamplingConfig(temperature=TEMPERATURE, max_response_tokens=6)
    generators = start_generators(sampling, model, Generator, lora=LORA)
    policy = start_learners(
        PolicyObjective(AlgorithmConfig(), TEMPERATURE),
        model=model,
        learner=LearnerConfig(engine=EngineConfig(zero_stage=3), optimizer=optimizer, lora=LORA),
        optimizer_steps=100,
        world_size=2,
    )
    prompts = stored(table, media, features)
    yield Stage(model_dir, policy, generators, prompts)
    end(generators.group)
    end(policy.group)


def _gap(one: Iterable, other: Iterable) -> float:
    return max(float(np.abs(np.subtract(a, b)).max()) for a, b in zip(one, other, strict=True))


def _mismatch(stage: Stage, rollouts: Rollouts) -> float:
    learned, _ = stage.policy.infer(rollouts).result()
    return _gap(learned, rollouts.table.column("rollout_logprobs").to_pylist())


def _learn(stage: Stage, rollouts: Rollouts, seed: int, own_old_logprobs: bool = False) -> Updated:
    """One optimizer step on these responses, good and bad by lot."""
    rng, rows = np.random.default_rng(seed), rollouts.table.to_pylist()
    for row in rows:
        length = len(row["response_token_ids"])
        row |= {"score": 0.0, "old_logprobs": row["rollout_logprobs"], "advantages": [float(rng.normal())] * length}
        row |= {name: [0.0] * length for name in ("rewards", "ref_logprobs", "values", "returns")}
        row |= {"teacher_distributions": []}
    table = pa.Table.from_pylist(rows, schema=EXPERIENCE)
    shards = plan_shards(rollouts.lengths, rollouts.kinds, [list(range(len(rows)))], 2, PassBudget(4096))
    tokens = float(sum(len(row["response_token_ids"]) for row in rows))
    refs = stage.policy.update(ray.put(table), rollouts, shards, [tokens], 0.0, own_old_logprobs)
    return stage.policy.finish_update(refs, shards)


def test_only_the_adapter_is_pushed_and_sampler_and_learner_agree_step_after_step(stage: Stage) -> None:
    first = stage.generators.generate(stage.prompts, 2)
    reference = stage.policy.reference_logprobs(first).result()[0]
    assert _gap(stage.policy.infer(first).result()[0], reference) == 0.0  # a new adapter changes nothing
    assert _mismatch(stage, first) <= TOLERANCE
    rollouts = first
    for version in range(1, 4):
        before = stage.policy.infer(rollouts).result()[0]
        learned = _learn(stage, rollouts, version, own_old_logprobs=version > 1)
        assert learned.stats["grad_norm"] > 0
        if version > 1:  # the update says what a pass before it would have said
            assert learned.old_logprobs is not None
            assert _gap(learned.old_logprobs, before) <= TOLERANCE
            assert learned.stats["ratio_max"] == 1.0
        assert _mismatch(stage, rollouts) > 100 * TOLERANCE  # the learner is ahead, and the comparison sees it
        assert stage.push(version) == ADAPTER_BYTES
        rollouts = stage.generators.generate(stage.prompts, 2)
        assert set(rollouts.table.column("policy_version").to_pylist()) == {version}
        assert set(rollouts.table.column("modality").to_pylist()) == {"text", "image", "audio", "image+audio", "video"}
        assert _mismatch(stage, rollouts) <= TOLERANCE
        assert _gap(stage.policy.reference_logprobs(first).result()[0], reference) == 0.0
        assert _gap(stage.policy.infer(first).result()[0], reference) > 100 * TOLERANCE
    # Nothing that was computed with earlier weights is used again: the same request, before and after a push.
    sampled = _response(stage)
    assert _response(stage) == sampled
    _learn(stage, rollouts, 9)
    stage.push(4)
    again = _response(stage)
    assert all(again[prompt] != sampled[prompt] for prompt in sampled)


def _response(stage: Stage) -> dict[str, list[float]]:
    table = stage.generators.generate(stage.prompts, 1).table
    return dict(zip(*(table.column(c).to_pylist() for c in ("prompt_id", "rollout_logprobs")), strict=True))


def _receive(stage: Stage, tensors: list[tuple[str, torch.Tensor]]) -> None:
    generator = stage.generators.group.handles[0]
    deadline_get(generator.start_weight_update.remote("finish"), ANSWER_S, "start")
    deadline_get(generator.receive_bucket.remote(*pack(tensors)), ANSWER_S, "bucket")
    deadline_get(generator.finish_weight_update.remote(9), ANSWER_S, "finish")


def _whole_adapter(stage: Stage, tmp_path: Path) -> dict[str, torch.Tensor]:
    stage.policy.export(tmp_path / "model")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    names = {name.removeprefix("base_model.model."): tensor for name, tensor in saved.items()}
    return {name: tensor for name, tensor in names.items() if name.startswith("thinker.")}


def test_a_name_the_sampler_does_not_have_and_one_that_is_left_out_are_refused(stage: Stage, tmp_path: Path) -> None:
    tensors = _whole_adapter(stage, tmp_path)
    known = "thinker.model.layers.2.mlp.up_proj.lora_B.weight"
    unknown = known.replace("layers.2", "layers.9")
    with pytest.raises(RunError, match=rf"has no layer for 1 of the adapter's tensors: {unknown} "):
        _receive(stage, [*tensors.items(), (unknown, tensors[known])])
    with pytest.raises(
        RunError, match=r"sent nothing for 1 of .*: language_model\.model\.layers\.2\.mlp\.up_proj\.lora_B "
    ):
        _receive(stage, [(name, tensor) for name, tensor in tensors.items() if name != known])
    stage.push(5)
    assert _mismatch(stage, stage.generators.generate(stage.prompts, 1)) <= TOLERANCE


TRANSFORMERS = (
    PRELUDE
    + """
import torch
from peft import PeftModel
from transformers import AutoProcessor, Qwen2_5OmniThinkerForConditionalGeneration

names = {"image": "images", "audio": "audio", "video": "videos"}

def answer(model, adapter=None):
    processor = AutoProcessor.from_pretrained(model)
    thinker = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(model, dtype=torch.float32).eval()
    if adapter:
        thinker = PeftModel.from_pretrained(thinker, adapter).eval()
    for case in cases:
        text = processor.apply_chat_template(case["messages"], tokenize=False, add_generation_prompt=True)
        media = {}
        for kind, path in case["media"]:
            media.setdefault(names[kind], []).append(load(kind, path))
        inputs = processor(text=[text], **media, return_tensors="pt")
        out = thinker.generate(
            **inputs, do_sample=False, max_new_tokens=6, min_new_tokens=6, return_dict_in_generate=True,
            output_logits=True,
        )
        ids = out.sequences[0, inputs["input_ids"].shape[1]:].tolist()
        logprobs = [float(step[0].float().log_softmax(-1)[i]) for step, i in zip(out.logits, ids)]
        yield ids, logprobs

answers = [list(answer(*model)) for model in models]
print("ANSWERS " + json.dumps(answers))
"""
)

VLLM = (
    PRELUDE
    + """
from transformers import AutoProcessor
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

((model, *adapter),) = models  # vLLM keeps what it holds: one in a process
request = LoRARequest("adapter", 1, *adapter) if adapter else None
processor = AutoProcessor.from_pretrained(model)
llm = LLM(
    model=model, dtype="float32", max_model_len=128, enforce_eager=True, max_num_seqs=8, enable_lora=request is not None
)
prompts = []
for case in cases:
    text = processor.apply_chat_template(case["messages"], tokenize=False, add_generation_prompt=True)
    media = {}
    for kind, path in case["media"]:
        item = load(kind, path)
        rate = processor.feature_extractor.sampling_rate
        media.setdefault(kind, []).append((item, rate) if kind == "audio" else item)
    prompts.append({"prompt": text, **({"multi_modal_data": media} if media else {})})
params = SamplingParams(temperature=0.0, max_tokens=6, min_tokens=6, logprobs=0)
made = [output.outputs[0] for output in llm.generate(prompts, params, lora_request=request)]
answers = [[[list(m.token_ids), [step[i].logprob for step, i in zip(m.logprobs, m.token_ids)]] for m in made]]
print("ANSWERS " + json.dumps(answers))
"""
)


Answers = list[tuple[list[int], list[float]]]


def _answers(script: str, asked: Path, *models: tuple[Path, ...]) -> list[Answers]:
    """Tokens and logprobs of each model, which is a directory, or a directory and an adapter's."""
    done = subprocess.run(
        [sys.executable, "-c", script, str(asked), json.dumps([[str(path) for path in model] for model in models])],
        env=os.environ | _ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ANSWERS ")]
    return json.loads(line.removeprefix("ANSWERS "))


_ENVIRONMENT: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}


@pytest.mark.usefixtures("cases")
def test_the_export_is_one_model_merged_and_apart_in_transformers_and_vllm(
    stage: Stage, cases: list[dict[str, Any]], tmp_path: Path
) -> None:
    stage.policy.export(tmp_path / "model")
    base, merged, adapter, asked = stage.model_dir, tmp_path / "model", tmp_path / "adapter", tmp_path / "cases.json"
    described = json.loads((adapter / "adapter_config.json").read_text())
    assert (described["base_model_name_or_path"], described["r"]) == (str(base), LORA.rank)
    asked.write_text(json.dumps(cases))
    want, apart, untrained = _answers(TRANSFORMERS, asked, (merged,), (base, adapter), (base,))
    (merged_in_vllm,), (apart_in_vllm,) = (_answers(VLLM, asked, model) for model in ((merged,), (base, adapter)))
    others = {
        "adapter in transformers": apart,
        "merged in vLLM": merged_in_vllm,
        "adapter in vLLM": apart_in_vllm,
    }
    for name, got in others.items():
        assert [ids for ids, _ in got] == [ids for ids, _ in want], name
        assert _gap([lp for _, lp in got], [lp for _, lp in want]) <= TOLERANCE, name
    assert _gap([lp for _, lp in untrained], [lp for _, lp in want]) > 100 * TOLERANCE
