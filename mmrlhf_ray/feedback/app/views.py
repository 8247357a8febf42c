"""The view of an item that an annotator gets: never who wrote a response, nor what is known of the right answer."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.feedback.collect.queue import Leased
from mmrlhf_ray.feedback.collect.tables import Item, MediaFile


def leased_json(
    session: Session, leased: Leased, suggestion: Mapping[str, Any] | None, config: FeedbackConfig
) -> dict[str, Any]:
    """An item as the HTTP API sends it; `media` are in the order of the media parts in `messages`,
    `turns` those of each response that is an episode. `config` is that of the item's project."""
    item = leased.item
    return {
        "item_id": item.id,
        "project": item.project,
        "prompt_id": item.prompt_id,
        "question": item.question,
        "messages": item.messages,
        "media": media_json(session, item.media_ids),
        "responses": list(leased.texts),
        "turns": [item.responses[index].get("turns", []) for index in leased.order_shown],
        "order_shown": list(leased.order_shown),
        "aspects": [{"name": aspect.name, "description": aspect.description} for aspect in config.aspects],
        "suggestion": suggestion,
        "lease_expires": leased.expires.isoformat(),
    }


def episode_media(session: Session, item: Item) -> dict[str, dict[str, str]]:
    """media_id → kind, type and address of what the item's episodes show."""
    ids = [i for response in item.responses for turn in response.get("turns", ()) for i in turn["media_ids"]]
    return {medium["media_id"]: medium for medium in media_json(session, list(dict.fromkeys(ids)))}


def media_json(session: Session, media_ids: list[str]) -> list[dict[str, str]]:
    """Kind, type and address of media."""
    if not media_ids:
        return []
    rows = session.scalars(select(MediaFile).where(MediaFile.media_id.in_(media_ids)))
    found = {row.media_id: row for row in rows}
    return [{"media_id": i, "kind": found[i].kind, "mime": found[i].mime, "url": f"/media/{i}"} for i in media_ids]
