"""Prompts that are too long lose the start of their last text, or are refused; media and template stay whole."""

import json

import pytest

from mmrlhf_ray.data.encoding.encode import encode_prompt
from mmrlhf_ray.data.encoding.overlong import encode_within, shortened
from mmrlhf_ray.data.errors import RowError
from tests.unit.tiny import raw

CLIPS = [raw("image", 0), raw("audio", 1)]
WORDS = "one two three four five six seven"


def chat(text, before="What is this?"):
    first = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": before}]}
    last = {"role": "user", "content": [{"type": "text", "text": text}, {"type": "audio"}]}
    return json.dumps([first, {"role": "assistant", "content": "a digit"}, last])


def test_what_fits_stays(omni_encoder):
    whole = encode_prompt(omni_encoder, chat(WORDS), CLIPS)
    most = len(whole.token_ids)
    for over_long in ("reject", "truncate_text"):
        assert encode_within(omni_encoder, chat(WORDS), CLIPS, most, over_long).token_ids == whole.token_ids


def test_longer_ones_are_refused(omni_encoder):
    most = len(encode_prompt(omni_encoder, chat(WORDS), CLIPS).token_ids) - 1
    with pytest.raises(
        RowError, match=rf"prompt has {most + 1} tokens .* more than data.max_prompt_tokens={most}; Shorten"
    ):
        encode_within(omni_encoder, chat(WORDS), CLIPS, most, "reject")


@pytest.mark.parametrize("missing", [1, 3, 6])
def test_text_goes_from_its_start_and_nothing_else(omni_encoder, missing):
    whole = encode_prompt(omni_encoder, chat(WORDS), CLIPS)
    most = len(whole.token_ids) - missing
    found = encode_within(omni_encoder, chat(WORDS), CLIPS, most, "truncate_text")
    assert len(found.token_ids) <= most
    kept = next(
        WORDS[n:]
        for n in range(1, len(WORDS))
        if encode_prompt(omni_encoder, chat(WORDS[n:]), CLIPS).token_ids == found.token_ids
    )
    assert found.collapsed_token_ids == encode_prompt(omni_encoder, chat(kept), CLIPS).collapsed_token_ids
    one_more = encode_prompt(omni_encoder, chat(WORDS[-len(kept) - 1 :]), CLIPS)
    assert len(one_more.token_ids) > most, "no more goes than must"
    assert found.features.keys() == whole.features.keys()
    for media_id, own in found.features.items():
        assert all((value == whole.features[media_id][key]).all() for key, value in own.items())


def test_media_that_alone_are_too_many_are_refused(omni_encoder):
    least = len(encode_prompt(omni_encoder, chat("n"), CLIPS).token_ids)
    for most in (least - 1, 5):
        with pytest.raises(RowError, match="more than data.max_prompt_tokens"):
            encode_within(omni_encoder, chat(WORDS), CLIPS, most, "truncate_text")


def test_the_last_text_of_a_user_is_the_one(omni_encoder):
    def few(messages):
        return len(json.dumps(messages)) < 200

    messages = json.dumps(
        [
            {"role": "user", "content": [{"type": "text", "text": "a" * 90}]},
            {"role": "assistant", "content": "b" * 20},
            {"role": "user", "content": [{"type": "image"}]},
        ]
    )
    assert len(messages) > 200
    assert set(json.loads(shortened(messages, few))[0]["content"][0]["text"]) == {"a"}
    assert len(shortened(messages, few)) == 199
    assert json.loads(shortened(messages, few))[1:] == json.loads(messages)[1:]
    assert shortened(json.dumps([{"role": "user", "content": [{"type": "image"}]}]), few) is None
    assert shortened(messages, lambda _: False) is None
