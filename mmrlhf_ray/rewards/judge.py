"""A language model that judges responses, behind an OpenAI-compatible endpoint, and sees what they are about."""

import base64
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from mmrlhf_ray.config.rewards import JudgeReward
from mmrlhf_ray.data.media import MediaRow
from mmrlhf_ray.rewards.batch import RewardBatch, prompt_text
from mmrlhf_ray.rewards.http import Endpoint, RequestFailed, post_all
from mmrlhf_ray.rewards.judge_answers import Said, read_answer
from mmrlhf_ray.rewards.judge_pairs import comparisons, win_rates
from mmrlhf_ray.rewards.scores import ComponentScores

_PLACE = re.compile(r"\{(prompt|response|first|second|aspects|columns)\}")
_CANDIDATES = 20
"""Of the first token, whose probabilities are asked for; the most that OpenAI gives."""

_Body = dict[str, Any]


class JudgeScores:
    """Asks a judge for a grade of each response, or which of two is the better one."""

    def __init__(self, reward: JudgeReward):
        self._reward = reward
        self._known: OrderedDict[str, float] = OrderedDict()
        """Hash of a request → what was answered; the longest unused first."""

    def start(self) -> None:
        """Raises ConfigError when the token is not in the environment."""
        self._endpoint()

    def score(self, batch: RewardBatch) -> ComponentScores:
        """Scores of all rows in [0, 1], or why there are none, after `deadline_s` at most."""
        if self._reward.media and batch.media is None:
            return ComponentScores.missing(len(batch), "there are no media here to show it; leave out `media`")
        if self._reward.pairs is not None:
            return self._compared(batch)
        clips = _Clips(self._reward.media)
        said = self._ask([self._body(batch, clips, {"response": row}) for row in range(len(batch))])
        return ComponentScores(tuple(value for value, _ in said), tuple(problem for _, problem in said))

    def close(self) -> None:
        """Nothing stays open between calls."""

    def _compared(self, batch: RewardBatch) -> ComponentScores:
        pairs = self._reward.pairs
        assert pairs is not None
        if not batch.groups:
            return ComponentScores.missing(len(batch), "there are no groups here to compare; leave out `pairs`")
        # A group may hold a prompt whose media were swapped, which is another prompt.
        groups = list(zip(batch.groups, batch.columns["prompt_id"], strict=True))
        orders = [order for a, b in comparisons(groups, pairs.opponents) for order in ((a, b), (b, a))]
        clips = _Clips(self._reward.media)
        bodies = [self._body(batch, clips, {"first": first, "second": second}) for first, second in orders]
        return win_rates(len(batch), dict(zip(orders, self._ask(bodies), strict=True)))

    def _ask(self, bodies: Sequence[_Body]) -> list[Said]:
        """What is answered to each question, aggregated over its samples."""
        asked = [body for own in bodies for body in self._samples(own)]
        keys = [_key(self._reward.base_url, body) for body in asked]
        missing = {key: body for key, body in zip(keys, asked, strict=True) if key not in self._known}
        answers = post_all(self._endpoint(), list(missing.values()))
        said: dict[str, Said] = {key: self._read(answer) for key, answer in zip(missing, answers, strict=True)}
        said |= {key: (self._known[key], None) for key in keys if key in self._known}
        self._remember(keys, said)
        step = self._reward.samples
        return [self._aggregate([said[key] for key in keys[at : at + step]]) for at in range(0, len(keys), step)]

    def _samples(self, body: _Body) -> Iterator[_Body]:
        if self._reward.samples == 1:
            yield body
        else:
            yield from (body | {"seed": number} for number in range(self._reward.samples))

    def _remember(self, keys: Sequence[str], said: Mapping[str, Said]) -> None:
        for key in keys:
            value, _ = said[key]
            if value is not None:
                self._known[key] = value
                self._known.move_to_end(key)
        while len(self._known) > self._reward.cached_answers:
            self._known.popitem(last=False)

    def _aggregate(self, said: Sequence[Said]) -> Said:
        values = [value for value, _ in said if value is not None]
        problems = [problem for _, problem in said if problem is not None]
        if len(values) >= (self._reward.samples_needed or self._reward.samples):
            return (median if self._reward.aggregate == "median" else fmean)(values), None
        if self._reward.samples == 1:
            return None, problems[0]
        return None, f"{len(problems)} of {len(said)} samples have no answer; the first: {problems[0]}"

    def _read(self, answer: Any | RequestFailed) -> Said:
        if isinstance(answer, RequestFailed):
            return None, str(answer)
        return read_answer(answer, self._reward)

    def _endpoint(self) -> Endpoint:
        return Endpoint.of(self._reward, self._reward.base_url.rstrip("/") + "/chat/completions")

    def _body(self, batch: RewardBatch, clips: "_Clips", responses: Mapping[str, int]) -> _Body:
        """`responses`: place in the judge's prompt → row whose response stands there; all answer one prompt."""
        reward, row = self._reward, next(iter(responses.values()))
        texts = {place: batch.completions[own] for place, own in responses.items()}
        question = fill(reward.prompt, batch, row, texts | {"aspects": rubric(reward)})
        shown = clips.of([batch.media[own] for own in responses.values()]) if batch.media is not None else []
        content = [*shown, {"type": "text", "text": question}] if shown else question
        body = {
            "model": reward.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": reward.temperature,
            "max_tokens": 1 if reward.by_probability else reward.max_tokens,
        }
        return body | ({"logprobs": True, "top_logprobs": _CANDIDATES} if reward.by_probability else {})


