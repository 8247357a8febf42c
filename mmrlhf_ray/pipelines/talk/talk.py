"""A conversation with a model in this process: the sampler of the jobs, without Ray."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import torch

from mmrlhf_ray.config import GeneratorConfig, ModelConfig, SamplingConfig
from mmrlhf_ray.data.encoding.encode import Encoder, RawMedia, decode_response, encode_prompt, load_encoder
from mmrlhf_ray.data.media import MediaRow, media_row
from mmrlhf_ray.errors import ConfigError, DataError
from mmrlhf_ray.models.headed import check_speaks
from mmrlhf_ray.planning.settle import checkpoint_dtype
from mmrlhf_ray.planning.sizes import context_tokens
from mmrlhf_ray.schema import ENCODED_PROMPT, MEDIA
from mmrlhf_ray.workers.roles.sampler import Sampler

Kind = Literal["image", "audio", "video"]
KINDS: tuple[Kind, ...] = ("image", "audio", "video")
_UNKNOWN_CONTEXT = 4096
_PIECE = "\N{REPLACEMENT CHARACTER}"
"""The tokenizer's text of a character of which not all tokens have come."""


def read_clip(kind: Kind, path: Path) -> MediaRow:
    """A picture, sound or clip from a file. Raises DataError."""
    try:
        return media_row(kind, path.read_bytes())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: expected a file of kind {kind}: {reason}") from error


class Talk:
    """A conversation: what was said and shown is part of the next prompt, written by the model's own template."""

    def __init__(
        self, sampler: Sampler, encoder: Encoder, most_prompt_tokens: int, system: str, runner: asyncio.Runner
    ):
        """The sampler's engine answers to the runner's loop alone."""
        self._sampler, self._encoder, self._runner = sampler, encoder, runner
        self._most = most_prompt_tokens
        self._system = system
        self._asked = 0
        self.clear()

    def clear(self) -> None:
        """Forget what was said, but for the system's message."""
        self._messages: list[dict[str, Any]] = [{"role": "system", "content": self._system}] if self._system else []
        self._shown: list[MediaRow] = []

    def ask(self, text: str, shown: Sequence[MediaRow] = ()) -> Iterator[str]:
        """Ask with media before the text; the answer in pieces, as it is sampled. Raises DataError for what cannot be
        asked, such as a prompt that is too long, before the first piece: the conversation is then as it was."""
        content = [*({"type": clip["kind"]} for clip in shown), {"type": "text", "text": text}]
        messages = [*self._messages, {"role": "user", "content": content}]
        clips = [*self._shown, *shown]
        prompt = self._prompt(messages, clips)
        answer = ""
        for piece in self._sampled(prompt, clips):
            answer += piece
            yield piece
        self._messages = [*messages, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
        self._shown = clips

    def _prompt(self, messages: list[dict[str, Any]], clips: Sequence[MediaRow]) -> pa.Table:
        """ENCODED_PROMPT of one row."""
        try:
            encoded = encode_prompt(self._encoder, json.dumps(messages), [RawMedia.of(clip) for clip in clips])
        except ValueError as error:
            raise DataError(f"this cannot be asked: {error}") from error
        if len(encoded.token_ids) > self._most:
            raise DataError(
                f"the prompt has {len(encoded.token_ids)} tokens (media and earlier turns included), more than "
                f"{self._most}; start over, say less, or raise --context"
            )
        self._asked += 1
        row = {
            "group_id": self._asked,
            "prompt_id": f"turn {self._asked}",
            "task": "talk",
            "modality": "+".join(dict.fromkeys(clip["kind"] for clip in clips)) or "text",
            "prompt_token_ids": encoded.token_ids,
            "collapsed_token_ids": encoded.collapsed_token_ids,
            "facts_token_ids": [],
            "media_ids": [clip["media_id"] for clip in clips],
        }
        return pa.Table.from_pylist([row], schema=ENCODED_PROMPT)

    def _sampled(self, prompt: pa.Table, clips: Sequence[MediaRow]) -> Iterator[str]:
        """The response in pieces that end where characters do."""
        media = pa.Table.from_pylist(list({clip["media_id"]: clip for clip in clips}.values()), schema=MEDIA)
        parts = self._sampler.stream(prompt, media)
        ids: list[int] = []
        told = ""
        while (new := self._runner.run(_next(parts))) is not None:
            ids += new
            text = decode_response(self._encoder, ids)
            if not text.endswith(_PIECE) and text != told:
                yield text.removeprefix(told)
                told = text
        if (text := decode_response(self._encoder, ids)) != told:
            yield text.removeprefix(told)


async def _next(parts: AsyncIterator[list[int]]) -> list[int] | None:
    return await anext(parts, None)


@contextmanager
def talking(
    directory: Path, sampling: SamplingConfig, context: int | None = None, seed: int = 0, system: str = ""
) -> Iterator[Talk]:
    """A conversation with the model in `directory`, whose engine ends with the block. `context`: most tokens of prompt
    and answer together; None = as many as the model is made for, at most 4,096.

    Raises ModelError for a model that does not answer or cannot be read, ConfigError for a context that is too small.
    """
    check_speaks(directory)
    known = context_tokens(directory)
    tokens = context or min(known or _UNKNOWN_CONTEXT, _UNKNOWN_CONTEXT)
    if known is not None and tokens > known:
        raise ConfigError(f"--context {tokens}: the model is made for {known} tokens; lower it")
    most = tokens - sampling.max_response_tokens
    if most < 1:
        raise ConfigError(f"an answer of {sampling.max_response_tokens} tokens fills --context {tokens}; raise it")
    encoder = load_encoder(directory, allowed=sampling.allow_tokens)
    model = ModelConfig(
        path=str(directory), dtype=checkpoint_dtype(directory) if torch.cuda.is_available() else "float32"
    )
    with asyncio.Runner() as runner:
        sampler = runner.run(_started(model, sampling, most, seed, encoder))
        try:
            yield Talk(sampler, encoder, most, system, runner)
        finally:
            sampler.close()


async def _started(model: ModelConfig, sampling: SamplingConfig, most: int, seed: int, encoder: Encoder) -> Sampler:
    return Sampler(model, GeneratorConfig(), sampling, most, seed, encoder=encoder)
