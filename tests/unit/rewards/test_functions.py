"""Every built-in function on cases worked out by hand."""

import pytest

from mmrlhf_ray.rewards.functions import BUILT_IN
from mmrlhf_ray.rewards.text import number, words


def scores(name, completions, **given):
    return BUILT_IN[name]([""] * len(completions), completions, **given)


def test_exact_match():
    said, answers = [" 7\n", "seven", "7.", "A  b", "x"], ["7", "7", "7", "A b", None]
    assert scores("exact_match", said, answer=answers) == [1, 0, 0, 1, None]
    assert scores("exact_match", ["PARIS", "Paris!"], answer=["paris"] * 2, ignore_case=True) == [1, 0]
    assert scores("exact_match", ["Paris!"], answer=["Paris"], ignore_punctuation=True) == [1]
    assert scores("exact_match", ["2", "3"], answer=[["1", "2"], []]) == [1, None]  # several are right, or none is
    assert scores("exact_match", ["7"], truth=[7], key="truth") == [1]


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [
        ("the image shows 7 . answer : even", "even", 1),
        ("answer: odd\nNo, wait.\nAnswer: even", "even", 1),
        ("answer: even\nNo, wait.\nAnswer: odd", "even", 0),
        ("**Answer:** Even.", "even", 1),
        ("answer: even odd", "even", 0),
        ("even", "even", 0),
        ("answer:", "even", 0),
        ("answer: 1,000.0", "1000", 1),
        ("answer: 0.5", "1/2", 1),
        ("answer: 50%", 0.5, 1),
        ("answer: -3", "3", 0),
        ("answer: 1/0", "1/0", 1),
        ("answer: 1.0000001", "1", 1),
        ("answer: 1.001", "1", 0),
        ("answer: 0.0000001", "0", 0),
    ],
)
def test_accuracy_after_a_marker(said, answer, right):
    assert scores("accuracy", [said], answer=[answer]) == [right]


@pytest.mark.parametrize(
    ("take", "said", "answer", "right"),
    [
        ("boxed", r"so \boxed{3} or rather \boxed{\frac{1}{2}}.", r"\frac{1}{2}", 1),
        ("boxed", r"\boxed{3", "3", 0),
        ("boxed", "3", "3", 0),
        ("choice", "A or C? I take (B).", "B", 1),
        ("choice", "Answer: B. A cat is shown.", "B", 1),
        ("choice", "ABC", "A", 0),
        ("choice", "b", "B", 0),
        ("number", "3 cats and 4 dogs make 7 animals.", "7", 1),
        ("number", "answer: 7, that is 3 + 4", "7", 1),
        ("number", "v2.5 of 10-12", "12", 1),
        ("number", "none", "0", 0),
    ],
)
def test_accuracy_otherwise(take, said, answer, right):
    assert scores("accuracy", [said], answer=[answer], take=take) == [right]


def test_accuracy_options():
    assert scores("accuracy", ["#### 5"], answer=["5"], marker="####") == [1]
    assert scores("accuracy", ["answer: 5.2"], answer=["5"], tolerance=0.05) == [1]
    assert scores("accuracy", ["it is D"], answer=["D"], take="choice", choices="ABC") == [0]
    assert scores("accuracy", ["answer: 5"], answer=[None]) == [None]
    # Python refuses to read numbers as long as this; they are text.
    assert scores("accuracy", ["answer: " + "9" * 5000], answer=["9" * 5000]) == [1]


def test_f1_and_recall():
    # said: a cat a dog; wanted: the cat cat -> 1 common word of 4 and of 3
    given = {"answer": ["the cat cat"]}
    assert scores("f1", ["A cat, a dog."], **given) == [pytest.approx(2 * (1 / 4) * (1 / 3) / (1 / 4 + 1 / 3))]
    assert scores("recall", ["A cat, a dog."], **given) == [pytest.approx(1 / 3)]
    assert scores("f1", ["", "x"], answer=["x", "y"]) == [0, 0]
    assert scores("recall", ["", "x y"], answer=["x", "y"]) == [0, 1]
    assert scores("f1", ["x"], answer=[None]) == scores("recall", ["x"], answer=[None]) == [None]
    assert scores("recall", ["b"], answer=[["a", "b"]]) == [1]


