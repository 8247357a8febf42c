"""`data.video.sound`: a clip's sound track as an audio of its own, behind the clip.

    messages, parts = conversation(raw)
    shown = source.attach(raw, parts)
    messages, shown, made = with_sound_tracks(messages, shown, source.get, config.data)
    record = build_record(raw, schema, messages, shown, facts_column)

`made` are new MEDIA rows, which belong to the record's media from then on.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.media import MediaRow, media_row
from mmrlhf_ray.data.media.decode_pool import DecodeSettings, decode_pool
from mmrlhf_ray.data.validate import Shown


def with_sound_tracks(
    messages: Sequence[Mapping[str, Any]],
    shown: Sequence[Shown],
    get: Callable[[str], MediaRow],
    data: DataConfig,
) -> tuple[list[dict[str, Any]], list[Shown], list[MediaRow]]:
    """(messages with an audio part behind each clip that has sound, what they show now, the sounds).

    `get` finds the MEDIA row of a clip. Sounds are WAV files, mono, at the track's own rate; a clip without a track
    stays alone, and one that its sound follows already, as in records written before, gets no second. Returns what it
    was given unless `data.video.sound`. Raises RowError for a track that is damaged.
    """
    if not data.video.sound or all(media.kind != "video" for media in shown):
        return [dict(message) for message in messages], list(shown), []
    sounds = {media.media_id: _sound(media, get, data) for media in shown if media.kind == "video"}
    upcoming = deque(shown)
    now: list[Shown] = []
    heard = [_message(message, upcoming, sounds, now) for message in messages]
    return heard, now, [row for row in sounds.values() if row is not None]


def _sound(media: Shown, get: Callable[[str], MediaRow], data: DataConfig) -> MediaRow | None:
    try:
        wav = decode_pool(DecodeSettings.of(data)).sound_track(get(media.media_id)["data"])
    except ValueError as error:
        raise RowError(f"sound track of video {media.name}: {error}", "replace the file") from error
    return None if wav is None else media_row("audio", wav)


def _message(
    message: Mapping[str, Any], upcoming: deque[Shown], sounds: Mapping[str, MediaRow | None], now: list[Shown]
) -> dict[str, Any]:
    if isinstance(message["content"], str):
        return dict(message)
    parts = []
    for part in message["content"]:
        parts.append(part)
        if part["type"] == "text":
            continue
        media = upcoming.popleft()
        now.append(media)
        sound = sounds.get(media.media_id)
        follows = upcoming[0].media_id if upcoming else ""
        if sound is not None and follows != sound["media_id"]:
            parts.append({"type": "audio"})
            now.append(Shown("audio", sound["media_id"], f"sound track of {media.name}"))
    return {**message, "content": parts}
