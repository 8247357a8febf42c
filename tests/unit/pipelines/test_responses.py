import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmrlhf_ray.data.batches.collate import TokenRow
from mmrlhf_ray.data.encoding.encode import Encoder, encode_response, token_texts
from mmrlhf_ray.data.encoding.turns import encode_turn
from mmrlhf_ray.data.media import media_id
from mmrlhf_ray.pipelines.responses import SWAPPED, MediaFolder, response_table, whole_groups
from mmrlhf_ray.reports.media import find_media
from mmrlhf_ray.rewards.scores import ComponentScores
from mmrlhf_ray.schema import EXPERIENCE, MEDIA, PROMPT, RESPONSE
from tests.unit.tiny import messages, noise, picture, raw, rollout_table


def prompts(*ids: str) -> pa.Table:
    rows = [
        {"prompt_id": i, "messages": messages(["image"], f"what is {i} ?"), "media_ids": ["m"], "task": "t",
         "modality": "image", "extras": json.dumps({"answer": i})}
        for i in ids
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=PROMPT)


def experience(rollouts: pa.Table, **columns: list) -> pa.Table:
    """EXPERIENCE of these rollouts; `columns` has lists for the per-token ones, 0 where it has none."""
    zeros = [[0.0] * len(row) for row in rollouts.column("response_token_ids").to_pylist()]
    for field in EXPERIENCE:
        if field.name not in rollouts.column_names:
            values = [0.0] * len(rollouts) if field.name == "score" else columns.get(field.name, zeros)
            rollouts = rollouts.append_column(field, pa.array(values, field.type))
    return rollouts


def test_rows_are_decoded_in_order(omni_encoder: Encoder) -> None:
    rows = [TokenRow([1], encode_response(omni_encoder, f"answer : {digit}"), []) for digit in (7, 3)]
    unfinished = TokenRow([1], encode_response(omni_encoder, "answer : 5")[:-1], [])
    ids = ["a", "b" + SWAPPED, "c"]
    rollouts = rollout_table([*rows, unfinished], prompt_id=ids, finish_reason=["stop", "stop", "length"])
    numbers = {"right": ComponentScores((1.0, None, math.nan), (None, None, None))}
    table = response_table(
        omni_encoder, rollouts, prompts(*ids), "ppo", 4, [1.0, 2.0, math.nan], [0.1, 0.2, 0.3], numbers
    )
    assert table.schema.equals(RESPONSE)
    first, second, third = table.to_pylist()
    assert (first["prompt_id"], first["media"], first["text"]) == ("a", "own", "answer : 7")
    assert (second["prompt_id"], second["media"], second["text"]) == ("b", "swapped", "answer : 3")
    assert json.loads(second["messages"])[0]["content"][1]["text"] == f"what is b{SWAPPED} ?"
    assert json.loads(third["extras"]) == {"answer": "c"}
    assert [json.loads(row["components"]) for row in (first, second, third)] == [
        {"right": 1.0},
        {"right": None},
        {"right": None},
    ]
    assert (first["score"], second["score"]) == (1.0, 2.0)
    assert math.isnan(third["score"])
    assert math.isnan(third["advantage"])
    assert [third[k] for k in ("text", "finish_reason", "response_tokens")] == ["answer : 5", "length", 3]
    assert first["response_tokens"] == 4
    assert first["tokens"] == first["response_token_ids"] == []
    assert {(row["policy"], row["step"]) for row in (first, second, third)} == {("ppo", 4)}


def test_an_empty_table(omni_encoder: Encoder) -> None:
    assert len(response_table(omni_encoder, rollout_table([]), prompts(), "sft", 0, [], [])) == 0


def test_tokens_of_experience_are_kept_with_what_is_known_of_each(omni_encoder: Encoder) -> None:
    ids = encode_response(omni_encoder, "answer : 7")
    spans = [[{"version": 3, "start": 0, "end": len(ids) - 1}]]
    rollouts = rollout_table([TokenRow([1], ids, ["m"])], response_mask=[[True, True, True, False]], versions=spans)
    old, advantages = [-1.5, -1.0, -0.5, -1.0], [1.0, 2.0, 6.0, 99.0]
    table = experience(rollouts, old_logprobs=[old], ref_logprobs=[[math.nan] * 4], advantages=[advantages])
    (row,) = response_table(omni_encoder, table, prompts("p0"), "ppo", 4, [1.0], [0.1]).to_pylist()
    assert row["response_token_ids"] == ids
    assert "".join(row["tokens"][:-1]).strip() == "answer : 7"
    assert row["ratios"] == pytest.approx(np.exp([-0.5, 0.0, 0.5, math.nan]), nan_ok=True)
    assert row["advantage"] == pytest.approx(3.0)  # what the policy did not sample does not count
    assert (row["versions"], row["media_ids"]) == (spans[0], ["m"])
    assert np.isnan(row["ref_logprobs"]).all()


