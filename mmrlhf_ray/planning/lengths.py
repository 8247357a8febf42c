"""Rows that are too long whatever their media, which is cheap to see before anything starts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import TemplateError

from mmrlhf_ray.config.data import DataConfig, MediaLimits
from mmrlhf_ray.data.encoding.encode import Encoder, encode_response, render
from mmrlhf_ray.data.errors import bad_rows_error
from mmrlhf_ray.data.media.image import image_size
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.data.validate import parse_json

if TYPE_CHECKING:
    from transformers import ProcessorMixin

_MEASURED = 256
"""Rows that are encoded, the longest ones."""
_UNCOUNTED = " (sounds and clips count as one each)"
_ANSWERS = ("response", "chosen", "rejected")
_SHORTEST = ({"role": "user", "content": [{"type": "text", "text": "?"}]},)


def check_lengths(encoder: Encoder, read: Records, data: DataConfig, context_tokens: int | None) -> None:
    """Raise DataError with rows whose prompt is longer than `data.max_prompt_tokens`, or with an answer longer than
    `context_tokens` (None = not known). Images count as what their headers say they become, where the processor can
    tell, other media as one token each.

    A token of text has a byte at least, so that most rows are short without being encoded. Rows that would be set aside
    or cut are left to those who do that.
    """
    if data.on_bad_row != "fail":
        return
    least = min(data.most_prompt_tokens, context_tokens or data.most_prompt_tokens)
    rows, images = read.records.to_pylist(), _image_tokens(encoder, read.media, data.limits)
    of_images = [sum(images.get(media_id, 0) for media_id in row["media_ids"]) for row in rows]
    around = len(encoder.rendered(_SHORTEST, ask=True).encode())  # tools that the template describes, a system prompt
    sizes = [
        around + tokens + len(row["messages"].encode()) + max((len(text.encode()) for text in _answers(row)), default=0)
        for row, tokens in zip(rows, of_images, strict=True)
    ]
    longest = sorted((n for n, size in enumerate(sizes) if size > least), key=lambda n: -sizes[n])[:_MEASURED]
    bad = []
    for number in sorted(longest):
        reason = _too_long(encoder, rows[number], of_images[number], data, context_tokens)
        if reason is not None:
            remedy = "shorten it, or raise the limit"
            bad.append(read.bad_row(number, rows[number]["prompt_id"], reason, remedy))
    if bad:
        said = f"{read.file}: {len(bad)} of {len(rows)} rows cannot be used (on_bad_row: quarantine goes on without)"
        raise bad_rows_error(bad, said)


def _image_tokens(encoder: Encoder, media: pa.Table, limits: MediaLimits) -> dict[str, int]:
    """media_id of each image → the tokens that it becomes beyond its placeholder; empty where the processor does not
    tell. No pixel is decoded."""
    images = media.filter(pc.equal(media.column("kind"), "image"))
    if not len(images):
        return {}
    tokens = _of_sizes(encoder.processor, [image_size(data, limits) for data in images.column("data").to_pylist()])
    names = images.column("media_id").to_pylist() if tokens else []
    return {name: count - 1 for name, count in zip(names, tokens, strict=True)}


def _of_sizes(processor: "ProcessorMixin", sizes: Sequence[tuple[int, int]]) -> list[int]:
    """Tokens of images by (height, width), as vLLM asks processors; empty where this one does not tell."""
    if count := getattr(processor, "_get_num_multimodal_tokens", None):
        return list(count(image_sizes=sizes)["num_image_tokens"])
    images = getattr(processor, "image_processor", None)
    patches = getattr(images, "get_number_of_image_patches", None)
    if images is not None and patches is not None:
        return [patches(height, width, {}) // images.merge_size**2 for height, width in sizes]
    return []


def _too_long(
    encoder: Encoder, row: Mapping[str, Any], of_images: int, data: DataConfig, context_tokens: int | None
) -> str | None:
    try:
        prompt = len(render(encoder, parse_json(row["messages"], "messages"))[1]) + of_images
        answer = max((len(encode_response(encoder, text)) for text in _answers(row)), default=0)
    except (ValueError, TemplateError):  # not about its length: said where the row is encoded
        return None
    if data.over_long != "reject":
        prompt = min(prompt, data.most_prompt_tokens)
    if prompt > data.most_prompt_tokens:
        most = f"data.max_prompt_tokens={data.most_prompt_tokens}"
        return f"its prompt has {prompt} tokens{_UNCOUNTED}, more than {most}"
    if context_tokens is not None and prompt + answer > context_tokens:
        tokens = f"prompt and answer have {prompt + answer} tokens{_UNCOUNTED}"
        return f"{tokens}, more than the {context_tokens} of the model"
    return None


def _answers(row: Mapping[str, Any]) -> Iterator[str]:
    yield from (row[name] for name in _ANSWERS if name in row)
    yield from row.get("responses", ())
