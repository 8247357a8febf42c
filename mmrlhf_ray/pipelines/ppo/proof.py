"""What a generator that was started again, or has joined, must show before it is asked for anything: to a prompt of
every modality it gives the log-probabilities that the learner gives. Names and checksums say that it has the weights,
not that it computes with them as it should."""

from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.pipelines.ppo.gate import check_proof
from mmrlhf_ray.rollout.batch import Prompts, concat_prompts
from mmrlhf_ray.workers.fleet import Fleet


class Proofs:
    """Those generators that serve at the start are compared by their first batch (gate.py)."""

    def __init__(self, fleet: Fleet, cfg: PPOConfig):
        self._fleet, self._cfg = fleet, cfg
        self._prompts: dict[str, Prompts] = {}
        """Modality → the first prompt that came with it."""
        self._proven = self._lives(fleet.generators.serving.group.names)

    def _lives(self, names: tuple[str, ...]) -> dict[str, int]:
        """Generator → how often it was started again."""
        return {name: self._fleet.watch.restarts([name]) for name in names}

    def keep(self, prompts: Prompts) -> None:
        """Prompts that are asked for: the first of every modality is what generators are compared on."""
        for row, modality in enumerate(prompts.table.column("modality").to_pylist()):
            if modality not in self._prompts:
                self._prompts[modality] = prompts.slice(row, 1)

    def check(self) -> None:
        """After a push: the generators that serve and were not compared since their last start. The policy must not be
        learning. Raises RunError where one differs, RoleFailed where one dies.

        Generators that share their devices are compared in every step.
        """
        serving = self._lives(self._fleet.generators.serving.group.names)
        new = [name for name, life in serving.items() if self._proven.get(name) != life]
        if new and self._prompts and self._fleet.turns is None:
            said = self._fleet.generators.prove(new, concat_prompts(list(self._prompts.values())))
            for name, rollouts in said.items():
                old_logprobs, _ = self._fleet.policy.infer(rollouts).result()
                check_proof(rollouts, old_logprobs, self._cfg, name)
        self._proven = serving
