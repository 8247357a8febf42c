"""Episodes: what is appended, what the rows say, and which rows share a prompt."""

import pyarrow as pa
import pytest

from mmrlhf_ray.data.batches.ragged import Ragged
from mmrlhf_ray.data.encoding.encode import EncodedPrompt
from mmrlhf_ray.errors import SchemaError
from mmrlhf_ray.rewards.episodes import environment_scores
from mmrlhf_ray.rollout.batch import Rollouts, response_kl
from mmrlhf_ray.rollout.by_turn import rows_by_turn
from mmrlhf_ray.rollout.episode import Episode, Turn, answer_of, kinds_of, turn_metrics, turn_rewards
from mmrlhf_ray.schema import ROLLOUT, check

PROMPT = {
    "group_id": 7,
    "prompt_id": "p",
    "task": "t",
    "modality": "image",
    "prompt_token_ids": [1, 50, 50, 2],
    "collapsed_token_ids": [1, 50, 2],
    "facts_token_ids": [],
    "media_ids": ["first"],
}


def turn(*ids: int, version: int = 3) -> Turn:
    return Turn(ids, [-0.5] * len(ids), [(version, 0, len(ids))])


def played() -> Episode:
    """A call, a sound as its answer, a call that fails, words as its answer, and the last turn."""
    episode = Episode(PROMPT, 1)
    episode.respond(turn(10, 11))
    episode.judge(0.25, None)
    episode.observe(EncodedPrompt([20, 60, 60, 60, 21], [20, 60, 21], {}), [("audio", "second")])
    episode.respond(turn(12, version=4))
    episode.judge(None, "no such tool")
    episode.observe(EncodedPrompt([22, 23], [22, 23], {}), [])
    episode.respond(turn(13, 14, version=4))
    episode.judge(1.0, None)
    return episode


def rollouts(*rows: dict) -> Rollouts:
    table = check(pa.Table.from_pylist(list(rows), schema=ROLLOUT), ROLLOUT, "test")
    return Rollouts(table, None, {"first": "a", "second": "b", "third": "b"}, 0.0)


def test_turns_are_appended_and_nothing_is_changed() -> None:
    episode = Episode(PROMPT, 0)
    assert episode.asked["prompt_token_ids"] == PROMPT["prompt_token_ids"]
    whole = played()
    assert whole.response_token_ids == [10, 11, 20, 60, 60, 60, 21, 12, 22, 23, 13, 14]
    assert whole.asked["prompt_token_ids"] == [1, 50, 50, 2, *whole.response_token_ids]
    assert whole.asked["collapsed_token_ids"] == [1, 50, 2, 10, 11, 20, 60, 21, 12, 22, 23, 13, 14]
    assert whole.asked["media_ids"] == ["first", "second"]
    assert whole.turns == 3
    assert PROMPT["media_ids"] == ["first"]


def test_a_row_says_who_wrote_what() -> None:
    row = played().as_row("stop")
    (back,) = rollouts(row).table.to_pylist()
    sampled = [True] * 2 + [False] * 5 + [True] + [False] * 2 + [True] * 2
    assert back["response_mask"] == sampled
    assert [p for p, own in zip(back["rollout_logprobs"], sampled, strict=True) if not own] == [0.0] * 7
    assert [(s["version"], s["start"], s["end"]) for s in back["versions"]] == [(3, 0, 2), (4, 7, 8), (4, 10, 12)]
    assert [s["kind"] for s in back["segments"]] == ["response", "observation"] * 2 + ["response"]
    assert [s["problem"] for s in back["segments"]] == ["", "", "no such tool", "", ""]
    assert back["sample_id"] == "p@7/v3/1"
    assert back["policy_version"] == 3
    assert answer_of(back["response_token_ids"], back["segments"]) == [13, 14]
    assert kinds_of(back["segments"]) == ["audio"]


def test_spans_must_cover_what_was_sampled() -> None:
    row = played().as_row("stop")
    with pytest.raises(SchemaError, match="cover the 5 sampled tokens of the response, row 0 has"):
        rollouts(row | {"versions": row["versions"][:2]})


