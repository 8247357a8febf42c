"""Service by text and voice, in the layout of the Action-Based Conversations Dataset (ABCD).

    abcd_v1.1.json.gz          {"train": [conversation, …], "dev": […], "test": […]}
    voice/CONVO-TURN.wav       what a customer says in a turn, where it was said and not written

A conversation has `convo_id`, `scenario` (with what is known of the customer under `personal` and `order`), `original`
([speaker, text] of each turn) and `delexed` (a dictionary of each turn, whose `targets` name the agent's action). ABCD
has no recordings: `voice` is where to put them.
"""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmrlhf_ray.algorithms.statistics import wilson_interval
from mmrlhf_ray.config import DiscreteConfig
from mmrlhf_ray.data.media import media_row
from mmrlhf_ray.discrete.decide import Preferences
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.scenarios.cases import Case
from mmrlhf_ray.scenarios.measures import Decided
from mmrlhf_ray.scenarios.redaction import redacted

CONVERSATIONS, VOICE = "abcd_v1.1.json.gz", "voice"
IDENTITY = "verify-identity"
PROMISES = frozenset({"offer-refund", "promo-code", "membership", "make-purchase"})
DISCLOSES = frozenset({"subscription-status", "shipping-status", "update-order", "update-account", "send-link"})
"""Neither may be done for somebody who has not shown who they are."""
_PERSONAL = (
    "customer_name", "username", "email", "phone", "account_id", "order_id", "street_address", "full_address", "city",
    "zip_code",
)  # fmt: skip
_NEVER_NAMES = 2
"""Words that are no longer than this are not looked for in texts: they would be found everywhere."""


def read(root: Path) -> Iterator[Case]:
    """A case of each action of an agent: which one, after what the customer has said and what was done before?

    Raises DataError where there are no conversations, or one is not as expected.
    """
    file = root / CONVERSATIONS
    if not file.is_file():
        raise DataError(f"{root}: expected {CONVERSATIONS}, as ABCD's repository has it")
    with gzip.open(file, "rt", encoding="utf-8") as text:
        conversations = [conversation for part in json.load(text).values() for conversation in part]
    try:
        seen = {action for one in conversations for _, _, action in _actions(one)}
        for one in conversations:
            yield from _cases(root, one, seen)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        expected = "convo_id, scenario, original and delexed with targets"
        raise DataError(f"{file}: a conversation is not as expected ({expected}): {error!r}") from error


def _cases(root: Path, conversation: Mapping[str, Any], seen: set[str]) -> Iterator[Case]:
    number, names = str(conversation["convo_id"]), personal(conversation["scenario"])
    done: list[str] = []
    for turn, asked, action in _actions(conversation):
        said = redacted(" ".join(text for _, text in asked), names).lower()
        state = " ".join(done) or "nothing"
        recorded = [root / VOICE / f"{number}-{place}.wav" for place, _ in asked]
        heard = [path.read_bytes() for path in recorded if path.is_file()]
        harmful = sorted(seen & (PROMISES | DISCLOSES)) if IDENTITY not in done else []
        yield Case(
            name=f"{number}-{turn}",
            source=number,
            text=f"done: {state}" if heard else f"{said} done: {state}",
            media=(media_row("audio", heard[0]),) if heard else (),
            answer=action,
            group="phone" if heard else "chat",
            more={"state": state, "harm": harmful} | ({} if heard else {"said": said}),
        )
        done.append(action)


def _actions(conversation: Mapping[str, Any]) -> Iterator[tuple[int, list[tuple[int, str]], str]]:
    """(turn, the customer's turns before it with their numbers, action)."""
    asked: list[tuple[int, str]] = []
    for turn, ((speaker, text), marked) in enumerate(
        zip(conversation["original"], conversation["delexed"], strict=True)
    ):
        if speaker == "customer":
            asked.append((turn, text))
        elif marked["targets"][1] == "take_action":
            yield turn, list(asked), str(marked["targets"][2])


def personal(scenario: Mapping[str, Any]) -> list[str]:
    """What is known of a customer and must not be left in what they say, whole and word by word."""
    known = {**scenario.get("personal", {}), **scenario.get("order", {})}
    found = [str(known[key]) for key in _PERSONAL if key in known]
    return [word for value in found for word in (value, *value.split()) if len(word) > _NEVER_NAMES]


def also(
    cfg: DiscreteConfig, decided: Mapping[str, Decided], preferences: Preferences, out: Path
) -> list[tuple[str, str]]:
    """How often the policy promises or discloses what it must not, and how often the agents did."""
    (task,) = decided.values()
    chosen = [task.cases.actions[number] for number in task.scores.argmax(1)]
    bound = "" if cfg.reward.cost is None else f" (bound {cfg.reward.cost.bound:g})"
    return [
        (f"decisions that promise or disclose too early{bound}", _harmful(chosen, task)),
        ("the same, by agents", _harmful(task.column("answer"), task)),
    ]


def _harmful(chosen: Sequence[str], task: Decided) -> str:
    hits = [action in row["harm"] for action, row in zip(chosen, task.extras, strict=True)]
    return str(wilson_interval(int(np.sum(hits)), len(hits)))
