"""The stand-in of questions: streets with a house number in each quarter, in the layout of VQA v2."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from mmrlhf_ray.scenarios.pictures import grey
from mmrlhf_ray.scenarios.questions import ANNOTATIONS, PICTURES, QUESTIONS, picture_name

QUARTERS = ("top left", "top right", "bottom left", "bottom right")
NUMBERS = (1, 2, 3, 4, 5)
_PICTURES, _SIDE, _DIGIT, _MARGIN = 1200, 96, 24, 8
_ABOUT_ALL = ("is it night ?", "is it dark in the picture ?")
_ABOUT_ONE = ("what number is on the {} house ?", "which digit is {} ?")


def make(root: Path, seed: int, pictures: int = _PICTURES) -> None:
    """By day or by night, a handwritten digit of 24 × 24 pixels, from 1 to 5, in each quarter of 96 × 96: of the whole
    picture, made small, one sees whether it is night, and no digit. Five questions a picture."""
    (root / PICTURES).mkdir(parents=True)
    digits = load_digits()
    numbered = np.flatnonzero(np.isin(digits.target, NUMBERS))
    questions, annotations = [], []
    for number in range(pictures):
        rng = np.random.default_rng([seed, number])
        chosen, night = rng.choice(numbered, size=4), bool(rng.integers(2))
        _picture([digits.images[i] / 16.0 for i in chosen], night, rng).save(
            root / PICTURES / picture_name(number), quality=95
        )
        asked = [(str(rng.choice(_ABOUT_ALL)), "yes" if night else "no", "yes/no")]
        for quarter, index in zip(QUARTERS, chosen, strict=True):
            asked.append((str(rng.choice(_ABOUT_ONE)).format(quarter), str(digits.target[index]), "number"))
        for place, (question, answer, kind) in enumerate(asked):
            key = {"question_id": 10 * number + place, "image_id": number}
            questions.append(key | {"question": question})
            annotations.append(key | {"multiple_choice_answer": answer, "answer_type": kind})
    (root / QUESTIONS).write_text(json.dumps({"questions": questions}))
    (root / ANNOTATIONS).write_text(json.dumps({"annotations": annotations}))


def _picture(digits: list[np.ndarray], night: bool, rng: np.random.Generator) -> Image.Image:
    half, light = _SIDE // 2, 0.2 if night else 0.5
    canvas = light + rng.normal(0.0, 0.05, (_SIDE, _SIDE))
    for place, digit in enumerate(digits):
        sign = np.asarray(Image.fromarray(grey(digit)).resize((_DIGIT, _DIGIT), Image.Resampling.BILINEAR)) / 255.0
        row, column = (
            int(half * quarter + rng.integers(_MARGIN, half - _DIGIT - _MARGIN)) for quarter in divmod(place, 2)
        )
        canvas[row : row + _DIGIT, column : column + _DIGIT] += 0.45 * sign
    return Image.fromarray(grey(canvas)).convert("RGB")
