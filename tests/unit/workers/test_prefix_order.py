"""Prompts that begin alike stand together, whatever order they were drawn in."""

import numpy as np

from mmrlhf_ray.workers.roles.engine_input import prefix_order


def test_same_media_then_same_text_stand_together() -> None:
    rows = [
        {"media_ids": media, "collapsed_token_ids": [1, 2, text, n]}
        for n, (media, text) in enumerate(
            (m, t) for m in ([], ["a"], ["a", "b"], ["b"]) for t in (5, 6) for _ in range(3)
        )
    ]
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    order = prefix_order(shuffled)
    assert sorted(order) == list(range(len(rows)))
    assert [shuffled[i] for i in order] == rows
