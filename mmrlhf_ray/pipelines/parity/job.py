"""Do sampler and learner agree on a model? Prompt ids must be equal and log-probabilities close, for every modality,
with the weights of the directory and with others that are pushed as in a run."""

import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mmrlhf_ray.config import GeneratorConfig, ModelConfig, SamplingConfig
from mmrlhf_ray.config.environment import PythonEnvironment
from mmrlhf_ray.data.batches.collate import collate, flat_column, rollout_rows
from mmrlhf_ray.data.encoding.encode import EncodedPrompt, Encoder, Features, RawMedia, load_encoder
from mmrlhf_ray.data.encoding.features import read_features
from mmrlhf_ray.data.encoding.turns import encode_turn
from mmrlhf_ray.data.media import MediaRow
from mmrlhf_ray.errors import ModelError, RunError
from mmrlhf_ray.models import HeadedModel, grouped, load_policy, merged_weights
from mmrlhf_ray.models.verdict import ParityRow, Verdict, description_digest, versions, write_verdict
from mmrlhf_ray.pipelines.parity import shows
from mmrlhf_ray.pipelines.parity.cases import TURNS, Case, left_out, make_cases, make_turns
from mmrlhf_ray.pipelines.parity.report import print_verdict, shown
from mmrlhf_ray.pipelines.parity.shows import QUESTION, Shows
from mmrlhf_ray.planning.preflight import check_models
from mmrlhf_ray.training.logprobs import ResponseLogprobs
from mmrlhf_ray.weights.layout import TensorLayout
from mmrlhf_ray.weights.push import check_pushed, send
from mmrlhf_ray.weights.shared import SharedBuffer
from mmrlhf_ray.workers.roles.episodes import Episodes
from mmrlhf_ray.workers.roles.sampler import PromptMismatch, Sampler

TOLERANCE = 1e-4
"""Largest |Δlogprob| in float32."""
VISIBLE = 10 * TOLERANCE
"""Media and pushed weights must change log-probabilities by more than this, or their agreement says nothing."""
_SAMPLING = SamplingConfig(temperature=0.7, max_response_tokens=16)
_SAMPLES = 2
_BUCKET_BYTES = 64 << 20
_CHANGE, _LEAST_SPREAD = 0.1, 0.02


@dataclass(frozen=True)
class _Seen:
    """The result of comparing one case under some weights."""

    row: ParityRow
    rollouts: pa.Table | None
    """None where the sampler refused or the ids differ."""
    features: dict[str, Features]
    """Of all that they show."""


def run(model_dir: Path) -> bool:
    """Print the table, keep the verdict, and return whether every modality of the family agrees. Raises ModelError."""
    check_models(str(model_dir))
    verdict = examine(Path(model_dir))
    file = write_verdict(Path(model_dir), verdict)
    print_verdict(model_dir, verdict, left_out(load_encoder(model_dir, unverified=True)), file)
    return verdict.passed


def examine(model_dir: Path) -> Verdict:
    """Compare in every modality. Raises ModelError for a directory that cannot be read at all."""
    encoder = load_encoder(model_dir, unverified=True)
    rows: tuple[ParityRow, ...] = ()
    reason = ""
    try:
        rows = compare(model_dir, encoder, [*make_cases(encoder), *_turns(encoder)])
    except Exception as error:  # noqa: BLE001  # the model's own code in transformers and vLLM raises whatever it does
        reason = f"{type(error).__name__}: {error}"
    return Verdict(
        family=encoder.adapter.family,
        passed=bool(rows) and all(row.passed for row in rows if row.case != TURNS),
        rows=rows,
        versions=versions(),
        described_by=description_digest(model_dir),
        reason=reason,
    )


def _turns(encoder: Encoder) -> list[Case]:
    """A model whose template knows no conversation of several turns can do all else."""
    try:
        return make_turns(encoder)
    except ModelError as error:
        _say(f"no episodes of several turns: {error}")
        return []


def compare(model_dir: Path, encoder: Encoder, cases: Sequence[Case]) -> tuple[ParityRow, ...]:
    """Sample each case's prompts with vLLM and look up the same tokens in the learner's model, both in float32; then
    change the learner's weights, push them, and do it again."""
    _say(f"starting vLLM for {', '.join(case.name for case in cases)}; a minute or more with a large model")
    longest = max(len(ids) for case in cases for ids in case.prompts.column("prompt_token_ids").to_pylist())
    most = max(_turn_tokens(encoder, case) for case in cases)
    sampler = Sampler(
        ModelConfig(path=str(model_dir)),
        GeneratorConfig(),
        _SAMPLING,
        max_prompt_tokens=longest + most,
        seed=0,
        encoder=encoder,
    )
    try:
        model = load_policy(encoder.adapter, model_dir, torch.float32)
        return asyncio.run(_before_and_after(encoder, model, sampler, cases))
    finally:
        sampler.close()


