"""A group in the form in which vLLM is asked for it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mmrlhf_ray.config.online import SamplingConfig
from mmrlhf_ray.data.encoding.encode import Encoder, RawMedia, clip_metadata, media_arguments
from mmrlhf_ray.rollout.episode import Row

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams


def clips_of(rows: list[Row], media: pa.Table) -> dict[str, RawMedia]:
    """The clips that these rows show, by id."""
    shown = {media_id for row in rows for media_id in row["media_ids"]}
    return {r["media_id"]: RawMedia.of(r) for r in media.to_pylist() if r["media_id"] in shown}


def sampling_parameters(
    encoder: Encoder, sampling: SamplingConfig, n_samples: int, seed: int, streamed: bool = False
) -> "SamplingParams":
    """vLLM's, of one group; responses get `seed` and those after it. `streamed`: tokens are told as they come."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    return SamplingParams(
        n=n_samples,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_response_tokens,
        stop_token_ids=list(encoder.eos_token_ids),
        logit_bias=dict.fromkeys(encoder.banned_token_ids, -100.0),
        logprobs=0,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA if streamed else RequestOutputKind.FINAL_ONLY,
        seed=seed % 2**31,
    )


def vllm_input(
    encoder: Encoder, row: Row, clips: Mapping[str, RawMedia], decoded: dict[str, Any] | None = None
) -> dict[str, Any]:
    """vLLM's input: collapsed ids, decoded media, and media ids so that a clip is processed once. `decoded`: of media
    that are decoded already, to which new ones are added."""
    request: dict[str, Any] = {"prompt_token_ids": row["collapsed_token_ids"]}
    decoded = {} if decoded is None else decoded
    for media_id in row["media_ids"]:
        clip = clips[media_id]
        if media_id not in decoded:
            decoded[media_id] = media_arguments(encoder, [clip])[clip.kind][0]
        item = decoded[media_id]
        if clip.kind == "audio":
            item = (item, encoder.sampling_rate)
        elif clip.kind == "video":
            item = (item.frames, clip_metadata(item))
        request.setdefault("multi_modal_data", {}).setdefault(clip.kind, []).append(item)
        request.setdefault("multi_modal_uuids", {}).setdefault(clip.kind, []).append(media_id)
    return request


def prefix_order(rows: Sequence[Row]) -> list[int]:
    """Numbers of ENCODED_PROMPT rows so that those that begin alike stand together, same media first, then same text:
    what one has filled in the prefix cache is then still there for the next."""
    return sorted(range(len(rows)), key=lambda i: (rows[i]["media_ids"], rows[i]["collapsed_token_ids"], i))
