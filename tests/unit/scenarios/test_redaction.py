"""What is taken out of texts, and what is left in them."""

import pytest

from mmrlhf_ray.scenarios.redaction import is_card, redacted


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("card 4111 1111 1111 1111, please", "card <card>, please"),
        ("card 4111-1111-1111-1111", "card <card>"),
        ("card 4111 1111 1111 1112", "card <number>"),  # no card: Luhn's sum is 31
        ("call 555-201-8842 or +44 20 7946 0958", "call <number> or <number>"),
        ("order 8843920017", "order <number>"),
        ("ada.okafor@post.example wrote", "<mail> wrote"),
        ("two shirts, size 42, 3 days ago", "two shirts, size 42, 3 days ago"),
        ("I am ADA OKAFOR, not Adam; Okafor", "I am <name>, not Adam; <name>"),
    ],
)
def test_numbers_addresses_and_known_names_go(said: str, left: str) -> None:
    assert redacted(said, ["Ada Okafor", "Okafor", " "]) == left


def test_luhns_check() -> None:
    assert is_card("4539 1488 0343 6467")  # by hand: its sum is 80
    assert not is_card("4539 1488 0343 6468")
    assert not is_card("4111 1111 1111")  # too short