def _turn_tokens(encoder: Encoder, case: Case) -> int:
    """Of a response with all its turns."""
    seen = sum(len(_turn(encoder, clip).token_ids) for clip in case.later)
    return (len(case.later) + 1) * (_SAMPLING.max_response_tokens + 1) + seen


def _turn(encoder: Encoder, clip: MediaRow) -> EncodedPrompt:
    content = [{"type": clip["kind"]}, {"type": "text", "text": QUESTION}]
    return encode_turn(encoder, content, [RawMedia.of(clip)])


async def _before_and_after(
    encoder: Encoder, model: HeadedModel, sampler: Sampler, cases: Sequence[Case]
) -> tuple[ParityRow, ...]:
    before, after = [], []
    for case in cases:
        before.append(await _compare(encoder, model, sampler, case))
        _say(_found(before[-1].row, before[-1].row.before))
    _change_weights(model)
    await _push(encoder, model, sampler)
    for case, seen in zip(cases, before, strict=True):
        after.append(await _after(encoder, model, sampler, case, seen))
        _say(f"after a weight push, {_found(after[-1], after[-1].after)}")
    return tuple(after)


def _found(row: ParityRow, difference: float | None) -> str:
    return f"{row.case}: {'ok' if row.passed else 'FAILED'}, {shown(difference)}"


def _say(text: str) -> None:
    """How far it is; the table comes at the end, on standard output."""
    print(f"parity  {text}", file=sys.stderr, flush=True)


async def _compare(encoder: Encoder, model: HeadedModel, sampler: Sampler, case: Case) -> _Seen:
    try:
        rollouts, features = await _sampled(encoder, sampler, case)
    except RunError as refused:
        same = not isinstance(refused, PromptMismatch)
        return _Seen(ParityRow(case.name, same, None, None, None, 0, False, f"{case.name}: {refused}"), None, {})
    mask, lengths = _mask(rollouts), _lengths(rollouts)
    learned = _logprobs(encoder, model, rollouts, features)
    difference, where = _worst(rollouts, learned)
    influence = None
    if len(case.media):
        changed = _logprobs(encoder, model, rollouts, _changed_media(features))
        influence = min(float(d.max()) for d in _moved(learned, changed, mask).split(lengths))
    detail = where if difference > TOLERANCE else ""
    if influence is not None and influence <= VISIBLE:
        detail += f"\n{case.name}: other media change no log-probability by more than {influence:.1e}: nothing is seen"
    if case.later:
        detail += _out_of_turn(encoder, model, rollouts, features, learned)
    count = int(mask.sum())
    return _Seen(ParityRow(case.name, True, difference, None, influence, count, not detail, detail), rollouts, features)


async def _sampled(encoder: Encoder, sampler: Sampler, case: Case) -> tuple[pa.Table, dict[str, Features]]:
    """ROLLOUT of the case, and the features of all that it shows."""
    if not case.later:
        rollouts, _ = await sampler.generate(case.prompts, case.media, _SAMPLES, together=True)
        return rollouts, case.features
    with TemporaryDirectory() as directory:
        clips = []
        for number, clip in enumerate(case.later):
            file = Path(directory) / str(number)
            file.write_bytes(clip["data"])
            clips.append((clip["kind"], clip["mime"], str(file)))
        environment = PythonEnvironment(
            kind="python",
            environment=f"{shows.__file__}:{Shows.__name__}",
            arguments={"clips": clips},
            max_turns=len(clips) + 1,
            max_turn_tokens=_SAMPLING.max_response_tokens,
            long_turn="is_closed",  # few models that were not trained end a turn by themselves
            processes=1,
        )
        most = _SAMPLING.model_copy(update={"max_response_tokens": _turn_tokens(encoder, case)})
        longest = max(len(ids) for ids in case.prompts.column("prompt_token_ids").to_pylist())
        episodes = Episodes(sampler, encoder, environment, most, GeneratorConfig(), longest, None)
        try:
            rollouts, _, features = await episodes.play(case.prompts, case.records, case.media, _SAMPLES, together=True)
        finally:
            episodes.close()
    return rollouts, case.features | read_features(features)


def _out_of_turn(
    encoder: Encoder, model: HeadedModel, rollouts: pa.Table, features: Mapping[str, Features], learned: Tensor
) -> str:
    """The clip of the last observation must change what follows it and nothing before; else what was found."""
    found = []
    for number, row in enumerate(rollouts.to_pylist()):
        seen = [segment for segment in row["segments"] if segment["kind"] == "observation"]
        if not seen:
            continue
        start, end = seen[-1]["start"], seen[-1]["end"]
        last = row["media_ids"][-1]
        other = {**features, last: _changed_media({last: features[last]})[last]}
        changed = _logprobs(encoder, model, rollouts, other)
        moved = _moved(learned, changed, _mask(rollouts)).split(_lengths(rollouts))[number]
        if float(moved[:start].max()) > TOLERANCE:
            found.append(f"\nresponse {number}: the clip of the last turn changes what came before it")
        if end < len(moved) and float(moved[end:].max()) <= VISIBLE:
            found.append(f"\nresponse {number}: the clip of the last turn changes nothing that follows it")
    return "".join(dict.fromkeys(found))


