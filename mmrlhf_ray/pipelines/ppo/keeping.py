"""Some responses of each step, kept for people to look at."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.data.encoding.encode import load_encoder
from mmrlhf_ray.disk import writing
from mmrlhf_ray.errors import DeadlineExceeded, RoleFailed
from mmrlhf_ray.pipelines.ppo.step import Step
from mmrlhf_ray.pipelines.responses import ROLLOUTS_DIR, MediaFolder, prompts_of, response_table, whole_groups


class Keeping:
    """Writes `<run>/rollouts/step-<number>.parquet` (RESPONSE), and what the prompts show to `<run>/media`."""

    def __init__(self, cfg: PPOConfig, run_dir: Path) -> None:
        self._cfg = cfg
        self._directory = run_dir / ROLLOUTS_DIR
        self.encoder = load_encoder(cfg.policy.path, allowed=cfg.sampling.allow_tokens)
        self._media = MediaFolder(run_dir, cfg.media_kept_mb << 20)

    def keep(self, number: int, step: Step) -> Iterator[str]:
        """Keep whole groups of a step; the others are not decoded. Gives what could not be kept, in words.

        Raises RunFailed on a full disk. What a lost node takes with it is no reason to end a run.
        """
        count = whole_groups(step.experience.table, self._cfg.rollouts_logged)
        seconds = self._cfg.deadlines.stage_s
        if not count:
            return
        try:
            prompts = prompts_of(step.rollouts, seconds)
        except (RoleFailed, DeadlineExceeded) as error:
            yield f"no responses are kept: {error}"
            return
        kept = step.experience.table.slice(0, count)
        scores, kl = kept.column("score").to_pylist(), step.experience.response_kl[:count].tolist()
        table = response_table(self.encoder, kept, prompts, "ppo", number, scores, kl, step.components)
        path = self._directory / f"step-{number:06d}.parquet"
        fresh = path.with_name(f".{path.name}.partial")  # pages on the run read the others meanwhile
        with writing(self._directory):
            self._directory.mkdir(exist_ok=True)
            pq.write_table(table, fresh)
            fresh.replace(path)
        try:
            self._media.add(kept, step.rollouts.media, seconds)
        except (RoleFailed, DeadlineExceeded) as error:
            yield f"media are not kept: {error}"
