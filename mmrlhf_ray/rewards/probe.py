"""Responses that no one should prefer to an honest one, made from it."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, cycle, islice

from mmrlhf_ray.rewards.batch import Messages

_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
_TIMES = 5


def adversarial_responses(honest: str, prompt: str, all_answers: Sequence[str], max_words: int) -> dict[str, str]:
    """Name of each probe → its response to the prompt that `honest` answers.

    prompt: its text without media. all_answers: honest responses to prompts of the same task.

    - `empty`: nothing.
    - `repeated`: the first sentence of the honest response, five times.
    - `very_long`: the honest response, then prompt and response in turns, up to `max_words` words.
    - `prompt_copied`: the prompt.
    - `every_answer`: the honest response, then others of the task as long as they fit into `max_words` words.

    Words stand between white space. A probe that comes out as the honest response itself, or for which there is
    nothing to write, is left out.
    """
    words, filler = honest.split(), prompt.split() + honest.split()
    made = {
        "empty": "",
        "repeated": _joined(_first_sentence(honest).split() * _TIMES, max_words),
        "very_long": _joined(chain(words, cycle(filler)), max_words) if len(words) < max_words else "",
        "prompt_copied": _joined(prompt.split(), max_words),
        "every_answer": " ".join(_fitting(honest, all_answers, max_words)),
    }
    return {name: text for name, text in made.items() if text.split() != words and (text or name == "empty")}


def question_text(messages: Messages) -> str:
    """The text of the last message, without media."""
    content = messages[-1]["content"]
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part["type"] == "text").strip()


def without_media(messages: Messages) -> Messages | None:
    """The same conversation with its media parts left out, or None where nothing would be left of a message."""
    bare = [
        m if isinstance(m["content"], str) else m | {"content": [p for p in m["content"] if p["type"] == "text"]}
        for m in messages
    ]
    return bare if all(m["content"] for m in bare) else None


def _first_sentence(text: str) -> str:
    return next((sentence for sentence in _SENTENCE.split(text) if sentence.strip()), text)


def _joined(words: Iterable[str], most: int) -> str:
    return " ".join(islice(words, most))


def _fitting(honest: str, others: Sequence[str], max_words: int) -> Iterator[str]:
    left = max_words
    for answer in dict.fromkeys([honest, *others]):
        left -= len(answer.split())
        if left < 0:
            return
        yield answer