def test_iou_of_one_box():
    # [0,0,2,2] and [1,1,3,3] share 1 of 7
    given = {"boxes": [[1, 1, 3, 3]]}
    assert scores("iou", ["the cat is at [0, 0, 2, 2]."], **given) == [pytest.approx(1 / 7)]
    assert scores("iou", ["(1.0,1,3,3)"], **given) == [1]
    assert scores("iou", ["[4, 4, 5, 5]"], **given) == scores("iou", ["nowhere"], **given) == [0]
    assert scores("iou", ["[3, 3, 1, 1]"], **given) == [0]  # corners in the wrong order
    assert scores("iou", ["[0, 0, 2, 2]"], boxes=[None]) == [None]


def test_iou_of_several_boxes():
    two = [[0, 0, 2, 2], [10, 10, 12, 12]]
    assert scores("iou", ["[10, 10, 12, 12] [0, 0, 2, 2]"], boxes=[two]) == [1]
    assert scores("iou", ["[0, 0, 2, 2]"], boxes=[two]) == [0.5]  # one is missing
    assert scores("iou", ["[0, 0, 2, 2] [0, 0, 2, 2] [10, 10, 12, 12]"], boxes=[two]) == [pytest.approx(2 / 3)]
    nested = [[0, 0, 2, 2], [0, 0, 2, 1]]
    assert scores("iou", ["[0, 0, 2, 2]"], boxes=[nested]) == [0.5]  # one box cannot stand for two
    # half of the first box: 0.5 counts 1 from the threshold on
    half = "[0, 0, 2, 1] [10, 10, 12, 12]"
    assert scores("iou", [half], boxes=[two]) == [0.75]
    assert scores("iou", [half], boxes=[two], threshold=0.5) == [1]
    assert scores("iou", [half], boxes=[two], threshold=0.51) == [0.5]
    with pytest.raises(
        ValueError, match=r"boxes, row 1 of the batch: expected \[x1, y1, x2, y2\] .* got \[2, 0, 1, 1\]"
    ):
        scores("iou", ["", ""], boxes=[[0, 0, 1, 1], [2, 0, 1, 1]])


def test_format():
    pattern = r"<think>.*</think>\s*<answer>[^<]+</answer>"
    said = ["<think>a\nb</think> <answer>7</answer>", "<answer>7</answer>", "<think></think><answer>7</answer> so"]
    assert scores("format", said, pattern=pattern) == [1, 0, 0]
    assert scores("format", said, pattern=pattern, whole=False) == [1, 0, 1]


def test_length_penalty():
    given = {"free_tokens": 10, "response_tokens": [10, 11, 14, 200, 3]}
    assert scores("length_penalty", [""] * 5, cost=0.25, **given) == [0, -0.25, -1, -1, 0]
    assert scores("length_penalty", [""] * 5, cost=0.25, most=2, **given) == [0, -0.25, -1, -2, 0]


def test_turn_penalty():
    assert scores("turn_penalty", [""] * 3, cost=0.25, turns=[1, 2, 4]) == [0, -0.25, -0.75]
    assert scores("turn_penalty", [""] * 3, free_turns=2, turns=[1, 2, 4]) == [0, 0, -0.2]


def test_repetition_penalty():
    # a b c a b c: trigrams abc bca cab abc, one of four again
    said = ["a b c a b c", "a b c d", "a b", "", "a a a a"]
    assert scores("repetition_penalty", said) == [-0.25, 0, 0, 0, -0.5]
    assert scores("repetition_penalty", ["a a a a"], n=1, most=2) == [-1.5]


