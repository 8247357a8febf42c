"""Messages as the pages show them: what was said, with media in their places."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmrlhf_ray.feedback.app.language import Words
from mmrlhf_ray.feedback.errors import N_

_SPEAKERS = {"system": N_("Instructions"), "user": N_("Question"), "assistant": N_("Earlier answer")}
_IN_EPISODE = {"response": N_("The model"), "observation": N_("It was shown")}
_NAMES = {
    "image": N_("Image %(number)s of %(total)s"),
    "audio": N_("Sound %(number)s of %(total)s"),
    "video": N_("Clip %(number)s of %(total)s"),
}


@dataclass(frozen=True)
class Medium:
    """An image, a sound or a clip."""

    kind: str
    url: str
    label: str
    """Its name for those who do not see it, e.g. "Image 2 of 3"."""


@dataclass(frozen=True)
class Block:
    """Either text or media that stand side by side."""

    text: str = ""
    media: tuple[Medium, ...] = ()


@dataclass(frozen=True)
class Turn:
    """One message."""

    speaker: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Shown:
    """A response."""

    text: str
    turns: tuple[Turn, ...] = ()
    """Of an episode; () of a response of one turn."""


def shown_responses(
    responses: Sequence[Mapping[str, Any]], media: Mapping[str, Mapping[str, str]], words: Words
) -> list[Shown]:
    """Responses as items have them; `media`: media_id → {"kind", "url"} of what episodes show."""
    return [Shown(response["text"], _episode(response.get("turns", ()), media, words)) for response in responses]


def _episode(
    episode: Sequence[Mapping[str, Any]], media: Mapping[str, Mapping[str, str]], words: Words
) -> tuple[Turn, ...]:
    messages = [
        {
            "role": turn["kind"],
            "content": [{"type": media[i]["kind"]} for i in turn["media_ids"]]
            + [{"type": "text", "text": turn["text"]}],
        }
        for turn in episode
    ]
    return tuple(turns(messages, [media[i] for turn in episode for i in turn["media_ids"]], words))


def turns(messages: Sequence[Mapping[str, Any]], media: Sequence[Mapping[str, str]], words: Words) -> list[Turn]:
    """The turns of `messages`, which are as in the PROMPT table; `media` have {"kind", "url"}, in the order of their
    parts."""
    totals = Counter(entry["kind"] for entry in media)
    seen: Counter[str] = Counter()
    named = []
    for entry in media:
        seen[entry["kind"]] += 1
        kind = entry["kind"]
        label = words.say(_NAMES[kind], number=seen[kind], total=totals[kind])
        named.append(Medium(entry["kind"], entry["url"], label))
    rest = iter(named)
    found = []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        blocks: list[Block] = []
        for part in parts:
            if part["type"] == "text":
                blocks.append(Block(text=part["text"]))
            elif blocks and blocks[-1].media:
                blocks[-1] = Block(media=(*blocks[-1].media, next(rest)))
            else:
                blocks.append(Block(media=(next(rest),)))
        found.append(
            Turn(
                words.say((_SPEAKERS | _IN_EPISODE)[message["role"]]),
                tuple(block for block in blocks if block.media or block.text.strip()),
            )
        )
    return found
