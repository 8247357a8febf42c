"""Some responses of a step with their prompts and media, for trackers."""

from mmrlhf_ray.data.encoding.encode import Encoder, decode_response
from mmrlhf_ray.pipelines.ppo.step import Step
from mmrlhf_ray.rollout.batch import shown
from mmrlhf_ray.runtime.waits import deadline_get
from mmrlhf_ray.tracking.tracker import Clip, Sample


def samples_of(step: Step, encoder: Encoder, most: int, deadline_s: float) -> list[Sample]:
    """The first `most` responses of a step. Raises DeadlineExceeded, and RoleFailed for media that are lost."""
    table = step.experience.table.slice(0, most)
    lie = dict.fromkeys(step.rollouts.media[name] for name in shown(table))
    tables = deadline_get(list(lie), deadline_s, "media of samples")
    clips = {
        row["media_id"]: Clip(row["kind"], row["mime"], row["data"]) for clip in tables for row in clip.to_pylist()
    }
    columns = ["task", "prompt_token_ids", "response_token_ids", "score", "media_ids"]
    return [
        Sample(
            task=row["task"],
            prompt=decode_response(encoder, row["prompt_token_ids"]),
            response=decode_response(encoder, row["response_token_ids"]),
            score=row["score"],
            kl=float(kl),
            clips=tuple(clips[media_id] for media_id in row["media_ids"]),
        )
        for row, kl in zip(table.select(columns).to_pylist(), step.experience.response_kl, strict=False)
    ]
