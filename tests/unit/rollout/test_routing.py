"""Where groups go: to the generator with the least to do, media counted."""

import numpy as np
import pyarrow as pa
import pytest

from mmrlhf_ray.rollout.routing import Routing, group_tokens
from mmrlhf_ray.schema import ENCODED_PROMPT


def prompts(*shapes: tuple[int, int]) -> pa.Table:
    """A row for each (tokens, tokens with a placeholder for each clip)."""
    rows = [
        {
            "group_id": i,
            "prompt_id": f"p{i}",
            "task": "t",
            "modality": "text",
            "prompt_token_ids": [1] * expanded,
            "collapsed_token_ids": [1] * collapsed,
            "facts_token_ids": [],
            "media_ids": [],
        }
        for i, (expanded, collapsed) in enumerate(shapes)
    ]
    return pa.Table.from_pylist(rows, schema=ENCODED_PROMPT)


def test_a_group_costs_its_prompt_once_its_media_twice_and_each_response() -> None:
    assert group_tokens(prompts((10, 10)), 4, 8.0) == 10 + 4 * 8
    assert group_tokens(prompts((110, 11)), 4, 8.0) == 110 + 99 + 4 * 8
    assert group_tokens(prompts((10, 10), (110, 11)), 4, 8.0) == 10 + 110 + 99 + 2 * 4 * 8


def test_each_group_goes_where_the_least_is_to_do() -> None:
    routing = Routing(2, 2)
    assert [routing.start(tokens) for tokens in (100.0, 30.0, 30.0, 30.0, 30.0, 30.0)] == [0, 1, 1, 1, 1, 0]
    assert routing.load == (130.0, 120.0)
    routing.finish(1, 30.0, np.array([5, 5]))
    assert routing.start(1.0) == 1
    assert routing.start(500.0, 0) == 0, "a given generator is taken, however much it has to do"
    assert routing.load == (630.0, 91.0)


def test_only_who_serves_is_given_groups() -> None:
    routing = Routing(3, 1)
    assert [routing.start(1.0) for _ in range(3)] == [0, 0, 0]
    routing.open([2])
    assert routing.serving == (0, 2)
    assert [routing.start(1.0) for _ in range(4)] == [2, 2, 2, 0]
    routing.close([0, 2])
    with pytest.raises(ValueError, match="no generator serves"):
        routing.start(1.0)
    assert routing.start(1.0, 0) == 0, "a given generator is taken all the same"


def test_responses_teach_how_long_the_next_will_be() -> None:
    routing = Routing(1, 1)
    before = routing.response_tokens
    routing.finish(0, 0.0, np.empty(0))
    assert routing.response_tokens == before
    routing.finish(0, 0.0, np.full(1000, 20))
    assert routing.response_tokens == pytest.approx(20.0, abs=0.01)
