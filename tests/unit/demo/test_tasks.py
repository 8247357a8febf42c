import numpy as np
import pytest

from mmrlhf_ray.demo.gold import gold_reward
from mmrlhf_ray.demo.tasks import TASKS, Item, draw_case, respond, vocabulary

BY_NAME = {task.name: task for task in TASKS}
POOLS = {
    "text": [Item(d) for d in range(10)],
    "image": [Item(d, f"image-{d}") for d in range(10)],
    "audio": [Item(d, f"audio-{d}") for d in range(10)],
    "video": [Item(d, f"clip-{d}-{w}", w) for d in range(10) for w in ("left", "right", "up", "down")],
}


@pytest.mark.parametrize(
    ("task", "items", "answer"),
    [
        ("text_parity", [Item(8)], "even"),
        ("image_parity", [Item(7, "a")], "odd"),
        ("image_digit", [Item(0, "a")], "0"),
        ("tone_digit", [Item(9, "a")], "9"),
        ("images_larger", [Item(3, "a"), Item(2, "b")], "left"),
        ("images_larger", [Item(2, "a"), Item(3, "b")], "right"),
        ("images_larger", [Item(3, "a"), Item(3, "b")], None),
        ("image_tone_larger", [Item(3, "a"), Item(9, "b")], "tone"),
        ("image_tone_larger", [Item(9, "a"), Item(3, "b")], "image"),
        ("clip_direction", [Item(9, "a", "up")], "up"),
    ],
)
def test_answers(task, items, answer):
    assert BY_NAME[task].answer(items) == answer


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.name)
def test_every_option_can_be_drawn_and_the_right_response_has_full_gold(task):
    rng = np.random.default_rng(0)
    for option in task.options:
        case = draw_case(task, POOLS, option, rng)
        assert case.answer == option == task.answer(case.items)
        text = respond(case.answer, case.evidence)
        gold = gold_reward(text, "stop", len(text.split()) + 1, {"answer": case.answer, "evidence": case.evidence})
        assert gold.total == pytest.approx(1.6)


def test_facts_name_every_slot_and_the_direction():
    case = draw_case(BY_NAME["image_tone_larger"], POOLS, "tone", np.random.default_rng(0))
    assert case.facts == f"the image shows {case.items[0].digit} , the tone says {case.items[1].digit}"
    clip = draw_case(BY_NAME["clip_direction"], POOLS, "up", np.random.default_rng(0))
    assert clip.facts == f"the clip shows {clip.items[0].digit} moves up"


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.name)
def test_vocabulary_covers_questions_responses_and_facts(task):
    words = set(vocabulary())
    rng = np.random.default_rng(1)
    for option in task.options * 3:
        case = draw_case(task, POOLS, option, rng)
        assert set(f"{case.question} {case.facts} {respond(case.answer, case.evidence)}".split()) <= words
