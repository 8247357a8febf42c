"""What a correction changed, in whole words."""

import random
from itertools import pairwise

import pytest

from mmrlhf_ray.feedback.labels.segments import Segment, changed_segments


@pytest.mark.parametrize(
    ("original", "correction", "expected"),
    [
        ("the image shows 7 .", "the image shows 1 .", [(16, 17, "7", "1")]),
        ("A cat sits.", "A black cat sits.", [(1, 1, "", " black")]),
        ("A black cat sits.", "A cat sits.", [(1, 7, " black", "")]),
        ("two red cats", "three blue cats", [(0, 7, "two red", "three blue")]),
        ("seven", "Seven!", [(0, 5, "seven", "Seven!")]),
        ("same", "same", []),
        ("", "new", [(0, 0, "", "new")]),
        ("Füße 🙂 da", "Füße 🙁 da", [(5, 6, "🙂", "🙁")]),
    ],
)
def test_by_hand(original, correction, expected):
    found = changed_segments(original, correction)
    assert [(s.start, s.end, s.removed, s.added) for s in found] == expected
    for segment in found:
        assert original[segment.start : segment.end] == segment.removed
        assert correction[segment.new_start : segment.new_end] == segment.added


def put_in(original: str, segments: list[Segment]) -> str:
    """Each segment's `added` in its place in the original."""
    pieces, end = [], 0
    for segment in segments:
        pieces += [original[end : segment.start], segment.added]
        end = segment.end
    return "".join([*pieces, original[end:]])


@pytest.mark.parametrize("seed", range(50))
def test_segments_make_the_correction(seed):
    rng = random.Random(seed)
    words = ["a", "b", "  ", "\n", ".", "7", "ä", "🙂", " "]
    original, correction = ("".join(rng.choices(words, k=rng.randrange(30))) for _ in range(2))
    segments = changed_segments(original, correction)
    assert put_in(original, segments) == correction
    assert all(a.end <= b.start for a, b in pairwise(segments))


def test_frequent_words_of_long_texts_still_match():
    long = "the cat . " * 300
    assert [s.removed for s in changed_segments(long + "seven", long + "one")] == ["seven"]
