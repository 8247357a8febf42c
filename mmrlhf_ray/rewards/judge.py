"""A language model that grades responses, behind an OpenAI-compatible endpoint, and sees what they are about."""

import base64
import json
import re
from typing import Any

from mmrlhf_ray.config.rewards import JudgeReward
from mmrlhf_ray.data.media import MediaRow
from mmrlhf_ray.rewards.batch import RewardBatch, prompt_text
from mmrlhf_ray.rewards.http import Endpoint, RequestFailed, post_all
from mmrlhf_ray.rewards.scores import ComponentScores

_SHOWN_CHARACTERS = 100
_PLACE = re.compile(r"\{(prompt|response|columns)\}")
# "8/10" and "8 out of 10" are eight, not ten.
_GRADE = re.compile(r"(?<![\w.])(-?\d+(?:\.\d+)?)(?:\s*(?:/|out of)\s*\d+(?:\.\d+)?)?")


class JudgeScores:
    """Asks a judge for one grade per response, at temperature 0."""

    def __init__(self, reward: JudgeReward):
        self._reward = reward

    def start(self) -> None:
        """Raises ConfigError when the token is not in the environment."""
        self._endpoint()

    def score(self, batch: RewardBatch) -> ComponentScores:
        """Grades of all rows scaled to [0, 1], or why there are none, after `deadline_s` at most."""
        if self._reward.media and batch.media is None:
            return ComponentScores.missing(len(batch), "there are no media here to show it; leave out `media`")
        answers = post_all(self._endpoint(), [self._body(batch, row) for row in range(len(batch))])
        results = [self._graded(answer) for answer in answers]
        return ComponentScores(tuple(value for value, _ in results), tuple(problem for _, problem in results))

    def close(self) -> None:
        """Nothing stays open between calls."""

    def _endpoint(self) -> Endpoint:
        return Endpoint.of(self._reward, self._reward.base_url.rstrip("/") + "/chat/completions")

    def _body(self, batch: RewardBatch, row: int) -> dict[str, Any]:
        question = fill(self._reward.prompt, batch, row)
        clips = batch.media[row] if batch.media is not None else ()
        shown = [media_part(clip) for clip in clips if clip["kind"] in self._reward.media]
        content = [*shown, {"type": "text", "text": question}] if shown else question
        return {
            "model": self._reward.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": self._reward.max_tokens,
        }

    def _graded(self, answer: Any | RequestFailed) -> tuple[float | None, str | None]:
        if isinstance(answer, RequestFailed):
            return None, str(answer)
        try:
            choice = answer["choices"][0]
            text, finished = choice["message"]["content"], choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError):
            return None, "answered without choices[0].message.content"
        if finished == "length":
            return None, f"was cut off at max_tokens={self._reward.max_tokens}"
        grade = read_grade(text) if isinstance(text, str) else None
        if grade is None:
            return None, f"gave no grade on its last line: {_last_line(text)!r}"
        lowest, highest = self._reward.lowest, self._reward.highest
        if not lowest <= grade <= highest:
            return None, f"gave the grade {grade:g}, expected {lowest:g} … {highest:g}"
        return (grade - lowest) / (highest - lowest), None


def media_part(clip: MediaRow) -> dict[str, Any]:
    """A clip as chat completions take it: images and sounds as OpenAI's do, clips as vLLM's."""
    data = base64.b64encode(clip["data"]).decode("ascii")
    if clip["kind"] == "audio":
        return {"type": "input_audio", "input_audio": {"data": data, "format": clip["mime"].rpartition("/")[2]}}
    key = f"{clip['kind']}_url"
    return {"type": key, key: {"url": f"data:{clip['mime']};base64,{data}"}}


def fill(template: str, batch: RewardBatch, row: int) -> str:
    """The template with {prompt}, {response} and {columns} (JSON) of a row put in.

    In one pass, and not with str.format: braces inside prompt or response stay unchanged.
    """
    values = {
        "prompt": prompt_text(batch.prompts[row]),
        "response": batch.completions[row],
        "columns": json.dumps({name: column[row] for name, column in batch.columns.items()}, ensure_ascii=False),
    }
    return _PLACE.sub(lambda place: values[place[1]], template)


def read_grade(text: str) -> float | None:
    """The last number on the last line that is not empty; of `8/10` and `8 out of 10` the first."""
    found = _GRADE.findall(_last_line(text))
    return float(found[-1]) if found else None


def _last_line(text: Any) -> str:
    lines = [line for line in str(text).splitlines() if line.strip()]
    return lines[-1].strip()[-_SHOWN_CHARACTERS:] if lines else ""
