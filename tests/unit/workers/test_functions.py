"""Rewards that are computed from text, of whole responses and of each turn."""

import json
from pathlib import Path

import pyarrow as pa

from mmrlhf_ray.config import FunctionReward
from mmrlhf_ray.data.batches.collate import TokenRow
from mmrlhf_ray.data.encoding.encode import Encoder, encode_response
from mmrlhf_ray.data.encoding.turns import encode_turn
from mmrlhf_ray.schema import PROMPT
from mmrlhf_ray.workers.roles.functions import RewardFunctions
from tests.unit.tiny import rollout_table

WRITES = """
import json
from pathlib import Path


def score(prompts, completions, turn, turns, modality, answer, **columns):
    asked = list(zip(prompts, completions, turn, turns, modality, answer))
    Path(__file__).with_name("asked.json").write_text(json.dumps(asked))
    return [None if text == "image" else float(len(text)) for text in completions]
"""


def test_a_function_is_given_each_turn_with_all_that_came_before(
    omni: Path, omni_encoder: Encoder, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(WRITES)
    first, last = (encode_response(omni_encoder, text) for text in ("tone", "3"))
    shown = encode_turn(omni_encoder, [{"type": "text", "text": "which digit ?"}], []).token_ids
    ends = [len(first), len(first) + len(shown), len(first) + len(shown) + len(last)]
    kinds = ("response", "observation", "response")
    segments = [
        {"kind": kind, "start": start, "end": end, "shows": [], "reward": float("nan"), "problem": ""}
        for kind, start, end in zip(kinds, [0, *ends], ends, strict=False)
    ]
    plain = encode_response(omni_encoder, "image")
    rows = [TokenRow([1], [*first, *shown, *last], []), TokenRow([1], plain, [])]
    mask = [[True] * len(first) + [False] * len(shown) + [True] * len(last), [True] * len(plain)]
    table = rollout_table(rows, segments=[segments, []], response_mask=mask)
    prompt = {"task": "t", "modality": "text", "media_ids": [], "extras": json.dumps({"answer": "3"})}
    prompt |= {"messages": json.dumps([{"role": "user", "content": "1 ?"}])}
    known = pa.Table.from_pylist([prompt | {"prompt_id": name} for name in ("p0", "p1")], schema=PROMPT)
    rewards = [
        FunctionReward(kind="function", name="turns", function=f"{tmp_path / 'mine.py'}:score", per_turn=True),
        FunctionReward(kind="function", name="right", function="exact_match"),
    ]
    actor = RewardFunctions(rewards, known, str(omni))
    try:
        answers, _ = actor.score(table, None)
    finally:
        actor.close()
    assert answers["turns"].values == (4.0 + 1.0, None)
    assert answers["turns"].turns == ((4.0, 1.0), ())
    assert answers["right"].values == (1.0, 0.0), "the last turn is the answer of those that score responses"
    assert answers["right"].turns == ()
    before = "user: 1 ?\n\nassistant: tone\n\nuser: which digit ?"
    assert json.loads((tmp_path / "asked.json").read_text()) == [
        ["1 ?", "tone", 1, 2, "text", "3"],
        [before, "3", 2, 2, "text", "3"],
        ["1 ?", "image", 1, 1, "text", "3"],
    ]