def test_text_similarity():
    given = {"answer": ["abc", "abc", "abc", None]}
    # abd: unigrams 2/3, bigrams ab of 2, trigrams none; precision = recall = (2/3 + 1/2 + 0) / 3
    assert scores("text_similarity", ["a bc", "abd", "xyz", "x"], **given) == [1, pytest.approx(7 / 18), 0, None]
    # ab: precision (1 + 1 + 0)/3, recall (2/3 + 1/2 + 0)/3, beta 2
    p, r = 2 / 3, 7 / 18
    assert scores("text_similarity", ["ab"], answer=["abc"]) == [pytest.approx(5 * p * r / (4 * p + r))]
    assert scores("text_similarity", ["", ""], answer=["", "a"]) == [1, 0]
    assert scores("text_similarity", ["abd"], answer=["abc"], measure="ratio") == [pytest.approx(2 / 3)]


def test_grounding():
    facts = {"facts": ["the left image shows 7 , the right image shows 3"] * 5 + [None]}
    said = [
        "The left image shows 7.",
        "The left image shows 8.",
        "7 7 7 7 8",  # saying it again does not help
        "it is the",
        "",
        "7",
    ]
    assert scores("grounding", said, **facts) == [1, 0.75, 0.5, 0, 0, None]
    assert scores("grounding", ["answer : 7"], facts=["7"]) == [0.5]
    assert scores("grounding", ["answer : 7"], facts=["7"], ignore=["Answer"]) == [1]
    nested = {"evidence": [{"image": "0", "tones": [3, None]}]}
    assert scores("grounding", ["image 3 0 9"], key="evidence", **nested) == [0.75]


def test_every_function_takes_no_rows_and_keeps_the_order():
    needed = {"format": {"pattern": "b"}, "length_penalty": {"free_tokens": 0}}
    columns = {
        "answer": ["b", "b"], "facts": ["b", "b"], "boxes": [[0, 0, 1, 1]] * 2, "response_tokens": [2, 1],
        "turns": [1, 2],
    }  # fmt: skip
    said = ["a [5, 5, 6, 6]", "b"]
    for name in BUILT_IN:
        options = needed.get(name, {})
        nothing = {key: [] for key in columns}
        assert scores(name, [], **nothing, **options) == []
        turned = {key: values[::-1] for key, values in columns.items()}
        assert scores(name, said, **columns, **options) == scores(name, said[::-1], **turned, **options)[::-1], name


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("format", {"pattern": "("}, "pattern expects a regular expression"),
        ("iou", {"threshold": 0, "boxes": []}, "threshold expects"),
        ("accuracy", {"tolerance": -1, "answer": []}, "tolerance expects"),
        ("accuracy", {"marker": " ", "answer": []}, "marker expects"),
        ("accuracy", {"choices": "a-c", "answer": []}, "choices expects"),
        ("repetition_penalty", {"n": 0}, "n expects"),
        ("repetition_penalty", {"most": -1}, "most expects"),
        ("length_penalty", {"free_tokens": -1, "response_tokens": []}, "free_tokens expects"),
    ],
)
def test_bad_options_are_refused_before_there_is_a_row(name, options, problem):
    with pytest.raises(ValueError, match=problem):
        scores(name, [], **options)


def test_words_and_numbers():
    assert words("It's 3.5 mm_wide, B12!") == ["it", "s", "3.5", "mm_wide", "b", "12"]
    assert words("图片显示 7") == ["图", "片", "显", "示", "7"]
    texts = ["1,234.5", "-3", "1/2", "50%", "$7", "1e-3", "3.", "", "x", "1/0", "12,34"]
    got = [None if (n := number(t)) is None else float(n) for t in texts]
    assert got == [1234.5, -3, 0.5, 0.5, 7, 0.001, 3, None, None, None, None]
