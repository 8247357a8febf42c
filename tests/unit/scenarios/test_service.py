"""ABCD's layout: what an agent does, what must not reach a record, and what must not be done yet."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from mmrlhf_ray.data.media import decode_audio, to_wav
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.scenarios import service, service_calls

CONVERSATION = {
    "convo_id": 7,
    "scenario": {
        "personal": {"customer_name": "Ada Okafor", "phone": "555 201 8842", "member_level": "gold"},
        "order": {"order_id": "8843920017", "city": "Lagos"},
    },
    "original": [
        ["customer", "Ada Okafor here, gold member from Lagos. Refund order 8843920017?"],
        ["agent", "Who are you?"],
        ["action", "identity verified"],
        ["customer", "okafor. My card is 4111 1111 1111 1111."],
        ["action", "refunded"],
    ],
    "delexed": [
        {"targets": ["refund", None, None, [], -1]},
        {"targets": ["refund", "retrieve_utterance", None, [], 3]},
        {"targets": ["refund", "take_action", "verify-identity", [], -1]},
        {"targets": ["refund", None, None, [], -1]},
        {"targets": ["refund", "take_action", "offer-refund", [], -1]},
    ],
}


def write(root: Path, conversation: object) -> Path:
    with gzip.open(root / service.CONVERSATIONS, "wt") as file:
        json.dump({"train": [conversation], "dev": []}, file)
    return root


def test_each_action_is_decided_after_what_was_said_and_done(tmp_path: Path) -> None:
    first, second = service.read(write(tmp_path, CONVERSATION))
    assert (first.answer, first.more["state"], first.more["harm"]) == ("verify-identity", "nothing", ["offer-refund"])
    assert (second.answer, second.more["state"], second.more["harm"]) == ("offer-refund", "verify-identity", [])
    assert first.more["said"] == "<name> here, gold member from <name>. refund order <number>?"
    assert second.more["said"] == f"{first.more['said']} <name>. my card is <card>."
    assert {first.group, second.group, first.source} == {"chat", "7"}


def test_what_was_recorded_is_heard_and_not_read(tmp_path: Path) -> None:
    write(tmp_path, CONVERSATION)
    (tmp_path / service.VOICE).mkdir()
    (tmp_path / service.VOICE / "7-0.wav").write_bytes(to_wav(np.zeros(80), 8000))
    first, _ = service.read(tmp_path)
    assert (first.group, first.text, [medium["kind"] for medium in first.media]) == (
        "phone",
        "done: nothing",
        ["audio"],
    )
    assert "said" not in first.more


@pytest.mark.parametrize("broken", [{"convo_id": 1}, {**CONVERSATION, "delexed": CONVERSATION["delexed"][:2]}])
def test_a_conversation_that_is_not_as_expected_is_refused(tmp_path: Path, broken: object) -> None:
    with pytest.raises(DataError, match="is not as expected"):
        list(service.read(write(tmp_path, broken)))


def test_nobody_can_be_told_from_the_stand_ins_records(tmp_path: Path) -> None:
    service_calls.make(tmp_path, 1, calls=60)
    with gzip.open(tmp_path / service.CONVERSATIONS, "rt") as file:
        conversations = json.load(file)["train"]
    cases = list(service.read(tmp_path))
    written = json.dumps([(case.text, dict(case.more)) for case in cases])
    assert "<card>" in written
    for one in conversations:
        for secret in service.personal(one["scenario"]):
            assert secret.lower() not in written.replace("<name>", "").replace("<number>", ""), secret
    assert not any(sign.isdigit() for sign in written)
    assert {case.group for case in cases} == {"chat", "phone"}
    assert {case.answer for case in cases} <= set(service_calls.CLASSES)


def test_a_word_sounds_the_same_but_for_the_line() -> None:
    """Tones of `refund` are where they were; those of another word are not."""
    rng = np.random.default_rng(0)

    def heard(word: str) -> np.ndarray:
        samples = decode_audio(to_wav(service_calls.spoken(word, rng), 8000), 8000)
        loud = np.abs(np.fft.rfft(samples, 8000))
        return np.array([loud[:1500].argmax() // 70, loud[1500:].argmax() // 110])

    assert np.array_equal(heard("refund"), heard("refund"))
    assert not np.array_equal(heard("refund"), heard("slow"))
