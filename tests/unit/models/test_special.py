"""Special tokens of families with and without BOS, with one and several tokens that end a response."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mmrlhf_ray.data.encoding.encode import (
    Encoder,
    after_start,
    decode_response,
    encode_prompt,
    encode_response,
    load_encoder,
)
from mmrlhf_ray.data.encoding.overlong import encode_within
from mmrlhf_ray.demo.families import FAMILIES
from mmrlhf_ray.demo.families.tokens import BOS, BOXES, END, PAD
from mmrlhf_ray.errors import ModelError
from tests.unit.tiny import messages, raw
from tests.unit.tiny_families import THINKING, build_llava, build_mistral3

BUILDERS: dict[str, Callable[[Path, int], None]] = {
    "gemma3": FAMILIES["gemma3"],
    "mistral3": build_mistral3,
    "llava": build_llava,
}


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def directory(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name) / "model"
            BUILDERS[name](made[name], 0)
        return made[name]

    return directory


def copied(source: Path, target: Path, **files: object) -> Path:
    """`source` without its weights; `files`: JSON files with keys to be changed, or the template."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"))
    for name, changed in files.items():
        if name == "template":
            (target / "chat_template.jinja").write_text(str(changed))
        else:
            file = target / f"{name}.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | dict(changed)))  # type: ignore[call-overload]
    return target


def token(encoder: Encoder, text: str) -> int:
    return int(encoder.tokenizer.convert_tokens_to_ids(text))


@pytest.mark.parametrize("family", BUILDERS)
@pytest.mark.parametrize("kinds", [[], ["image"], ["image", "image"]])
def test_prompts_begin_with_bos_once_on_both_sides(
    directories: Callable[[str], Path], family: str, kinds: list[str]
) -> None:
    encoder = load_encoder(directories(family), unverified=True)
    media = [raw(kind, seed) for seed, kind in enumerate(kinds)]
    encoded = encode_prompt(encoder, messages(kinds), media)
    bos = token(encoder, BOS)
    for ids in (encoded.token_ids, encoded.collapsed_token_ids):
        assert ids[0] == bos
        assert ids.count(bos) == 1
    if not kinds:
        assert encoded.token_ids == encoded.collapsed_token_ids


def test_bos_stays_first_where_a_reward_model_reads_facts(directories: Callable[[str], Path], tmp_path: Path) -> None:
    source = directories("mistral3")
    by_template_alone = copied(source, tmp_path / "m", tokenizer={"post_processor": None})
    for path in (source, by_template_alone, directories("llava")):
        encoder = load_encoder(path, unverified=True)
        bos, prompt = token(encoder, BOS), encode_prompt(encoder, messages([]), []).token_ids
        assert encoder.special.start == (bos,)
        assert prompt.count(bos) == 1
        assert after_start([7, 8], prompt, encoder.special.start) == [bos, 7, 8, *prompt[1:]]


def test_a_family_without_bos_gets_none(encoder: Encoder) -> None:
    encoded = encode_prompt(encoder, messages([]), [])
    plain = encoder.processor.apply_chat_template(json.loads(messages([])), tokenize=False, add_generation_prompt=True)
    assert encoded.token_ids == encoder.tokenizer(plain)["input_ids"]
    assert after_start([7], encoded.token_ids, encoder.special.start) == [7, *encoded.token_ids]


def test_bos_counts_among_the_tokens_of_a_shortened_prompt(directories: Callable[[str], Path]) -> None:
    encoder = load_encoder(directories("llava"), unverified=True)
    asked = messages([], "a rather long question that nobody needs")
    most = len(encode_prompt(encoder, asked, []).token_ids) - 5
    assert len(encode_within(encoder, asked, [], most, "truncate_text").token_ids) <= most


@pytest.mark.parametrize("listed", [[0, 3], [3, 0], 3, [1, 0, 3], 0, [0]])
def test_a_response_ends_as_the_template_ends_a_turn(
    directories: Callable[[str], Path], tmp_path: Path, listed: object
) -> None:
    path = copied(directories("gemma3"), tmp_path / "m", generation_config={"eos_token_id": listed})
    encoder = load_encoder(path)
    assert encode_response(encoder, "two")[-1] == token(encoder, END) == 3
    assert set(encoder.eos_token_ids) == {3, *(listed if isinstance(listed, list) else [listed])}


@pytest.mark.parametrize(
    ("template", "end"),
    [
        # The next turn's marker ends the response, as in GLM; nothing does, as in LLaVA 1.5; the template wants text.
        ("{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content[0].text }}{% endfor %}", "<|im_start|>"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content[0].text }} {% endfor %}", END),
        ("{% for m in messages %}{{ raise_exception('one turn only') }}{% endfor %}", END),
    ],
)
def test_templates_that_close_no_turn(
    directories: Callable[[str], Path], tmp_path: Path, template: str, end: str
) -> None:
    path = copied(
        directories("gemma3"), tmp_path / "m", template=template, generation_config={"eos_token_id": [0, 2, 3]}
    )
    encoder = load_encoder(path)
    assert encode_response(encoder, "two")[-1] == token(encoder, end)


