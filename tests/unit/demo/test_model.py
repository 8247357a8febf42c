"""The tiny omni model loads as any Hugging Face directory does. (vLLM: tests/ray and tests/e2e.)"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoProcessor, GenerationConfig, Qwen2_5OmniThinkerForConditionalGeneration

from mmrlhf_ray.demo.clips import DIRECTIONS
from mmrlhf_ray.demo.model import CONTEXT_TOKENS, build_model
from mmrlhf_ray.demo.tasks import CLAIMS, TASKS, respond


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model")
    build_model(path, seed=0)
    return path


@pytest.fixture(scope="module")
def processor(directory):
    return AutoProcessor.from_pretrained(directory)


def test_weights_are_the_thinkers_under_its_prefix(directory):
    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(directory)
    saved = load_file(directory / "model.safetensors")
    assert 1_000_000 <= sum(p.numel() for p in model.parameters()) <= 2_000_000
    assert set(saved) == {f"thinker.{name}" for name in model.state_dict()}
    assert all(torch.equal(saved[f"thinker.{name}"], tensor) for name, tensor in model.state_dict().items())


def test_seed_decides_the_weights(directory, tmp_path):
    for name, seed in (("again", 0), ("other", 1)):
        build_model(tmp_path / name, seed)
    weights = "model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (directory / weights).read_bytes()
    assert (tmp_path / "other" / weights).read_bytes() != (directory / weights).read_bytes()


def test_configuration_is_the_full_omni_one(directory, processor):
    config = AutoConfig.from_pretrained(directory)
    assert config.architectures == ["Qwen2_5OmniModel"]
    assert not config.enable_audio_output
    thinker, ids = config.thinker_config, processor.tokenizer.get_vocab()
    assert thinker.vision_start_token_id == ids["<|vision_bos|>"]
    assert (thinker.image_token_id, thinker.audio_token_id, thinker.video_token_id) == tuple(
        ids[t] for t in ("<|IMAGE|>", "<|AUDIO|>", "<|VIDEO|>")
    )
    assert thinker.text_config.vocab_size == len(processor.tokenizer)
    assert GenerationConfig.from_pretrained(directory).eos_token_id == ids["<|im_end|>"]


def test_every_response_round_trips(processor):
    tokenizer = processor.tokenizer
    for task in TASKS:
        for option in task.options:
            for digit in "0123456789":
                evidence = {slot: digit for slot, _ in task.slots}
                for text in (respond(option, evidence), respond(option, {})):
                    ids = tokenizer(text).input_ids
                    assert tokenizer.unk_token_id not in ids
                    assert len(ids) == len(text.split())
                    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text
    assert {slot for task in TASKS for slot, _ in task.slots} == set(CLAIMS)
    assert len(DIRECTIONS) == 4


def test_a_token_decodes_to_the_same_text_whatever_precedes_it(processor):
    tokenizer = processor.tokenizer
    prompt = tokenizer("<|im_start|>assistant\n").input_ids
    response = tokenizer("the image shows 7").input_ids
    assert tokenizer.decode(prompt + response) == tokenizer.decode(prompt) + tokenizer.decode(response)


def test_template_and_processor_expand_every_kind(processor):
    content = [{"type": kind} for kind in ("image", "audio", "video")] + [{"type": "text", "text": "read the digit"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    assert text == (
        "<|im_start|>user\n<|vision_bos|><|IMAGE|><|vision_eos|><|audio_bos|><|AUDIO|><|audio_eos|>"
        "<|vision_bos|><|VIDEO|><|vision_eos|>read the digit<|im_end|><|im_start|>assistant\n"
    )
    frame = np.zeros((16, 16, 3), np.uint8)
    # No size is passed: what is saved with the model must win over the processor class's own.
    out = processor(text=text, images=[frame], videos=[np.stack([frame] * 4)], audio=[np.zeros(6400, np.float32)])
    ids = out["input_ids"][0]
    count = {
        t: ids.count(processor.tokenizer.convert_tokens_to_ids(t)) for t in ("<|IMAGE|>", "<|AUDIO|>", "<|VIDEO|>")
    }
    assert count == {"<|IMAGE|>": 4, "<|AUDIO|>": 5, "<|VIDEO|>": 8}
    assert processor.tokenizer.unk_token_id not in ids


def test_template_renders_a_whole_conversation(processor):
    messages = [{"role": "user", "content": "which digit"}, {"role": "assistant", "content": "answer : 7"}]
    text = processor.apply_chat_template(messages, tokenize=False)
    assert text == "<|im_start|>user\nwhich digit<|im_end|><|im_start|>assistant\nanswer : 7<|im_end|>"


def test_a_saved_processor_still_knows_its_video_size(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    out = again(text="<|VIDEO|>", videos=[np.zeros((4, 16, 16, 3), np.uint8)])
    assert np.asarray(out["video_grid_thw"]).tolist() == [[2, 4, 4]]
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["model_max_length"] == CONTEXT_TOKENS


def test_generates(directory, processor):
    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(directory).eval()
    frame = np.zeros((16, 16, 3), np.uint8)
    text = "<|im_start|>user\n<|vision_bos|><|IMAGE|><|vision_eos|>read the digit<|im_end|><|im_start|>assistant\n"
    inputs = processor(text=text, images=[frame], return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert out.shape[1] > inputs["input_ids"].shape[1]
