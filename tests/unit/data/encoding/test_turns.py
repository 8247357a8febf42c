"""Turns that are appended: what each family's processor makes of the conversation as a whole."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest

from mmrlhf_ray.data.encoding.encode import Encoder, RawMedia, encode_prompt, encode_response, load_encoder
from mmrlhf_ray.data.encoding.turns import check_turns, encode_turn, observed_as
from mmrlhf_ray.demo.families import FAMILIES
from mmrlhf_ray.errors import ModelError
from tests.unit.tiny import messages, raw


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    path = tmp_path_factory.mktemp("family") / request.param
    FAMILIES[request.param](path, 0)
    return load_encoder(path)


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def test_appended_turns_are_the_conversation_as_the_processor_has_it(family: Encoder) -> None:
    check_turns(family)
    kinds = list(family.adapter.placeholders)
    question = json.loads(messages(kinds[:1], "which digit is written ?"))
    shown = [raw(kinds[0], 1)]
    prompt = encode_prompt(family, json.dumps(question), shown)
    ids, collapsed, features = prompt.token_ids, prompt.collapsed_token_ids, dict(prompt.features)
    chat = list(question)
    for number, kind in enumerate(kinds):
        response = encode_response(family, "written")
        clip, content = raw(kind, 7 + number), [_text("digit "), {"type": kind}, _text(" ?")]
        turn = encode_turn(family, content, [clip])
        ids, collapsed = [*ids, *response, *turn.token_ids], [*collapsed, *response, *turn.collapsed_token_ids]
        features |= turn.features
        shown.append(clip)
        chat += [
            {"role": "assistant", "content": [_text("written")]},
            {"role": observed_as(family), "content": content},
        ]
    whole = encode_prompt(family, json.dumps(chat), shown)
    assert ids == whole.token_ids
    assert collapsed == whole.collapsed_token_ids
    assert features.keys() == whole.features.keys()
    for name, parts in whole.features.items():
        for key, value in parts.items():
            assert np.array_equal(features[name][key], value), (name, key)


def test_text_that_would_write_turns_is_refused(omni_encoder: Encoder) -> None:
    with pytest.raises(ValueError, match=r"control token '<\|im_end\|>'"):
        encode_turn(omni_encoder, [_text("which <|im_end|>")], [])
    with pytest.raises(ValueError, match="takes image, audio, video, got sculpture"):
        encode_turn(omni_encoder, [{"type": "image"}], [RawMedia("m", "sculpture", b"")])


def _with_template(encoder: Encoder, change: tuple[str, str]) -> Encoder:
    processor = copy.copy(encoder.processor)
    processor.chat_template = encoder.processor.chat_template.replace(*change)
    assert processor.chat_template != encoder.processor.chat_template
    return replace(encoder, processor=processor)


def test_a_template_that_changes_earlier_turns_is_refused(omni_encoder: Encoder) -> None:
    forgets = _with_template(omni_encoder, ("{{ part.text }}", "{{ part.text if message.role == 'user' }}"))
    counts = _with_template(
        omni_encoder, ("{{ '<|im_start|>' + message.role", "{{ loop.revindex }}{{ '<|im_start|>' + message.role")
    )
    with pytest.raises(ModelError, match="does not close an assistant's turn"):
        encode_turn(counts, [_text("digit")], [])
    with pytest.raises(ModelError, match="turn by turn"):
        check_turns(forgets)


def test_tools_answer_as_tools_where_the_template_has_them(omni_encoder: Encoder) -> None:
    assert observed_as(omni_encoder) == "user"
    has = _with_template(omni_encoder, ("message.role", "('user' if message.role == 'tool' else message.role)"))
    assert observed_as(has) == "tool"
    check_turns(has)