@pytest.mark.parametrize(
    "text", ["two", f"two{END}", f"two{END}\n", f"two{PAD}", f"two{END}\n{PAD} ", f"two{END}{END}"]
)
def test_a_response_is_ended_once(vl_encoder: Encoder, text: str) -> None:
    assert encode_response(vl_encoder, text) == [*vl_encoder.tokenizer("two")["input_ids"], token(vl_encoder, END)]


@pytest.mark.parametrize("refused", [END, PAD, "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|im_start|>"])
def test_responses_hold_no_placeholder_turn_or_end(vl_encoder: Encoder, refused: str) -> None:
    with pytest.raises(ValueError, match="response 2 contains the control token") as error:
        encode_response(vl_encoder, f"one {refused} two", what="response 2")
    assert repr(refused) in str(error.value)


def test_allowed_tokens_are_sampled_learned_and_seen(vl: Path, vl_encoder: Encoder) -> None:
    allowing = load_encoder(vl, allowed=BOXES)
    boxes = [token(allowing, box) for box in BOXES]
    said = f"{BOXES[0]}(10,20){BOXES[1]}"
    assert set(boxes) <= set(vl_encoder.banned_token_ids)
    assert set(vl_encoder.banned_token_ids) - set(allowing.banned_token_ids) == set(boxes)
    assert decode_response(allowing, encode_response(allowing, said)) == said
    assert decode_response(vl_encoder, encode_response(vl_encoder, said)) == "(10,20)"
    asked = json.dumps([{"role": "user", "content": [{"type": "text", "text": said}]}])
    assert boxes[0] in encode_prompt(allowing, asked, []).token_ids
    with pytest.raises(ValueError, match="control token"):
        encode_prompt(vl_encoder, asked, [])


def test_thinking_that_the_template_opens_may_be_allowed(directories: Callable[[str], Path], tmp_path: Path) -> None:
    source = directories("mistral3")
    opened = (source / "chat_template.jinja").read_text().replace("assistant\\n", "assistant\\n[THINK]")
    path = copied(source, tmp_path / "m", template=opened)
    encoder = load_encoder(path, allowed=THINKING, unverified=True)
    assert not {token(encoder, mark) for mark in THINKING} & set(encoder.banned_token_ids)


@pytest.mark.parametrize(
    ("refused", "words"),
    [
        ("<|image_pad|>", "media placeholder"),
        ("<|vision_start|>", "media placeholder"),
        ("<|im_start|>", "a turn marker"),
        ("<unk>", "unknown token"),
        ("<box>", "has no token '<box>'"),
    ],
)
def test_other_tokens_cannot_be_allowed(vl: Path, refused: str, words: str) -> None:
    with pytest.raises(ModelError, match=r"sampling\.allow_tokens") as error:
        load_encoder(vl, allowed=["a", END, refused])
    assert words in str(error.value)


@pytest.mark.parametrize("content", [[], "<|im_end|>", [3, "x"], [True], -1, 10_000, {"a": 3}, 1.5, None])
def test_ends_that_are_no_ids_are_refused(directories: Callable[[str], Path], tmp_path: Path, content: object) -> None:
    path = copied(directories("gemma3"), tmp_path / "m", generation_config={"eos_token_id": content})
    with pytest.raises(ModelError, match=r"generation_config.json: expected eos_token_id"):
        load_encoder(path)


def test_a_damaged_generation_config_is_named(directories: Callable[[str], Path], tmp_path: Path) -> None:
    path = copied(directories("gemma3"), tmp_path / "m")
    (path / "generation_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"generation_config.json: expected JSON"):
        load_encoder(path)


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("processor_config.json", "found no processor_config.json"),
        ("tokenizer.json", "found no tokenizer.json"),
        ("chat_template.jinja", "copy chat_template.jinja"),
    ],
)
def test_a_missing_processor_is_named(
    directories: Callable[[str], Path], tmp_path: Path, lost: str, named: str
) -> None:
    path = copied(directories("gemma3"), tmp_path / "m")
    (path / lost).unlink()
    with pytest.raises(ModelError, match=str(path)) as error:
        load_encoder(path)
    assert named in str(error.value)


def test_a_processor_that_cannot_be_read_is_an_error_of_the_directory(
    directories: Callable[[str], Path], tmp_path: Path
) -> None:
    path = copied(directories("gemma3"), tmp_path / "m")
    (path / "processor_config.json").write_text("{}")
    (path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"m: .*processor"):
        load_encoder(path)
