"""How many groups may start: the rule that bounds how old a response can be when it is trained on."""

import math


def admissible(
    *,
    running: int,
    accepted: int,
    version: int,
    prompts_per_step: int,
    max_staleness: int,
    max_running: int | None = None,
    oversample: float = 1.0,
    steps: int | None = None,
) -> int:
    """Groups that may be asked for now, never below 0:

        min(max_running − running, (max_staleness + version + 1)·prompts_per_step − (accepted + running))

    running: asked for, and neither ready nor left. accepted: trained in all of the run, or ready to be. version: of the
    weights, that is, steps trained. max_running: None = no bound of its own. oversample: what is missing is asked for
    this many times over, since some of it will be left out. steps: of the run; nothing is asked for beyond its end.

    By the end of version v no more is drawn than the batches up to v + max_staleness hold, so that none of it needs to
    wait for a later one. After Fu et al., *AReaL*, 2025.
    """
    batches = version + 1 + max_staleness
    if steps is not None:
        batches = min(batches, steps)
    missing = max(0, batches * prompts_per_step - accepted)
    capacity = math.ceil(missing * oversample) - running
    if max_running is not None:
        capacity = min(capacity, max_running - running)
    return max(0, capacity)
