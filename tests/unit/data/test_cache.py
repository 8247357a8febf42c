"""The cache holds what was used last, within its bound."""

import numpy as np

from mmrlhf_ray.data.cache import PromptCache
from mmrlhf_ray.data.encode import EncodedPrompt


def prompt(nbytes: int) -> EncodedPrompt:
    return EncodedPrompt([1], [1], {"m": {"x": np.zeros(nbytes, np.uint8)}})


def fill(cache: PromptCache, *items: tuple[str, int]) -> None:
    for prompt_id, nbytes in items:
        cache.get(prompt_id, lambda n=nbytes: prompt(n))


def misses(cache: PromptCache, *prompt_ids: str) -> list[str]:
    """Those that are not in the cache."""
    found = []
    for prompt_id in prompt_ids:
        before = cache.misses
        cache.get(prompt_id, lambda: prompt(0))
        found += [prompt_id] * (cache.misses - before)
    return found


def test_a_hit_is_the_same_object_and_encodes_nothing() -> None:
    cache = PromptCache(100)
    first = cache.get("a", lambda: prompt(10))
    assert cache.get("a", lambda: prompt(99)) is first
    assert cache.misses == 1


def test_the_least_recently_used_goes_first() -> None:
    cache = PromptCache(100)
    fill(cache, ("a", 40), ("b", 40), ("a", 40), ("c", 40))
    assert misses(cache, "a", "c", "b") == ["b"]


def test_as_many_go_as_must() -> None:
    cache = PromptCache(100)
    fill(cache, ("a", 40), ("b", 40), ("c", 90))
    assert misses(cache, "c", "a", "b") == ["a", "b"]


def test_exactly_full_is_not_too_full() -> None:
    cache = PromptCache(100)
    fill(cache, ("a", 50), ("b", 50))
    assert misses(cache, "a", "b") == []


def test_one_larger_than_the_bound_is_served_and_makes_way() -> None:
    cache = PromptCache(100)
    fill(cache, ("a", 500))
    assert misses(cache, "a") == []
    fill(cache, ("b", 10))
    assert misses(cache, "b", "a") == ["a"]
