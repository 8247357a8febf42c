"""Special tokens of a model: what begins a prompt, what ends a response, and what may never be sampled."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import ProcessorMixin

from mmrlhf_ray.errors import ModelError
from mmrlhf_ray.models.adapter import ModelAdapter, eos_token_ids, read_config

_ASKED, _ANSWERED, _ASKED_AGAIN = "first-question", "first-answer", "second-question"
_MEDIA_KEY = re.compile(r"(image|img|video|audio|vision|bo[ia]|eo[ia])\w*_token_(id|index)")


@dataclass(frozen=True)
class SpecialTokens:
    """Token ids, as everything that reads, samples or learns uses them."""

    start: tuple[int, ...]
    """BOS: before every prompt once, whether the tokenizer or the template writes it; empty where neither does."""
    eos: tuple[int, ...]
    """End a response. First the one that the chat template writes after an assistant's turn, which closes written
    responses; where it writes none, the tokenizer's eos_token, or the first that generation_config.json lists."""
    structural: frozenset[int]
    """Media placeholders and their frames, turn markers, BOS and padding: no text may hold them."""
    banned: tuple[int, ...]
    """Never sampled: every control token that neither ends a response nor is allowed."""


def special_tokens(
    adapter: ModelAdapter, processor: ProcessorMixin, path: Path, allowed: Sequence[str] = ()
) -> SpecialTokens:
    """Read the directory's tokenizer, chat template and configuration. `allowed`: control tokens that may be sampled.

    Raises ModelError for an `allowed` token that the model lacks or that is structural, and as eos_token_ids().
    """
    tokenizer = processor.tokenizer
    control = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special} | set(tokenizer.all_special_ids)
    eos = _end_first(processor, eos_token_ids(path, len(tokenizer)), control)
    structural = frozenset(_structural(adapter, processor, path, control) - set(eos))
    permitted = {_permitted(token, processor, path, structural) for token in allowed}
    return SpecialTokens(_start(processor), eos, structural, tuple(sorted(control - set(eos) - permitted)))


def _start(processor: ProcessorMixin) -> tuple[int, ...]:
    tokenizer = processor.tokenizer
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    closed = tokenizer("a")["input_ids"]
    at = next((i for i in range(len(closed)) if closed[i : i + len(plain)] == plain), 0)
    if at:
        return tuple(closed[:at])
    bos = tokenizer.bos_token_id
    written = _ids(processor, _rendered(processor, [_turn("user", _ASKED), _turn("assistant", _ANSWERED)]))
    # Some families call the marker of every turn their BOS.
    return (bos,) if bos is not None and written[:1] == [bos] and written.count(bos) == 1 else ()


def _end_first(processor: ProcessorMixin, listed: Sequence[int], control: set[int]) -> tuple[int, ...]:
    """`listed`, with the token that closes a written response before the others."""
    tokenizer = processor.tokenizer
    after = _rendered(processor, [_turn("user", _ASKED), _turn("assistant", _ANSWERED), _turn("user", _ASKED_AGAIN)])
    between = _ids(processor, after.rpartition(_ANSWERED)[2].partition(_ASKED_AGAIN)[0])
    end = next((i for i in between if i in listed), None)
    if end is None:
        last = _rendered(processor, [_turn("user", _ASKED), _turn("assistant", _ANSWERED)])
        end = next((i for i in _ids(processor, last.rpartition(_ANSWERED)[2])[:1] if i in control), None)
    if end is None:
        end = tokenizer.eos_token_id if tokenizer.eos_token_id in listed else listed[0]
    return tuple(dict.fromkeys([end, *listed]))


def _structural(adapter: ModelAdapter, processor: ProcessorMixin, path: Path, control: set[int]) -> set[int]:
    tokenizer = processor.tokenizer
    named = {tokenizer.bos_token_id, tokenizer.pad_token_id} - {None}
    attributes = [value for name, value in vars(processor).items() if name.endswith("_token")]
    attributes += [getattr(processor, name) for name in adapter.placeholders.values()]
    media = {tokenizer.convert_tokens_to_ids(value) for value in attributes if isinstance(value, str)}
    media |= set(_media_ids(read_config(path)))
    # The vocabulary may lack the words that turns are asked for with.
    return (named | ((media | _turn_markers(processor)) & control)) - {tokenizer.unk_token_id}


def _media_ids(config: Mapping[str, Any]) -> Iterator[int]:
    """Ids that config.json gives for placeholders and what stands around them."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _media_ids(value)
        elif isinstance(value, int) and _MEDIA_KEY.fullmatch(key):
            yield value


def _turn_markers(processor: ProcessorMixin) -> set[int]:
    """Tokens around a user's turn, and the first that opens an assistant's; what follows that (thinking) is its own."""
    asked = [_turn("user", _ASKED)]
    turn = _ids(processor, _rendered(processor, asked))
    opened = _ids(processor, _rendered(processor, asked, add_generation_prompt=True))[len(turn) :]
    return {*turn, *opened[:1]}


def _turn(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _rendered(processor: ProcessorMixin, chat: list[dict[str, Any]], **options: bool) -> str:
    """ "" where the template refuses such a chat."""
    try:
        text: str = processor.apply_chat_template(chat, tokenize=False, **options)
    except (TemplateError, TypeError):
        return ""
    return text


def _ids(processor: ProcessorMixin, text: str) -> list[int]:
    ids: list[int] = processor.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    return ids


def _permitted(token: str, processor: ProcessorMixin, path: Path, structural: frozenset[int]) -> int:
    tokenizer = processor.tokenizer
    number = tokenizer.get_vocab().get(token)
    if number is None:
        raise ModelError(f"sampling.allow_tokens: {path} has no token {token!r}; give tokens of its tokenizer.json")
    if number in structural or number == tokenizer.unk_token_id:
        raise ModelError(
            f"sampling.allow_tokens: {token!r} of {path} is a media placeholder, a turn marker, BOS, padding or the "
            "unknown token, which no response may hold; leave it out"
        )
    return int(number)
