"""Prompts that are too long: bad rows, or the start of their last text goes. Media are never cut."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from mmrlhf_ray.data.encoding.encode import EncodedPrompt, Encoder, RawMedia, encode_prompt, render
from mmrlhf_ray.data.errors import RowError


def encode_within(
    encoder: Encoder, messages: str, media: Sequence[RawMedia], max_prompt_tokens: int, over_long: str
) -> EncodedPrompt:
    """encode_prompt() of a prompt that has at most `max_prompt_tokens` tokens, media counted.

    `over_long`: of a longer one "truncate_text" drops the start of the last text that people wrote, as little as will
    do and never all of it. Raises RowError for a prompt that stays too long, ValueError as encode_prompt().
    """
    encoded = encode_prompt(encoder, messages, media)
    tokens = len(encoded.token_ids)
    if tokens > max_prompt_tokens and over_long == "truncate_text":
        of_media = tokens - len(encoded.collapsed_token_ids)
        shorter = shortened(messages, lambda chat: _text_tokens(encoder, chat) + of_media <= max_prompt_tokens)
        if shorter is not None:
            return encode_prompt(encoder, shorter, media)
    if tokens > max_prompt_tokens:
        raise RowError(
            f"prompt has {tokens} tokens (media included), more than data.max_prompt_tokens={max_prompt_tokens}",
            "Shorten it or raise data.max_prompt_tokens",
        )
    return encoded


def shortened(messages: str, fits: Callable[[list[dict[str, Any]]], bool]) -> str | None:
    """`messages` (JSON) without the fewest characters off the start of the last user text; None if nothing fits."""
    chat = json.loads(messages)
    texts = [p for m in chat if m["role"] == "user" for p in m["content"] if p["type"] == "text"]
    if not texts:
        return None
    last = texts[-1]
    whole = last["text"]

    def with_cut(characters: int) -> bool:
        last["text"] = whole[characters:]
        return fits(chat)

    too_few, enough = 0, len(whole) - 1
    if enough < 1 or not with_cut(enough):
        return None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if with_cut(middle):
            enough = middle
        else:
            too_few = middle
    last["text"] = whole[enough:]
    return json.dumps(chat, ensure_ascii=False)


def _text_tokens(encoder: Encoder, chat: list[dict[str, Any]]) -> int:
    """Tokens of the rendered chat, each clip counted once."""
    return len(render(encoder, chat)[1])
