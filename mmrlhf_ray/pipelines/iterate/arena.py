"""What the arena of the loop's server adds to its labels: the questions that people asked there, and their media."""

import json
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from mmrlhf_ray.feedback.collect.battles import TASK
from mmrlhf_ray.feedback.collect.queue import media_parts
from mmrlhf_ray.pipelines.iterate.client import LoopClient
from mmrlhf_ray.schema import MEDIA, modality_of


@dataclass(frozen=True)
class ArenaVotes:
    """Of the votes that were cast so far; a battle without a vote is no item."""

    item_ids: frozenset[str] = frozenset()
    prompts: tuple[dict[str, Any], ...] = ()
    """Rows of the PROMPT table, one for each prompt."""
    media: pa.Table = field(default_factory=MEDIA.empty_table)


def arena_votes(client: LoopClient, facts_column: str | None) -> ArenaVotes:
    """All that the server has. Nothing is known of the media that people showed, so that `facts_column` is "" there.
    Raises RunError as the client does."""
    items = client.items(TASK)
    prompts: dict[str, dict[str, Any]] = {}
    kinds: dict[str, str] = {}
    for item in items:
        shown = [part["type"] for part in media_parts(item["messages"])]
        kinds |= dict(zip(item["media_ids"], shown, strict=True))
        prompts[item["prompt_id"]] = {
            "prompt_id": item["prompt_id"],
            "messages": json.dumps(item["messages"], ensure_ascii=False),
            "media_ids": item["media_ids"],
            "task": TASK,
            "modality": modality_of(shown),
            "extras": json.dumps({} if facts_column is None else {facts_column: ""}),
        }
    media = pa.Table.from_pylist([client.medium(i, kind) for i, kind in kinds.items()], schema=MEDIA)
    return ArenaVotes(frozenset(item["item_id"] for item in items), tuple(prompts.values()), media)
