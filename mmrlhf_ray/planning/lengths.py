"""Rows that are too long whatever their media, which is cheap to see before anything starts."""

from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import TemplateError

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.encoding.encode import Encoder, encode_response, render
from mmrlhf_ray.data.errors import bad_rows_error
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.data.validate import parse_json

_MEASURED = 256
"""Rows that are encoded, the longest ones."""
_ANSWERS = ("response", "chosen", "rejected")


def check_lengths(encoder: Encoder, read: Records, data: DataConfig, context_tokens: int | None) -> None:
    """Raise DataError with rows whose prompt is longer than `data.max_prompt_tokens`, or with an answer longer than
    `context_tokens` (None = not known), each medium counted as one token.

    A token has a byte at least, so that most rows are short without being encoded. Rows that would be set aside or
    cut are left to those who do that.
    """
    if data.on_bad_row != "fail":
        return
    least = min(data.max_prompt_tokens, context_tokens or data.max_prompt_tokens)
    rows = read.records.to_pylist()
    sizes = [
        len(row["messages"].encode()) + max((len(text.encode()) for text in _answers(row)), default=0) for row in rows
    ]
    longest = sorted((n for n, size in enumerate(sizes) if size > least), key=lambda n: -sizes[n])[:_MEASURED]
    bad = []
    for number in sorted(longest):
        reason = _too_long(encoder, rows[number], data, context_tokens)
        if reason is not None:
            remedy = "shorten it, or raise the limit"
            bad.append(read.bad_row(number, rows[number]["prompt_id"], reason, remedy))
    if bad:
        said = f"{read.file}: {len(bad)} of {len(rows)} rows cannot be used (on_bad_row: quarantine goes on without)"
        raise bad_rows_error(bad, said)


def _too_long(encoder: Encoder, row: Mapping[str, Any], data: DataConfig, context_tokens: int | None) -> str | None:
    try:
        prompt = len(render(encoder, parse_json(row["messages"], "messages"))[1])
        answer = max((len(encode_response(encoder, text)) for text in _answers(row)), default=0)
    except (ValueError, TemplateError):  # not about its length: said where the row is encoded
        return None
    if data.over_long != "reject":
        prompt = min(prompt, data.max_prompt_tokens)
    if prompt > data.max_prompt_tokens:
        most = f"data.max_prompt_tokens={data.max_prompt_tokens}"
        return f"its prompt has {prompt} tokens without its media, more than {most}"
    if context_tokens is not None and prompt + answer > context_tokens:
        tokens = f"prompt and answer have {prompt + answer} tokens without media"
        return f"{tokens}, more than the {context_tokens} of the model"
    return None


def _answers(row: Mapping[str, Any]) -> Iterator[str]:
    yield from (row[name] for name in _ANSWERS if name in row)
    yield from row.get("responses", ())
