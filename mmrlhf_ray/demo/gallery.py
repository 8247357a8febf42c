"""The report's gallery: which held-out prompts are shown, and their media as something a browser can play."""

import base64
import io
import json
from dataclasses import dataclass
from typing import Any

import av
import pyarrow as pa
from PIL import Image

from mmrlhf_ray.data.media import to_png
from mmrlhf_ray.demo.scoring import TIE, ScoredResponse
from mmrlhf_ray.errors import DataError

SECONDS_A_FRAME_UNKNOWN = 0.25


@dataclass(frozen=True)
class MediaView:
    """One medium as data URIs. `uri` is a picture, a sound, or a moving picture; `stills` are a clip's frames."""

    kind: str
    uri: str
    stills: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answers:
    """One held-out prompt with the responses before and after."""

    prompt_id: str
    task: str
    modality: str
    question: str
    truth: tuple[tuple[str, str], ...]
    media: tuple[MediaView, ...]
    before: ScoredResponse
    after: ScoredResponse

    @property
    def change(self) -> str:
        """worse, same or better, by the gold reward; differences up to TIE are none."""
        gain = self.after.gold.total - self.before.gold.total
        return "worse" if gain < -TIE else "better" if gain > TIE else "same"


def pick(prompts: pa.Table, count: int) -> list[dict[str, Any]]:
    """`count` rows of PROMPT (fewer where there are fewer), in turn from every modality and task.

    Within a task the first by prompt_id are taken: what a policy answered has no say, so nothing is hand-picked.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in sorted(prompts.to_pylist(), key=lambda row: row["prompt_id"]):
        groups.setdefault((row["modality"], row["task"]), []).append(row)
    # Modalities take turns, so that one with many tasks does not crowd out one with a single task.
    queues: dict[str, list[dict[str, Any]]] = {}
    for modality in sorted({modality for modality, _ in groups}):
        tasks = [groups[key] for key in sorted(groups) if key[0] == modality]
        longest = max(map(len, tasks))
        queues[modality] = [task[i] for i in range(longest) for task in tasks if i < len(task)]
    picked: list[dict[str, Any]] = []
    for turn in range(prompts.num_rows):
        picked += [queue[turn] for queue in queues.values() if turn < len(queue)]
    return sorted(picked[:count], key=lambda row: (row["modality"], row["task"], row["prompt_id"]))


def gallery(
    prompts: pa.Table, media: pa.Table, before: list[ScoredResponse], after: list[ScoredResponse], count: int
) -> list[Answers]:
    """Cards for `count` prompts of PROMPT with their MEDIA, those that got worse first; the first response of each
    policy to a prompt is shown."""
    first_before = {response.prompt_id: response for response in reversed(before)}
    first_after = {response.prompt_id: response for response in reversed(after)}
    place = {media_id: row for row, media_id in enumerate(media["media_id"].to_pylist())}
    cards = []
    for row in pick(prompts, count):
        prompt_id = row["prompt_id"]
        if prompt_id not in first_before or prompt_id not in first_after:
            raise DataError(
                f"gallery: prompt {prompt_id!r} has no response of SFT or of PPO; answer every held-out prompt"
            )
        missing = [media_id for media_id in row["media_ids"] if media_id not in place]
        if missing:
            raise DataError(f"gallery: prompt {prompt_id!r} needs media {missing}, not in the media table")
        views = tuple(view(media.slice(place[media_id], 1).to_pylist()[0]) for media_id in row["media_ids"])
        cards.append(
            Answers(
                prompt_id=prompt_id,
                task=row["task"],
                modality=row["modality"],
                question=question(row["messages"]),
                # Lists and mappings are for the scorer; what people read are the plain values.
                truth=tuple(
                    (key, str(value))
                    for key, value in json.loads(row["extras"]).items()
                    if isinstance(value, str | int | float)
                ),
                media=views,
                before=first_before[prompt_id],
                after=first_after[prompt_id],
            )
        )
    return sorted(cards, key=lambda card: ("worse", "better", "same").index(card.change))


def question(messages: str) -> str:
    """The text of the user's messages, without the media parts."""
    texts = []
    for message in json.loads(messages):
        content = message["content"]
        if message["role"] == "user":
            parts = [content] if isinstance(content, str) else [p["text"] for p in content if p["type"] == "text"]
            texts.append(" ".join(part.strip() for part in parts))
    return "\n".join(texts)


def view(row: dict[str, Any]) -> MediaView:
    """One row of MEDIA for a browser. Clips become an animated PNG, whatever container they are stored in."""
    if row["kind"] == "video":
        frames, seconds = _frames(row["data"])
        moving = io.BytesIO()
        frames[0].save(moving, "PNG", save_all=True, append_images=frames[1:], duration=round(seconds * 1000), loop=0)
        stills = tuple(_uri("image/png", to_png(frame)) for frame in frames)
        return MediaView("video", _uri("image/png", moving.getvalue()), stills)
    return MediaView(row["kind"], _uri(row["mime"], row["data"]))


def _frames(data: bytes) -> tuple[list[Image.Image], float]:
    """Decoded frames and the seconds each is shown."""
    with av.open(io.BytesIO(data), mode="r") as container:
        stream = container.streams.video[0]
        rate = stream.average_rate
        frames = [frame.to_image() for frame in container.decode(stream)]
    return frames, float(1 / rate) if rate else SECONDS_A_FRAME_UNKNOWN


def _uri(mime: str, data: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"
