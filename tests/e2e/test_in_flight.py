"""Weights that are replaced while the real vLLM samples: which version sampled what, and whether the learner's model of
that version agrees, in all modalities and all three modes. Nothing that other weights computed may be found again.

Sampler and model are in this process, as in `mmrlhf parity`.
"""

import asyncio
import weakref
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from mmrlhf_ray.config import DataConfig, GeneratorConfig, ModelConfig, SamplingConfig
from mmrlhf_ray.data.batches.collate import collate, rollout_rows
from mmrlhf_ray.data.encoding.encode import Encoder, Features, load_encoder
from mmrlhf_ray.data.encoding.features import read_features
from mmrlhf_ray.models import HeadedModel, checkpoint_tensors, load_policy, merged_weights
from mmrlhf_ray.training.logprobs import ResponseLogprobs
from mmrlhf_ray.weights.buckets import checksum, pack
from mmrlhf_ray.weights.layout import InFlight, combine
from mmrlhf_ray.weights.shared import SharedBuffer
from mmrlhf_ray.workers.roles import engine_input
from mmrlhf_ray.workers.roles.sampler import Sampler
from tests.ray.support import encoded_prompts

TOLERANCE = 1e-4
SEATS, SAMPLES, LONG = 16, 4, 128
GROUPS = 7
SAMPLING = SamplingConfig(temperature=0.7, max_response_tokens=LONG)


@dataclass
class Stage:
    """A sampler, the learner's model under the weights of every version, and prompts of all modalities."""

    encoder: Encoder
    model: HeadedModel
    sampler: Sampler
    run: Callable[[Coroutine[Any, Any, Any]], Any]
    prompts: pa.Table
    media: pa.Table
    features: dict[str, Features]
    weights: dict[int, dict[str, torch.Tensor]]

    @property
    def newest(self) -> int:
        return max(self.weights)

    async def ask(self, group: int) -> pa.Table:
        table, _ = await self.sampler.generate(self.prompts.slice(group, 1), self.media, SAMPLES)
        return table

    @torch.no_grad()
    def learned(self, rollouts: pa.Table, version: int) -> list[np.ndarray]:
        """The model's log-probabilities of each response under the weights of a version."""
        self.model.load_state_dict(self.weights[version])
        batch = collate(rollout_rows(rollouts, with_facts=False), [], self.features, self.encoder.eos_token_ids[0])
        output = self.model(batch.response_positions, **batch.inputs)
        flat = ResponseLogprobs(self.encoder, SAMPLING.temperature)(output, batch.response_tokens).numpy()
        lengths = [len(ids) for ids in rollouts.column("response_token_ids").to_pylist()]
        return np.split(flat, np.cumsum(lengths)[:-1])

    async def push(self, mode: InFlight, midst: Callable[[], None] = lambda: None) -> None:
        """New weights; `midst` is called while the push is open."""
        version = self.newest + 1
        noise = torch.Generator().manual_seed(version)
        self.model.load_state_dict(self.weights[version - 1])
        with torch.no_grad():
            for w in self.model.parameters():
                spread = max(float(w.std()) if w.numel() > 1 else 0.0, 0.02)
                w.add_(torch.randn(w.shape, generator=noise) * 0.1 * spread)
        self.weights[version] = {name: w.clone() for name, w in self.model.state_dict().items()}
        sent = [
            item
            for w in merged_weights(self.model)
            for item in checkpoint_tensors(self.encoder.adapter, w.name, w.value())
        ]
        await self.sampler.start_weight_update(mode)
        midst()
        layout, payload = pack(sent)
        await self.sampler.receive_bucket(SharedBuffer().put(layout, payload))
        pushed = await self.sampler.finish_weight_update(version)
        assert pushed.checksum == combine({name: checksum(tensor) for name, tensor in sent})


