"""Do sampler and learner agree on a model? Prompt ids must be equal and log-probabilities close, for every modality."""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import soundfile
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from mmrlhf_ray.algorithms.logprobs import token_logprobs
from mmrlhf_ray.config import GeneratorConfig, ModelConfig, SamplingConfig
from mmrlhf_ray.data.collate import collate, flat_column, rollout_rows
from mmrlhf_ray.data.encode import Encoder, Features, RawMedia, encode_prompt, load_encoder
from mmrlhf_ray.data.media import MediaRow, media_row
from mmrlhf_ray.models import HeadedModel, load_policy
from mmrlhf_ray.pipelines.run_dir import check_models
from mmrlhf_ray.schema import ENCODED_PROMPT, MEDIA
from mmrlhf_ray.workers.generator import Generator, PromptMismatch

TOLERANCE = 1e-4
"""Largest |Δlogprob| in float32."""
_CASES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("text", ()),
    ("image", ("image",)),
    ("two images", ("image", "image")),
    ("audio", ("audio",)),
    ("image + audio", ("image", "audio")),
    ("video", ("video",)),
)
_PROMPTS_PER_CASE = 4
_SAMPLING = SamplingConfig(temperature=0.7, max_response_tokens=16)


@dataclass(frozen=True)
class Case:
    """One modality's prompts, ready for both sides."""

    name: str
    prompts: pa.Table
    media: pa.Table
    features: dict[str, Features]


@dataclass(frozen=True)
class Result:
    """What was found for one modality."""

    case: str
    equal_ids: bool
    max_difference: float
    """Largest |Δlogprob| over all sampled tokens; NaN where the ids differ."""
    tokens: int
    detail: str = ""

    @property
    def passed(self) -> bool:
        return self.equal_ids and self.max_difference <= TOLERANCE


def run(model_dir: Path) -> bool:
    """Print the table and return whether every modality of the family agrees. Raises ModelError."""
    check_models(str(model_dir))
    encoder = load_encoder(model_dir)
    kinds = set(encoder.adapter.placeholders)
    cases = [_case(encoder, name, wanted, number) for number, (name, wanted) in enumerate(_CASES) if kinds >= {*wanted}]
    results = list(compare(model_dir, encoder, cases))
    left_out = [name for name, wanted in _CASES if not kinds >= {*wanted}]
    _print(model_dir, results, left_out, encoder.adapter.family)
    return all(result.passed for result in results)


def compare(model_dir: Path, encoder: Encoder, cases: Sequence[Case]) -> Iterator[Result]:
    """Sample each case's prompts with vLLM and look up the same tokens in the learner's model, both in float32."""
    longest = max(len(ids) for case in cases for ids in case.prompts.column("prompt_token_ids").to_pylist())
    model = load_policy(encoder.adapter, model_dir, torch.float32)
    generator = Generator(
        ModelConfig(path=str(model_dir)), GeneratorConfig(), _SAMPLING, max_prompt_tokens=longest, seed=0, device="cpu"
    )
    for case in cases:
        try:
            rollouts, _ = generator.generate(case.prompts, case.media, n_samples=2, seed_offset=0)
        except PromptMismatch as mismatch:
            yield Result(case.name, False, float("nan"), 0, str(mismatch))
            continue
        difference = _difference(encoder, model, rollouts, case.features)
        yield Result(case.name, True, float(difference.max()), len(difference))


@torch.no_grad()
def _difference(
    encoder: Encoder, model: HeadedModel, rollouts: pa.Table, features: dict[str, Features]
) -> torch.Tensor:
    batch = collate(rollout_rows(rollouts, with_facts=False), [], features, encoder.eos_token_ids[0])
    output = model(batch.response_positions, **batch.inputs)
    banned = torch.tensor(encoder.banned_token_ids, dtype=torch.long)
    logprobs = token_logprobs(output, batch.response_tokens, _SAMPLING.temperature, banned)
    sampled = torch.from_numpy(flat_column(rollouts, "rollout_logprobs", range(len(rollouts))).copy())
    return (logprobs - sampled).abs()


def _case(encoder: Encoder, name: str, kinds: Sequence[str], seed: int) -> Case:
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    clips: dict[str, MediaRow] = {}
    features: dict[str, Features] = {}
    for number in range(_PROMPTS_PER_CASE):
        made = [media_row(kind, _MAKERS[kind](rng, encoder.sampling_rate)) for kind in kinds]
        clips |= {clip["media_id"]: clip for clip in made}
        parts: list[dict[str, Any]] = [{"type": kind} for kind in kinds] + [{"type": "text", "text": "what is this ?"}]
        media = [RawMedia(clip["media_id"], clip["kind"], clip["data"]) for clip in made]
        encoded = encode_prompt(encoder, json.dumps([{"role": "user", "content": parts}]), media)
        features |= encoded.features
        rows.append(
            {
                "prompt_id": f"{name} {number}",
                "task": "parity",
                "modality": "+".join(dict.fromkeys(kinds)) or "text",
                "prompt_token_ids": encoded.token_ids,
                "collapsed_token_ids": encoded.collapsed_token_ids,
                "facts_token_ids": [],
                "media_ids": [clip["media_id"] for clip in made],
            }
        )
    prompts = pa.Table.from_pylist(rows, schema=ENCODED_PROMPT)
    return Case(name, prompts, pa.Table.from_pylist(list(clips.values()), schema=MEDIA), features)


def _image(rng: np.random.Generator, _: int) -> bytes:
    out = io.BytesIO()
    width, height = (int(n) for n in rng.integers(40, 120, 2))
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def _audio(rng: np.random.Generator, sampling_rate: int) -> bytes:
    out = io.BytesIO()
    samples = 0.1 * rng.standard_normal(int(sampling_rate * rng.uniform(0.2, 0.4))).astype(np.float32)
    soundfile.write(out, samples, sampling_rate, format="WAV")
    return out.getvalue()


def _video(rng: np.random.Generator, _: int) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=Fraction(2))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for _ in range(4):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


_MAKERS = {"image": _image, "audio": _audio, "video": _video}


def _print(model_dir: Path, results: Sequence[Result], left_out: Sequence[str], family: str) -> None:
    console = Console(highlight=False)
    table = Table(title=f"{model_dir} ({family}), float32", title_justify="left")
    for column in ("modality", "prompt ids", "max |Δlogprob|", "tokens", ""):
        table.add_column(column)
    for result in results:
        ids, verdict = "equal" if result.equal_ids else "DIFFER", "ok" if result.passed else "FAILED"
        table.add_row(result.case, ids, f"{result.max_difference:.1e}", str(result.tokens), verdict)
    console.print(table)
    for name in left_out:
        console.print(f"{name}: not a modality of this family")
    for result in results:
        if result.detail:
            console.print(result.detail)
