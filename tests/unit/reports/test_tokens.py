"""Colours of tokens."""

import math
from typing import Any

from mmrlhf_ray.reports.tokens import LEVELS, token_scale, tokens_of

NAN = math.nan


def row(**columns: list[Any]) -> dict[str, Any]:
    return {
        "tokens": ["a", " b", " c"],
        "response_mask": [True, True, False],
        "rollout_logprobs": [-1.0, -2.0, -1.0],
        "old_logprobs": [-1.0, -1.5, -1.0],
        "ref_logprobs": [-1.0, -1.0, -3.0],
        "ratios": [1.0, math.exp(0.5), 1.0],
        "advantages": [2.0, -1.0, 0.0],
    } | columns


def test_levels_have_the_sign_and_the_size_of_what_they_stand_for() -> None:
    first, second, third = tokens_of(row(), (2.0, 2.0, 0.5))
    assert first.levels == (LEVELS, 0, 0)
    assert second.levels == (-2, -1, LEVELS)  # advantage −1 of 2; KL −0.5 of 2; mismatch 0.5 of 0.5
    assert third.levels == (0, 0, 0)  # the policy did not sample it
    assert [token.text for token in (first, second, third)] == ["a", " b", " c"]
    assert [token.sampled for token in (first, second, third)] == [True, True, False]
    assert third.said == "ratio 1"
    assert second.said == "p 0.135, advantage -1, kl -0.5, mismatch +0.5, ratio 1.649"


def test_the_scale_is_that_of_most_tokens() -> None:
    rows = [row(advantages=[1.0, -1.0, 1.0])] * 20 + [row(advantages=[100.0, 1.0, 1.0])]
    assert token_scale(rows)[0] == 1.0
    assert tokens_of(rows[-1], token_scale(rows))[0].levels[0] == LEVELS


def test_without_a_reference_and_before_the_learner_is_asked() -> None:
    unknown = row(ref_logprobs=[NAN] * 3, old_logprobs=[NAN] * 3, ratios=[NAN] * 3)
    assert token_scale([unknown])[1:] == (0.0, 0.0)
    assert [token.levels[1:] for token in tokens_of(unknown, token_scale([unknown]))] == [(0, 0)] * 3
    assert tokens_of(unknown, (2.0, 0.0, 0.0))[0].said == "p 0.368, advantage +2"
    with_reference = row(old_logprobs=[NAN] * 3, response_mask=[True] * 3)  # the sampler's stand in for the learner's
    assert tokens_of(with_reference, (0.0, 2.0, 0.0))[2].levels[1] == LEVELS


def test_tokens_that_were_not_kept() -> None:
    nothing = dict.fromkeys(row())
    assert tokens_of(nothing, token_scale([nothing])) == ()