async def _after(encoder: Encoder, model: HeadedModel, sampler: Sampler, case: Case, seen: _Seen) -> ParityRow:
    """The row with what is found with the pushed weights."""
    if seen.rollouts is None:
        return seen.row
    moved, _ = _worst(seen.rollouts, _logprobs(encoder, model, seen.rollouts, seen.features))
    again = (await _compare(encoder, model, sampler, case)).row
    detail = seen.row.detail + (f"\nafter a weight push: {again.detail}" if again.detail else "")
    if moved <= VISIBLE:
        detail += f"\n{case.name}: the changed weights move no log-probability by more than {moved:.1e}"
    return replace(seen.row, after=again.before, passed=seen.row.passed and again.passed and not detail, detail=detail)


def _mask(rollouts: pa.Table) -> Tensor:
    """Which tokens were sampled, bool [N]; placeholders in observations have no probability to be."""
    return torch.from_numpy(flat_column(rollouts, "response_mask", range(len(rollouts))).copy())


def _moved(first: Tensor, second: Tensor, mask: Tensor) -> Tensor:
    """|Δlogprob| where `mask` is true, else 0; infinite where one is no number."""
    return torch.where(mask, (first - second).abs().nan_to_num(nan=torch.inf), 0.0)


@torch.no_grad()
def _logprobs(encoder: Encoder, model: HeadedModel, rollouts: pa.Table, features: Mapping[str, Features]) -> Tensor:
    """The learner's, of all response tokens: a batch of rows of different lengths."""
    batch = collate(rollout_rows(rollouts, with_facts=False), [], features, encoder.eos_token_ids[0])
    output = model(batch.response_positions, **batch.inputs)
    return ResponseLogprobs(encoder, _SAMPLING.temperature)(output, batch.response_tokens)


def _worst(rollouts: pa.Table, learned: Tensor) -> tuple[float, str]:
    """The largest |Δlogprob|, and where it is."""
    sampled = torch.from_numpy(flat_column(rollouts, "rollout_logprobs", range(len(rollouts))).copy())
    difference = _moved(learned, sampled, _mask(rollouts))
    at = int(difference.argmax())
    row, position = next(_rows_and_positions(_lengths(rollouts), at))
    prompt = rollouts.column("prompt_id")[row].as_py()
    token = rollouts.column("response_token_ids")[row].as_py()[position]
    return float(difference[at]), (
        f"prompt {prompt}, response token {position} (id {token}): log-probability {float(learned[at]):.6f} in the "
        f"learner, {float(sampled[at]):.6f} in the sampler"
    )


def _rows_and_positions(lengths: Sequence[int], flat: int) -> Iterator[tuple[int, int]]:
    for row, end in enumerate(np.cumsum(lengths)):
        if flat < end:
            yield row, flat - int(end) + lengths[row]


def _lengths(rollouts: pa.Table) -> list[int]:
    return [len(ids) for ids in rollouts.column("response_token_ids").to_pylist()]


def _changed_media(features: Mapping[str, Features]) -> dict[str, Features]:
    """The negative of every picture and sound; sizes and masks stay."""
    return {
        media_id: {key: -value if value.dtype.kind == "f" and value.ndim > 1 else value for key, value in parts.items()}
        for media_id, parts in features.items()
    }


@torch.no_grad()
def _change_weights(model: HeadedModel) -> None:
    noise = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        spread = max(float(parameter.std()) if parameter.numel() > 1 else 0.0, _LEAST_SPREAD)
        parameter.add_(torch.randn(parameter.shape, generator=noise) * spread * _CHANGE)


async def _push(encoder: Encoder, model: HeadedModel, sampler: Sampler) -> None:
    """As a learner's first rank does. Raises RunError when names or bytes differ at the other end."""
    await sampler.start_weight_update()
    groups = ([(w.name, w.value()) for w in group] for group in grouped(merged_weights(model), _BUCKET_BYTES))
    here = _Here(sampler, asyncio.get_running_loop(), SharedBuffer())
    sent = await asyncio.to_thread(send, groups, encoder.adapter, here)
    check_pushed(sent, await sampler.finish_weight_update(policy_version=1), "the sampler")


@dataclass(frozen=True)
class _Here:
    """The transport where sampler and learner are one process: from a thread to the sampler's loop."""

    sampler: Sampler
    loop: asyncio.AbstractEventLoop
    buffer: SharedBuffer

    def carry(self, layout: list[TensorLayout], payload: np.ndarray) -> None:
        bucket = self.buffer.put(layout, payload)
        asyncio.run_coroutine_threadsafe(self.sampler.receive_bucket(bucket), self.loop).result()

    def finish(self) -> None:
        """Nothing is on the way."""
