"""How prompts flow from the generators to the learners."""

import math
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from mmrlhf_ray.config.algorithm import AlgorithmConfig
from mmrlhf_ray.config.section import Section


class StreamConfig(Section):
    """A group is one prompt drawn once, with its `n_samples_per_prompt` responses; a step trains on exactly
    `prompts_per_step` of them. What cannot be trained on is left out for a reason, and as many are asked for again."""

    max_staleness: int = Field(0, ge=0)
    """How many versions older than the policy the weights may be that sampled a response. 0 = a step samples its own
    batch, and generators and learners take turns; from 1 on they work at the same time."""
    in_flight: Literal["finish", "keep", "recompute"] = "keep"
    """With `max_staleness` above 0, what becomes of running responses when weights are pushed. `finish`: the push waits
    for them. `keep`: they go on with the new weights, from what the old ones computed. `recompute`: they go on with
    keys and values computed anew."""
    max_running: PositiveInt | None = None
    """Most groups that are sampled or judged at once; `null` = as many as `max_staleness` allows."""
    oversample: float = Field(1.0, ge=1)
    """With `algorithm.dynamic_sampling`: what is missing of a batch is asked for this many times over, so that fewer
    waits follow one another. What comes too much is sampled again later."""
    deterministic: bool | None = None
    """Ask for a step's groups at once and judge them together, so that two runs on one machine are equal to the bit.
    Otherwise each group is judged when it is finished, which hides that work behind sampling. `null` = true with
    `max_staleness: 0`, else false."""
    max_dropped: PositiveInt = 8
    """The run ends where more groups than this many batches hold are left out for one step: nothing can be learned."""

    @property
    def in_turns(self) -> bool:
        """Whether all groups of a step are asked for and judged together."""
        return self.max_staleness == 0 if self.deterministic is None else self.deterministic

    def most_running(self, prompts_per_step: int) -> int:
        """Groups that may be running at once, were there no `max_running`."""
        return math.ceil(self.oversample * (self.max_staleness + 1) * prompts_per_step)

    @model_validator(mode="after")
    def _agrees(self) -> "StreamConfig":
        if self.max_staleness and self.deterministic:
            raise ValueError(
                f"deterministic=true with max_staleness={self.max_staleness}: which weights sample a response then "
                "hangs on time; set max_staleness to 0 or deterministic to false"
            )
        if not self.max_staleness and self.in_flight != type(self).model_fields["in_flight"].default:
            raise ValueError(
                f"in_flight={self.in_flight} has no effect with max_staleness=0, since nothing is in flight at a push; "
                "leave it out"
            )
        if self.max_running is not None and self.in_turns:
            raise ValueError(
                f"max_running={self.max_running} has no effect where a step's groups are asked for at once; set "
                "deterministic to false, or leave it out"
            )
        return self

    def check_algorithm(self, algorithm: AlgorithmConfig, adapter: bool) -> None:
        """Raise ValueError where the two do not go together. adapter: the policy learns an adapter alone."""
        if self.max_staleness and algorithm.mismatch.correction == "none":
            raise ValueError(
                f"stream.max_staleness={self.max_staleness} trains on what older weights sampled, which needs a "
                "correction; set algorithm.mismatch.correction to tis, icepop or sequence_mask"
            )
        if self.max_staleness and adapter and self.in_flight != "finish":
            raise ValueError(
                f"stream.in_flight={self.in_flight} cannot be done with learner.lora, since the sampler ties a request "
                "to the adapter that it started with; set it to finish"
            )
        if self.oversample > 1 and algorithm.dynamic_sampling is None:
            raise ValueError(
                f"stream.oversample={self.oversample:g} has no use without algorithm.dynamic_sampling, which leaves "
                "groups out; give it, or leave oversample out"
            )
        most = self.most_running(algorithm.prompts_per_step)
        if self.max_running is not None and self.max_running >= most:
            raise ValueError(
                f"stream.max_running={self.max_running} has no effect: no more than {most} groups ever run, by "
                "max_staleness and algorithm.prompts_per_step; lower it, or leave it out"
            )
