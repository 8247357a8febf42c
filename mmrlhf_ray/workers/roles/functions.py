"""The actor of rewards that are computed from text: functions, remote services, judges."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from mmrlhf_ray.data.encoding.encode import decode_response, load_encoder
from mmrlhf_ray.rewards.batch import PromptLookup
from mmrlhf_ray.rewards.components import Component, TextReward, component, score_own
from mmrlhf_ray.rewards.scores import ComponentScores
from mmrlhf_ray.schema import PROMPT, ROLLOUT, check


class RewardFunctions:
    """Scores ROLLOUT rows by every component at once, each bounded by its own deadline.

    Processes of functions end with the actor, however it ends.
    """

    def __init__(self, components: Sequence[TextReward], prompts: pa.Table, model_path: str):
        self._rewards = tuple(components)
        self._components: tuple[Component, ...] = tuple(component(reward) for reward in components)
        self._prompts = PromptLookup(check(prompts, PROMPT, "RewardFunctions"))
        self._encoder = load_encoder(model_path)

    def ready(self) -> None:
        """Start the components. Raises ConfigError when one of them cannot work on this machine."""
        with ThreadPoolExecutor(len(self._components)) as pool:
            list(pool.map(lambda own: own.start(), self._components))

    def score(self, rollouts: pa.Table, *prompts: pa.Table) -> tuple[dict[str, ComponentScores], float]:
        """Each component's scores by its name, one entry per row, and the seconds it took.

        A component is only given rows of its tasks and modalities; it does not apply to the others. `prompts`: PROMPT
        of these rows, where they are not those that the actor was started with.
        """
        start = time.monotonic()
        table = check(rollouts, ROLLOUT, "RewardFunctions.score")
        completions = [decode_response(self._encoder, ids) for ids in table.column("response_token_ids").to_pylist()]
        known = PromptLookup(pa.concat_tables(prompts), self._prompts.extras_columns) if prompts else self._prompts
        batch = known.batch(table, completions)

        def ask(reward: TextReward, own: Component) -> ComponentScores:
            return score_own(reward, own, batch)

        with ThreadPoolExecutor(len(self._components)) as pool:
            answers = list(pool.map(ask, self._rewards, self._components))
        return {r.name: a for r, a in zip(self._rewards, answers, strict=True)}, time.monotonic() - start

    def close(self) -> None:
        """End the processes of functions."""
        for own in self._components:
            own.close()
