"""What the pictures of the feedback pages show of a team: projects, a group, and an arena with votes."""

import random
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.feedback.arena.asking import Answered
from mmrlhf_ray.feedback.collect import battles, projects
from mmrlhf_ray.feedback.collect.items import add_items
from mmrlhf_ray.feedback.collect.tables import COMMAND

ARENA: Mapping[str, Any] = {
    "models": [{"name": name, "base_url": "http://127.0.0.1:9/v1"} for name in ("SFT", "PPO", "GRPO")]
}
"""Three models, none of which is asked: the answers that are shown are told here."""
_STRENGTH = {"SFT": 0.0, "PPO": 0.8, "GRPO": 1.1}
_ANSWERS = {
    "SFT": "It is a **3**, I believe.",
    "PPO": "The picture shows the digit **3**: two open bows, one above the other.",
    "GRPO": "| seen | digit |\n|---|---|\n| two bows, open to the left | **3** |\n\nSo the answer is $3$.",
}
_BATTLES = 60


def add_projects(session: Session, people: list[str], now: datetime) -> None:
    """Two projects besides the first, and a group that works on one of them."""
    guide = {"en": "Rate how *polite* it is.\n\n| mark | means |\n|---|---|\n| 1 | rude |\n| 5 | kind |"}
    tone = {"title": "Tone of voice", "guidelines": guide, "kinds": ["rate"], "quota_day": 50, "priority": -1.0}
    night = {"title": "Night shift", "everyone": False, "kinds": ["pair"], "priority": -2.0, "overlap": 2}
    for name, settings in (("tone", tone), ("night", night)):
        projects.add_project(session, name, settings, COMMAND, now)
    projects.set_group(session, "nurses", people[:2], COMMAND, now)
    projects.set_role(session, "night", "@nurses", "annotator", COMMAND, now)
    projects.set_role(session, "tone", people[2], "reviewer", COMMAND, now)
    shared = {"prompt": "May I come in?", "task": "tone"}
    rows = [shared | {"question": "rate", "responses": [text]} for text in ("Please do.", "If you must.", "No.")]
    add_items(session, rows, FeedbackConfig(), now, "tone")
    add_items(
        session, [shared | {"question": "pair", "responses": ["Please do.", "No."]}], FeedbackConfig(), now, "night"
    )


def add_battles(session: Session, person: str, image: str, config: FeedbackConfig, now: datetime) -> str:
    """Votes of one person in the arena, by how good the models are; returns a battle without a vote yet."""
    rng = random.Random(0)
    for number in range(_BATTLES):
        then = now - timedelta(minutes=_BATTLES - number)
        battle = _battle(session, person, image, config, then, rng)
        left, right = (_STRENGTH[battle.responses[index]["source"]] for index in battle.order_shown)
        choice = (
            "tie" if rng.random() < 0.1 else "left" if left + rng.gauss(0, 1) > right + rng.gauss(0, 1) else "right"
        )
        battles.vote(session, person, battle.id, {"choice": choice}, 5000, config, then)
    return _battle(session, person, image, config, now, rng).id


def _battle(
    session: Session, person: str, image: str, config: FeedbackConfig, now: datetime, rng: random.Random
) -> battles.ArenaBattle:
    asked = battles.Asked("Which digit is this?", (image,), ("image",))
    answers = [Answered(name, _ANSWERS[name]) for name in rng.sample(sorted(_ANSWERS), 2)]
    battle = battles.open_battle(session, person, asked, answers, config, now, rng)
    session.flush()
    return battle
