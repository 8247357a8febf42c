"""Later turns of an episode: what the policy is shown after a turn of its own, appended to the ids that are there.

What stands between two turns of the policy is cut out of a conversation that the chat template renders once for each
observation; nothing that was sampled is ever rendered again.
"""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from mmrlhf_ray.data.encoding.encode import (
    EncodedPrompt,
    Encoder,
    RawMedia,
    decode_response,
    encode_rendered,
    encode_response,
    refuse_control_text,
    render,
)
from mmrlhf_ray.errors import ModelError

Content = Sequence[dict[str, Any]]
"""Parts of a chat message: {"type": "text", "text"} and {"type": media kind}."""

_TOOL, _USER = "tool", "user"
_PROBE = "observed"


def encode_turn(encoder: Encoder, content: Content, media: Sequence[RawMedia]) -> EncodedPrompt:
    """An observation, from behind the token that closed the policy's turn to where its next one begins.

    `content`: its parts in the order shown; `media`: its clips in that order. Raises ValueError as encode_prompt(), and
    ModelError where the chat template closes no turn.
    """
    refuse_control_text(encoder, [_message(observed_as(encoder), content)])
    text = _between_turns(encoder, content)
    return encode_rendered(encoder, text, _ids(encoder, text), media)


def observed_text(encoder: Encoder, token_ids: Sequence[int]) -> str:
    """The text of an observation without what the chat template puts around it."""
    head, _, tail = _between_turns(encoder, [_text(_PROBE)]).partition(_PROBE)
    head, tail = (decode_response(encoder, _ids(encoder, part)) for part in (head, tail))
    return decode_response(encoder, token_ids).removeprefix(head).removesuffix(tail).strip()


def observed_as(encoder: Encoder) -> str:
    """The role that observations have: `tool` where the chat template writes such turns, else `user`."""
    if f"'{_TOOL}'" not in encoder.chat_template and f'"{_TOOL}"' not in encoder.chat_template:
        return _USER
    try:
        shown = encoder.rendered([*_BEFORE, _message(_TOOL, [_text(_PROBE)])], ask=True)
    except TemplateError:
        return _USER
    # Templates that know text alone write a list of parts as Python does.
    return _TOOL if _PROBE in shown and f"'{_PROBE}'" not in shown else _USER


def check_turns(encoder: Encoder) -> None:
    """Raise ModelError where prompt, response and observation, one appended to the other, differ from the conversation
    as the template renders it as a whole, for an observation of text and of each kind of media."""
    question, answer = [_message(_USER, [_text("1 ?")])], "2"
    _, asked = render(encoder, question)
    answered = [*asked, *encode_response(encoder, answer)]
    for kind in (None, *encoder.adapter.placeholders):
        content = [*([{"type": kind}] if kind else []), _text("3")]
        appended = [*answered, *_ids(encoder, _between_turns(encoder, content))]
        chat = [*question, _message("assistant", [_text(answer)]), _message(observed_as(encoder), content)]
        _, whole = render(encoder, chat)
        if appended != whole:
            at = next((i for i, (a, b) in enumerate(zip(appended, whole, strict=False)) if a != b), -1)
            raise ModelError(
                "the chat template writes a conversation of several turns otherwise than turn by turn, from token "
                f"{at} on:\nturn by turn ({len(appended)}): {appended}\nas a whole ({len(whole)}): {whole}\n"
                "Episodes append what is new to what was sampled; give the model a template that does not change "
                "earlier turns"
            )


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _message(role: str, content: Content) -> dict[str, Any]:
    return {"role": role, "content": list(content)}


_BEFORE = [_message(_USER, [_text("1 ?")]), _message("assistant", [_text("2")])]


def _between_turns(encoder: Encoder, content: Content) -> str:
    """As the template writes it. Raises ModelError where it closes no turn of an assistant."""
    before = encoder.rendered(_BEFORE, ask=False)
    closing = encoder.tokenizer.convert_ids_to_tokens(encoder.eos_token_ids[0])
    written, found, _ = before.rpartition(closing)
    after = encoder.rendered([*_BEFORE, _message(observed_as(encoder), content)], ask=True)
    if not found or not after.startswith(written + closing):
        raise ModelError(
            f"the chat template does not close an assistant's turn with {closing!r} in the same way wherever it "
            "stands, so that nothing can be appended to it; give the model a template for several turns"
        )
    return after.removeprefix(written + closing)


def _ids(encoder: Encoder, text: str) -> list[int]:
    ids: list[int] = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
