"""Omni-Digits questions for people: what `mmrlhf feedback serve --demo` opens with. No model is needed."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import select

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.demo.clips import DIRECTIONS, clip_webm
from mmrlhf_ray.demo.digits import digit_png, digits_of
from mmrlhf_ray.demo.tasks import TASKS, Case, Item, draw_case, respond
from mmrlhf_ray.demo.tones import tone_wav
from mmrlhf_ray.feedback.collect.accounts import add_annotator, new_token
from mmrlhf_ray.feedback.collect.database import Database
from mmrlhf_ray.feedback.collect.items import add_items
from mmrlhf_ray.feedback.collect.media_files import store_media
from mmrlhf_ray.feedback.collect.tables import COMMAND, Annotator
from mmrlhf_ray.feedback.questions import question_of

DEMO_ACCOUNT = "demo"
ROUNDS = 5
"""Items of each kind of question."""
GOLD_ITEMS = 3
NOISE = 0.3

Media = Mapping[str, tuple[str, bytes]]
"""media_id → (kind, encoded bytes)."""

# Kind of question → which responses are asked about; see _responses.
_ASKED: Mapping[str, Sequence[str]] = {
    "pair": ("right", "hallucinated"),
    "rate": ("wrong", "right"),
    "rank": ("terse", "right", "wrong", "hallucinated"),
    "correct": ("hallucinated",),
    "spans": ("wrong",),
    "demonstrate": (),
    "critique": ("hallucinated",),
    "live": (),
}


_PLAYED = [task for task in TASKS if any(kind in question_of("live").shows for _, kind in task.slots)]


def demo_items(seed: int) -> tuple[list[dict[str, Any]], Media]:
    """(rows for feedback.items.add_items, the media they show): ROUNDS of every kind of question, and some gold pairs.

    Over the rounds every kind is asked about text, image, sound and clip. The same seed gives the same items.
    """
    rng = np.random.default_rng(seed)
    media: dict[str, tuple[str, bytes]] = {}
    pools = _pools(rng, media)
    kinds = list(_ASKED)
    rows = []
    for number in range(ROUNDS * len(kinds)):
        turn, place = divmod(number, len(kinds))
        tasks = _PLAYED if kinds[place] == "live" else TASKS
        task = tasks[(place + turn + 5) % len(tasks)]  # begins with an image and a tone side by side
        case = draw_case(task, pools, str(rng.choice(task.options)), rng)
        rows.append(_row(case, f"demo-{seed}-{number:02d}", kinds[place], rng))
    for number in range(GOLD_ITEMS):
        task = TASKS[1 + number]
        case = draw_case(task, pools, str(rng.choice(task.options)), rng)
        row = _row(case, f"demo-{seed}-gold-{number}", "pair", rng)
        rows.append(row | {"gold": {"choice": "left"}})
    used = {media_id for row in rows for media_id in row["media_ids"]}
    return rows, {media_id: found for media_id, found in media.items() if media_id in used}


def add_demo_items(database: Database, config: FeedbackConfig, seed: int = 0) -> str:
    """Put the items of demo_items() into the queue, if they are not there; returns a token of the demo's account.

    The account is an administrator, so that every page can be seen. Its token is a new one each time, as only the hash
    of the old one is known.
    """
    rows, media = demo_items(seed)
    now = datetime.now(UTC)
    with database.write() as session:
        for media_id, (kind, data) in media.items():
            store_media(session, config, media_id, data, kind)
        add_items(session, rows, config, now)
        known = session.scalar(select(Annotator.id).where(Annotator.name == DEMO_ACCOUNT, Annotator.active))
        if known is not None:
            return new_token(session, known, COMMAND, now)
        return add_annotator(session, DEMO_ACCOUNT, "admin", COMMAND, now)[1]


def _pools(rng: np.random.Generator, media: dict[str, tuple[str, bytes]]) -> dict[str, Sequence[Item]]:
    """Kind → things to ask about; their bytes go into `media`."""

    def add(kind: str, data: bytes, digit: int, direction: str = "") -> Item:
        media_id = hashlib.sha256(data).hexdigest()
        media[media_id] = (kind, data)
        return Item(digit, media_id, direction)

    digits = [digits_of("heldout")[int(i)] for i in rng.choice(len(digits_of("heldout")), size=60, replace=False)]
    return {
        "image": [add("image", digit_png(digit.source), digit.value) for digit in digits],
        "audio": [add("audio", tone_wav(i % 10, rng, NOISE), i % 10) for i in range(20)],
        "video": [
            add("video", clip_webm(digits[i].source, DIRECTIONS[i % 4]), digits[i].value, DIRECTIONS[i % 4])
            for i in range(12)
        ],
        "text": [Item(digit) for digit in range(10)],
    }


def _row(case: Case, prompt_id: str, question: str, rng: np.random.Generator) -> dict[str, Any]:
    content: list[dict[str, str]] = [{"type": kind} for _, kind in case.task.slots if kind != "text"]
    content.append({"type": "text", "text": case.question})
    responses = _responses(case, rng)
    return {
        "prompt_id": prompt_id,
        "messages": [{"role": "user", "content": content}],
        "media_ids": [item.media_id for item in case.items if item.media_id],
        "task": case.task.name,
        "extras": {"answer": case.answer, "evidence": case.evidence, "facts": case.facts},
        "question": question,
        "responses": [{"text": responses[style], "source": style} for style in _ASKED[question]],
    }


def _responses(case: Case, rng: np.random.Generator) -> dict[str, str]:
    """Style → response: right with its evidence, right alone, right with false evidence, and a wrong answer."""
    false = dict(case.evidence)
    slot = str(rng.choice(list(false)))
    false[slot] = str((int(false[slot]) + rng.integers(1, 10)) % 10)
    wrong = str(rng.choice([option for option in case.task.options if option != case.answer]))
    return {
        "right": respond(case.answer, case.evidence),
        "terse": respond(case.answer, {}),
        "hallucinated": respond(case.answer, false),
        "wrong": respond(wrong, case.evidence),
    }