@pytest.fixture(scope="module")
def stage(model_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    scratch = tmp_path_factory.mktemp("scratch")
    prompts, media, features = encoded_prompts(model_dir, DataConfig(path=str(data_dir / "prompts_heldout")), scratch)
    kinds = prompts.column("modality").to_pylist()
    one_of_each = [kinds.index(kind) for kind in sorted(set(kinds))]
    others = [row for row in range(len(prompts)) if row not in one_of_each]
    prompts = prompts.take((one_of_each + others)[:GROUPS])
    encoder = load_encoder(model_dir)
    sampler = Sampler(
        ModelConfig(path=str(model_dir)), GeneratorConfig(max_num_seqs=SEATS), SAMPLING, 64, 0, encoder=encoder
    )
    model = load_policy(encoder.adapter, model_dir, torch.float32).eval()
    weights = {0: {name: w.clone() for name, w in model.state_dict().items()}}
    with asyncio.Runner() as runner:
        yield Stage(encoder, model, sampler, runner.run, prompts, media, read_features(features), weights)
        sampler.close()


async def crossed(stage: Stage, mode: InFlight) -> tuple[pa.Table, pa.Table]:
    """Responses to all prompts, of which some were being sampled and most were waiting when a push came; and those to
    a prompt that was sent in its midst."""
    running = [asyncio.create_task(stage.ask(group)) for group in range(3)]
    await stage.sampler.heartbeat()  # its token comes after their first ones, and long before their last
    waiting = [asyncio.create_task(stage.ask(group)) for group in range(3, len(stage.prompts))]
    await asyncio.sleep(0)  # they stand in line before the push
    late: list[asyncio.Task[pa.Table]] = []
    await stage.push(mode, lambda: late.append(asyncio.create_task(stage.ask(0))))
    return pa.concat_tables(await asyncio.gather(*running, *waiting)), await late[0]


def gaps(stage: Stage, rollouts: pa.Table, version: int) -> float:
    """The largest difference to the model of a version, of the tokens that this version is said to have sampled."""
    largest = 0.0
    for row, learned in zip(rollouts.to_pylist(), stage.learned(rollouts, version), strict=True):
        difference = np.abs(learned - np.array(row["rollout_logprobs"], np.float32))
        own = [difference[s["start"] : s["end"]] for s in row["versions"] if s["version"] == version]
        largest = max([largest, *(float(part.max()) for part in own if len(part))])
    return largest


@pytest.mark.parametrize("mode", ["finish", "keep", "recompute"])
def test_responses_say_who_sampled_them_and_the_learner_agrees(stage: Stage, mode: InFlight) -> None:
    before = stage.newest
    responses, late = stage.run(crossed(stage, mode))
    now = stage.newest
    assert (len(responses), len(late)) == (len(stage.prompts) * SAMPLES, SAMPLES)
    spans = [[s["version"] for s in row] for row in responses.column("versions").to_pylist()]
    assert responses.column("policy_version").to_pylist() == [of_row[0] for of_row in spans]
    began = [of_row[0] for of_row in spans]
    assert {before, now} == set(began), "some were at work when the push came, and some were waiting"
    assert ([before, now] in spans) == (mode != "finish")
    assert all(of_row in ([before], [now], [before, now]) for of_row in spans)

    assert gaps(stage, responses, before) <= TOLERANCE
    if mode != "keep":  # there, keys and values of the version before are part of what comes after
        assert gaps(stage, responses, now) <= TOLERANCE
    assert [[s["version"] for s in row] for row in late.column("versions").to_pylist()] == [[now]] * SAMPLES
    assert gaps(stage, late, now) <= TOLERANCE

    # The same prompts and media once more: no prefix, no encoded picture of the version before may be found again.
    again, _ = stage.run(stage.sampler.generate(stage.prompts, stage.media, 2, together=True))
    assert set(again.column("policy_version").to_pylist()) == {now}
    assert gaps(stage, again, now) <= TOLERANCE
    as_if_old = again.set_column(again.column_names.index("versions"), "versions", _labelled(again, before))
    assert gaps(stage, as_if_old, before) > 100 * TOLERANCE, "the comparison sees the difference"


def _labelled(rollouts: pa.Table, version: int) -> pa.Array:
    spans = [[s | {"version": version} for s in row] for row in rollouts.column("versions").to_pylist()]
    return pa.array(spans, rollouts.schema.field("versions").type)


def test_media_of_many_groups_are_not_decoded_at_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref] = []
    most = 0
    decode = engine_input.media_arguments

    def watched(encoder: Encoder, media: list) -> dict:
        nonlocal most
        decoded = decode(encoder, media)
        alive.extend(weakref.ref(clip.frames) for clip in decoded.get("video", []))
        most = max(most, sum(one() is not None for one in alive))
        return decoded

    monkeypatch.setattr(engine_input, "media_arguments", watched)
    videos = [i for i, kind in enumerate(stage.prompts.column("modality").to_pylist()) if kind == "video"]

    async def all_at_once() -> None:
        await asyncio.gather(*(stage.ask(group) for group in videos * 8))

    stage.run(all_at_once())
    assert len(alive) == len(videos) * 8
    assert most <= 2, "the one that is being decoded, and the last one"