def test_texts_of_tokens_keep_their_spaces(omni_encoder: Encoder) -> None:
    ids = encode_response(omni_encoder, "saw : seven answer : 7")
    assert "".join(token_texts(omni_encoder, ids)) == omni_encoder.tokenizer.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize(
    ("groups", "most", "rows"),
    [
        ([0, 0, 1, 1, 2, 2], 64, 6),
        ([0, 0, 1, 1, 2, 2], 5, 4),
        ([7, 7, 3, 3], 2, 2),
        ([0, 0, 0, 1], 2, 3),
        ([0, 0], 0, 0),
        ([], 4, 0),
    ],
)
def test_groups_are_kept_whole(groups: list[int], most: int, rows: int) -> None:
    assert whole_groups(pa.table({"group_id": pa.array(groups, pa.int64())}), most) == rows


def clip(kind: str, mime: str, data: bytes) -> pa.Table:
    row = {"media_id": media_id(data), "kind": kind, "mime": mime, "data": data}
    return pa.Table.from_pylist([row], schema=MEDIA)


def test_media_are_written_once_until_there_is_no_room(tmp_path: Path) -> None:
    image, sound, other = picture(0), noise(0, 0.1), picture(1)
    ids = [media_id(data) for data in (image, sound, other)]
    shows = pa.table({"media_ids": [ids[:2], ids]})
    folder = MediaFolder(tmp_path, len(image) + len(sound) + 1)
    assert folder.lacking(shows) == ids
    folder.write(pa.concat_tables([clip("image", "image/png", image), clip("audio", "audio/wav", sound)]))
    assert folder.lacking(shows) == ids[2:]
    folder.write(clip("image", "image/png", other))  # does not fit
    found = find_media(tmp_path, ids[1])
    assert found is not None
    assert (found[0].read_bytes(), found[1]) == (sound, "audio/wav")
    assert find_media(tmp_path, ids[2]) is None
    assert find_media(tmp_path, "*") is None
    assert sorted(file.name for file in tmp_path.rglob("*.*")) == sorted([f"{ids[0]}.png", f"{ids[1]}.wav"])
    assert MediaFolder(tmp_path, 1 << 20).lacking(shows) == ids[2:]  # a resumed run knows what is there


def test_an_episode_is_kept_turn_by_turn(omni_encoder: Encoder) -> None:
    call, answer = (encode_response(omni_encoder, text) for text in ("which tone", "answer : 3"))
    seen = encode_turn(omni_encoder, [{"type": "image"}, {"type": "text", "text": "which digit ?"}], [raw("image", 1)])
    ids = [*call, *seen.token_ids, *answer]
    ends = [0, len(call), len(call) + len(seen.token_ids), len(ids)]
    segments = [
        {"kind": kind, "start": first, "end": last, "shows": shows, "reward": reward, "problem": ""}
        for kind, first, last, shows, reward in (
            ("response", ends[0], ends[1], [], 0.5),
            ("observation", ends[1], ends[2], ["image"], math.nan),
            ("response", ends[2], ends[3], [], math.nan),
        )
    ]
    mask = [[ends[1] > i or i >= ends[2] for i in range(len(ids))]]
    row = TokenRow([1], ids, ["first", "second"])
    rollouts = rollout_table([row], response_mask=mask, segments=[segments])
    table = response_table(omni_encoder, rollouts, prompts("p0"), "ppo", 0, [1.0], [0.0])
    (kept,) = table.to_pylist()
    assert kept["text"] == "answer : 3"
    assert kept["media_ids"] == ["first"]
    assert kept["response_tokens"] == len(call) + len(answer)
    first, second, third = json.loads(kept["turns"])
    assert (first["text"], first["reward"], first["media_ids"]) == ("which tone", 0.5, [])
    assert (second["text"], second["reward"], second["media_ids"]) == ("which digit ?", None, ["second"])
    assert third["text"] == "answer : 3"