def test_one_turn_without_a_word_of_the_environment_is_a_plain_response() -> None:
    episode = Episode(PROMPT, 0)
    episode.respond(turn(10, 11))
    assert episode.as_row("length")["segments"] == []
    assert answer_of([10, 11], []) == [10, 11]
    episode.judge(0.5, None)
    assert len(episode.as_row("stop")["segments"]) == 1


def test_the_environments_score_is_the_sum_of_its_turns() -> None:
    silent = Episode(PROMPT, 0)
    silent.respond(turn(10))
    found = environment_scores(rollouts(played().as_row("stop"), silent.as_row("stop")).table)
    assert found.values == (1.25, None)
    assert found.problems == (None, "its environment gave no reward")
    assert found.turns == ()
    by_turn = environment_scores(rollouts(played().as_row("stop"), silent.as_row("stop")).table, per_turn=True)
    assert by_turn.turns == ((0.25, None, 1.0), ())


def test_rewards_of_turns_stand_where_their_turns_end() -> None:
    plain = Episode(PROMPT, 0)
    plain.respond(turn(10))
    table = rollouts(plain.as_row("stop"), played().as_row("stop"), plain.as_row("stop")).table
    placed = turn_rewards(table, [(), (0.5, -1.0, 2.0), (4.0,)])
    wanted = [0.0] * 14
    wanted[1 + 1], wanted[1 + 7], wanted[1 + 11], wanted[13] = 0.5, -1.0, 2.0, 4.0
    assert placed.tolist() == wanted
    with pytest.raises(ValueError, match="row 1 has 1 rewards for 3 turns"):
        turn_rewards(table, [(), (0.5,), (4.0,)])


def test_each_turn_is_a_response_to_all_before_it() -> None:
    plain = Episode(PROMPT, 0)
    plain.respond(turn(10))
    rows, owners = rows_by_turn(rollouts(plain.as_row("stop"), played().as_row("stop")).table)
    assert owners == [0, 1, 1, 1]
    found = rows.to_pylist()
    said = [1, 50, 50, 2, 10, 11, 20, 60, 60, 60, 21, 12, 22, 23]
    assert [row["prompt_token_ids"] for row in found] == [said[:4], said[:4], said[:11], said]
    assert [row["response_token_ids"] for row in found] == [[10], [10, 11], [12], [13, 14]]
    assert [row["media_ids"] for row in found] == [["first"]] * 2 + [["first", "second"]] * 2
    assert [row["modality"] for row in found] == ["image"] * 2 + ["image+audio"] * 2
    spans = [[(s["version"], s["start"], s["end"]) for s in row["versions"]] for row in found]
    assert spans == [[(3, 0, 1)], [(3, 0, 2)], [(4, 0, 1)], [(4, 0, 2)]]
    assert len({row["group_id"] for row in found}) == 4, "no two have one prompt"
    assert not any(row["segments"] for row in found)


def test_turns_and_their_problems_are_counted() -> None:
    plain = Episode(PROMPT, 0)
    plain.respond(turn(10))
    assert turn_metrics(rollouts(plain.as_row("stop")).table) == {}
    found = turn_metrics(rollouts(plain.as_row("stop"), played().as_row("stop")).table)
    assert found == {"turns": 2.0, "turns_with_problem": 0.25}


def test_rows_that_show_clips_later_share_no_prompt_and_have_more_kinds() -> None:
    plain = Episode(PROMPT, 0)
    plain.respond(turn(10))
    batch = rollouts(plain.as_row("stop"), played().as_row("stop"), plain.as_row("stop"))
    assert batch.kinds == [{"image"}, {"image", "audio"}, {"image"}]
    shared = batch.shared()
    assert shared.groups[0] == shared.groups[2] == 7
    assert shared.groups[1] != 7
    assert shared.cost([0, 1, 2], batch.lengths) == (4 + 1 + 1) + (4 + 12)
    assert batch.features_of([0, 1]) == ["a", "b"]


def test_the_kl_is_of_what_was_sampled() -> None:
    batch = rollouts(played().as_row("stop"))
    reference = Ragged.of_column(pa.chunked_array([pa.array([[-1.0] * 12], pa.list_(pa.float32()))]))
    assert response_kl(batch.table, reference).tolist() == [pytest.approx(5 * 0.5)]
