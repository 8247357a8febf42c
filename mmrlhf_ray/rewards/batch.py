"""Input of reward functions: one row per response, as text."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from mmrlhf_ray.data.batches.ragged import Ragged
from mmrlhf_ray.data.media import MediaRow

Messages = list[dict[str, Any]]
"""A prompt's chat messages, as parsed from the column `messages`."""

OWN_COLUMNS = ("prompt_id", "task", "modality", "finish_reason", "response_tokens", "turns")
"""Columns that every row has; extras of the same names are left out."""
_COUNTED = ("response_tokens", "turns")


@dataclass(frozen=True)
class Rows:
    """The facts about a step's responses that a mixture needs. All fields have one entry per row."""

    sample_ids: tuple[str, ...]
    tasks: tuple[str, ...]
    modalities: tuple[str, ...]
    groups: tuple[int, ...] = ()
    """Of responses to the same prompt; empty where none are compared."""

    @classmethod
    def of(cls, rollouts: pa.Table) -> "Rows":
        """Of a ROLLOUT or EXPERIENCE table."""
        return cls(*(tuple(rollouts.column(n).to_pylist()) for n in ("sample_id", "task", "modality", "group_id")))


@dataclass(frozen=True)
class RewardBatch:
    """Responses with their prompts. All fields have one entry per row."""

    sample_ids: tuple[str, ...]
    prompts: tuple[Messages, ...]
    completions: tuple[str, ...]
    """Without control tokens."""
    tasks: tuple[str, ...]
    modalities: tuple[str, ...]
    columns: Mapping[str, list[Any]]
    """OWN_COLUMNS and the keys of the prompts' `extras`; None where a row lacks the key."""
    media: tuple[tuple[MediaRow, ...], ...] | None = None
    """What prompt and turns show, in order; None where no component asked for it."""
    groups: tuple[int, ...] = ()
    """Of responses to the same prompt; empty where none are compared."""

    def __len__(self) -> int:
        return len(self.sample_ids)

    @property
    def rows(self) -> Rows:
        """As a mixture sees them."""
        return Rows(self.sample_ids, self.tasks, self.modalities)

    def select(self, rows: Sequence[int]) -> "RewardBatch":
        """The given rows, in the given order."""
        return RewardBatch(
            sample_ids=tuple(self.sample_ids[i] for i in rows),
            prompts=tuple(self.prompts[i] for i in rows),
            completions=tuple(self.completions[i] for i in rows),
            tasks=tuple(self.tasks[i] for i in rows),
            modalities=tuple(self.modalities[i] for i in rows),
            columns={name: [values[i] for i in rows] for name, values in self.columns.items()},
            media=None if self.media is None else tuple(self.media[i] for i in rows),
            groups=tuple(self.groups[i] for i in rows) if self.groups else (),
        )


class PromptLookup:
    """A PROMPT table to look prompts up in. Kept as text: only the prompts of a step are parsed."""

    def __init__(self, table: pa.Table, columns: frozenset[str] = frozenset()):
        """`columns`: keys of extras that batches have even where no prompt of the table does."""
        self._messages = table.column("messages")
        self._extras = table.column("extras")
        self._row = {prompt_id: i for i, prompt_id in enumerate(table.column("prompt_id").to_pylist())}
        self.extras_columns: frozenset[str] = extras_columns(table) | columns

    def batch(
        self, rollouts: pa.Table, completions: Sequence[str], media: Mapping[str, MediaRow] | None = None
    ) -> RewardBatch:
        """The rows of a ROLLOUT table, whose responses read `completions`. `media`: by id, of all that they show.

        Raises ValueError where a row's prompt_id is not in the PROMPT table.
        """
        own = {name: rollouts.column(name).to_pylist() for name in OWN_COLUMNS if name not in _COUNTED}
        sampled = Ragged.of_column(rollouts.column("response_mask")).sums()
        own["response_tokens"] = sampled.astype(int).tolist()
        own["turns"] = [_turns(segments) for segments in rollouts.column("segments").to_pylist()]
        batch = self._batch(rollouts.column("sample_id").to_pylist(), completions, own)
        batch = replace(batch, groups=tuple(rollouts.column("group_id").to_pylist()))
        if media is None:
            return batch
        shown = rollouts.column("media_ids").to_pylist()
        return replace(batch, media=tuple(tuple(media[name] for name in names) for names in shown))

    def batch_of_texts(self, responses: pa.Table) -> RewardBatch:
        """The rows of a RESPONSE table; samples are named `<prompt_id>#<row>`. Raises ValueError as batch()."""
        own = {name: responses.column(name).to_pylist() for name in OWN_COLUMNS}
        own["turns"] = [_turns(json.loads(turns or "[]")) for turns in own["turns"]]
        samples = [f"{prompt_id}#{row}" for row, prompt_id in enumerate(own["prompt_id"])]
        return self._batch(samples, responses.column("text").to_pylist(), own)

    def _batch(self, sample_ids: Sequence[str], completions: Sequence[str], own: dict[str, list[Any]]) -> RewardBatch:
        unknown = sorted(set(own["prompt_id"]) - self._row.keys())
        if unknown:
            raise ValueError(f"prompt_id expects one of the {len(self._row)} prompts, got {unknown[:5]}")
        places = [self._row[prompt_id] for prompt_id in own["prompt_id"]]
        extras = [json.loads(self._extras[i].as_py()) for i in places]
        return RewardBatch(
            sample_ids=tuple(sample_ids),
            prompts=tuple(json.loads(self._messages[i].as_py()) for i in places),
            completions=tuple(completions),
            tasks=tuple(own["task"]),
            modalities=tuple(own["modality"]),
            columns={name: [e.get(name) for e in extras] for name in sorted(self.extras_columns)} | own,
        )


def _turns(segments: Sequence[Mapping[str, Any]]) -> int:
    """Of the policy; a response that is one turn has no segments."""
    return max(1, sum(segment["kind"] == "response" for segment in segments))


def extras_columns(prompts: pa.Table) -> frozenset[str]:
    """Keys that occur in the `extras` of a PROMPT, DEMONSTRATION, … table."""
    return frozenset().union(*(json.loads(text) for text in prompts.column("extras").to_pylist()))


def prompt_text(messages: Messages) -> str:
    """A prompt as text: media as <image>, <audio>, <video>; several messages one after another with their roles."""
    texts = [_content_text(message["content"]) for message in messages]
    if len(texts) == 1:
        return texts[0]
    return "\n\n".join(f"{message['role']}: {text}" for message, text in zip(messages, texts, strict=True))


def _content_text(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return " ".join(part["text"] if part["type"] == "text" else f"<{part['type']}>" for part in content)
