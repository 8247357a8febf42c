"""The stand-in of service: made-up conversations in ABCD's layout, half of them spoken in a language of tones.

A word is two sines for 80 ms, at frequencies that follow from its letters. It is a code and not speech, but what can be
said in it has to be heard: there is no text next to it.
"""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from mmrlhf_ray.data.media import to_wav
from mmrlhf_ray.scenarios.redaction import redacted
from mmrlhf_ray.scenarios.service import CONVERSATIONS, IDENTITY, VOICE, personal

CLASSES = (
    IDENTITY, "offer-refund", "promo-code", "update-order", "subscription-status", "search-faq", "log-out-in",
)  # fmt: skip
ASKED = {
    "offer-refund": ("i want my money back", "this {thing} is torn please refund it", "refund the {thing} i sent back"),
    "promo-code": ("my code does not work", "i was promised a discount on a {thing}", "give me a discount code"),
    "update-order": ("send my order to another address", "please change the {thing} to large", "cancel my order"),
    "subscription-status": ("is my subscription paid", "when does my membership end", "what do i still owe"),
    "search-faq": ("how do i wash a {thing}", "which {thing} is warm", "are your shops open on sunday"),
    "log-out-in": ("your website is slow", "the page with the {thing} does not load", "i cannot see my cart"),
}
"""What customers ask for, by the action that helps."""
_FREE = {"search-faq", "log-out-in"}
"""Nobody need say who they are for these."""
_HASTY = 0.2
"""Share of agents who act before they know whom they speak with."""
_THINGS = ("jacket", "shirt", "boots", "jeans")
_FIRST, _LAST = ("Ada", "Bo", "Chen", "Dara", "Emil"), ("Okafor", "Lindqvist", "Moreau", "Sato", "Vega")
_RATE, _WORD_S, _NOISE, _CALLS = 8000, 0.08, 0.3, 1500


def make(root: Path, seed: int, calls: int = _CALLS) -> None:
    """Customers ask, half of them by telephone, and say who they are, often with a card's number that no one asked for;
    a fifth of the agents act before they verified who it is."""
    (root / VOICE).mkdir(parents=True)
    conversations = [_conversation(root, number, np.random.default_rng([seed, number])) for number in range(calls)]
    with gzip.open(root / CONVERSATIONS, "wt", encoding="utf-8") as file:
        json.dump({"train": conversations, "dev": [], "test": []}, file)


def _conversation(root: Path, number: int, rng: np.random.Generator) -> dict[str, Any]:
    wanted = str(rng.choice(list(ASKED)))
    name = f"{rng.choice(_FIRST)} {rng.choice(_LAST)}"
    phone = " ".join(f"{part:03d}" for part in rng.integers(100, 999, 3))
    order = f"{rng.integers(10**9, 10**10)}"
    scenario = {
        "personal": {"customer_name": name, "phone": phone, "email": f"{name.split()[0].lower()}@post.example"},
        "order": {"order_id": order},
        "subflow": wanted,
    }
    says = str(rng.choice(ASKED[wanted])).format(thing=rng.choice(_THINGS))
    details = f"i am {name} , card 4539 1488 0343 6467 , phone {phone} , order {order}"
    hasty = wanted not in _FREE and rng.random() < _HASTY
    turns = [("customer", f"{says} , {details}" if rng.random() < 0.5 else says, "")]
    if wanted not in _FREE and not hasty:
        turns += [("action", "identity was verified", IDENTITY), ("customer", details, "")]
    turns.append(("action", "it was done", wanted))
    if rng.random() < 0.5:
        known = personal(scenario)
        for place in (place for place, (speaker, _, _) in enumerate(turns) if speaker == "customer"):
            sound = spoken(redacted(says, known), rng)
            (root / VOICE / f"{number}-{place}.wav").write_bytes(to_wav(sound, _RATE))
    return {
        "convo_id": number,
        "scenario": scenario,
        "original": [[speaker, text] for speaker, text, _ in turns],
        "delexed": [{"speaker": speaker, "targets": _targets(wanted, action)} for speaker, _, action in turns],
    }


def _targets(wanted: str, action: str) -> list[object]:
    """Of a turn: what it is about, what comes next, the action and its values, and the number of an utterance."""
    return [wanted, "take_action" if action else None, action or None, [], -1]


def spoken(text: str, rng: np.random.Generator) -> np.ndarray:
    """[n] in [-1, 1] at 8 kHz: the words as tones, faster or slower, over the noise of a line."""
    words = text.split()
    length = int(_WORD_S * rng.uniform(0.9, 1.1) * _RATE)
    time = np.arange(length) / _RATE
    parts = []
    for word in words:
        low, high = zlib.crc32(word.encode()) % 8, zlib.crc32(word.encode()) // 8 % 8
        tone = np.sin(2 * np.pi * (300 + 140 * low) * time) + np.sin(2 * np.pi * (1600 + 220 * high) * time)
        parts.append(tone * np.hanning(length))
    sound = 0.3 * np.concatenate(parts)
    return np.clip(sound + rng.normal(0.0, 0.3 * _NOISE, sound.size), -1.0, 1.0)
