"""Every metric has a group, and the table says which."""

import pytest

from mmrlhf_ray.runtime.metric_groups import GROUPS, OTHER, group_of, grouped


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("score", "reward"), ("reward_digits", "reward"), ("lagrange_length", "reward"), ("kl", "policy"),
        ("kl_coef", "policy"), ("lr_vision", "policy"), ("seconds_push", "timing"),
        ("seconds_draw_to_train_p50", "stream"), ("mismatch_kl", "mismatch"), ("seconds_eval", "timing"),
        ("idle_policy", "timing"), ("eval_score", "eval"), ("eval_loss", "eval"), ("critic_grad_norm", "critic"),
        ("dropped_stale", "stream"), ("weight_bytes", "system"), ("loss", "train"), ("language_loss", "train"),
        ("pair_accuracy", "train"), ("value_loss", "critic"), ("policy_loss", "policy"), ("kl_loss", "policy"),
        ("heldout_score/digits", "eval"), ("never heard of", OTHER),
    ],
)  # fmt: skip
def test_a_metric_is_in_the_group_of_the_table(name, group):
    assert group_of(name) == group
    assert grouped(name) == f"{group}/{name}"


def test_groups_are_one_word_each():
    assert all(group.isalpha() and group.islower() for group in GROUPS)
    assert OTHER not in GROUPS