class _Clips:
    """What the judge is shown of a batch; each clip is encoded once, however many questions show it."""

    def __init__(self, kinds: Sequence[str]):
        self._kinds = kinds
        self._parts: dict[str, dict[str, Any]] = {}

    def of(self, rows: Sequence[Sequence[MediaRow]]) -> list[dict[str, Any]]:
        """Of all these rows, in order; what the first one shows is not shown again for the others."""
        seen = {clip["media_id"] for clip in rows[0]}
        later = [clip for row in rows[1:] for clip in row if clip["media_id"] not in seen]
        wanted = [clip for clip in (*rows[0], *later) if clip["kind"] in self._kinds]
        for clip in wanted:
            if clip["media_id"] not in self._parts:
                self._parts[clip["media_id"]] = media_part(clip)
        return [self._parts[clip["media_id"]] for clip in wanted]


def _key(address: str, body: _Body) -> str:
    """Hash of all that decides an answer."""
    return hashlib.sha256(json.dumps([address, body], sort_keys=True).encode()).hexdigest()


def media_part(clip: MediaRow) -> dict[str, Any]:
    """A clip as chat completions take it: images and sounds as OpenAI's do, clips as vLLM's."""
    data = base64.b64encode(clip["data"]).decode("ascii")
    if clip["kind"] == "audio":
        return {"type": "input_audio", "input_audio": {"data": data, "format": clip["mime"].rpartition("/")[2]}}
    key = f"{clip['kind']}_url"
    return {"type": key, key: {"url": f"data:{clip['mime']};base64,{data}"}}


def rubric(reward: JudgeReward) -> str:
    """The aspects for {aspects}, a line each."""
    return "\n".join(f"- {name}: {aspect.description}" for name, aspect in reward.aspects.items())


def fill(template: str, batch: RewardBatch, row: int, texts: Mapping[str, str]) -> str:
    """The template with {prompt} and {columns} (JSON) of a row and all of `texts` put in; other places stay.

    In one pass, and not with str.format: braces inside prompt or response stay unchanged.
    """
    values = {
        "prompt": prompt_text(batch.prompts[row]),
        "columns": json.dumps({name: column[row] for name, column in batch.columns.items()}, ensure_ascii=False),
        **texts,
    }
    return _PLACE.sub(lambda place: values.get(place[1], place[0]), template)
