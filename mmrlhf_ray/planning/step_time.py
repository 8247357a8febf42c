"""How long a step takes, phase by phase, on GPUs: arithmetic on operations, bytes and what is assumed of the machine.

Everything is at its largest: prompts and responses of full length, prompts full of media.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from mmrlhf_ray.config import LearnerConfig, ModelConfig, PPOConfig
from mmrlhf_ray.config.placement import RolePlacement
from mmrlhf_ray.planning.devices import Device, Nodes
from mmrlhf_ray.planning.loads import cached_tokens, longest_line
from mmrlhf_ray.planning.memory import generator_bytes, kv_sequences
from mmrlhf_ray.planning.packing import pack
from mmrlhf_ray.planning.placement import Reservation
from mmrlhf_ray.planning.push_time import push_seconds
from mmrlhf_ray.planning.sizes import DTYPE_BYTES, GIB, ModelSize, trained_parameters


@dataclass(frozen=True)
class Assumed:
    """Shares of a device's peaks that are reached, and rates. None of them was measured on GPUs here."""

    training: float = 0.40
    inference: float = 0.45
    experts: float = 0.5
    """Of those two, for a mixture of experts: its matrices are small."""
    memory: float = 0.6
    """Of the rate at which a sampler reads weights and keys."""
    network: float = 0.7
    sampler_step_s: float = 0.005
    """Of each token's step that is no computation, with CUDA graphs."""
    eager_step_s: float = 0.02
    """Without."""
    disk_rate: float = 2e9
    """Bytes a second that a node writes and syncs."""
    host_adam_rate: float = 20e9
    """Bytes a second of optimizer state that a rank's processors work through in host memory."""


ASSUMED = Assumed()


@dataclass(frozen=True)
class Phase:
    """A part of a step."""

    name: str
    seconds: float
    bound_by: str
    """computation, memory (its rate), network or host."""


@dataclass(frozen=True)
class StepTime:
    """A step of a job."""

    phases: tuple[Phase, ...]
    """In order; those of one `turn` run at the same time."""
    lanes: tuple[tuple[tuple[str, ...], ...], ...]
    """Names of the phases: those of one turn run at the same time, the turns of a lane one after the other."""
    checkpoint: Phase
    """One of them, written while the next step is sampled."""
    overlapped: bool
    """Lanes run at the same time (`stream.max_staleness` above 0), else one after the other."""

    @property
    def turns(self) -> tuple[tuple[str, ...], ...]:
        """Of all lanes."""
        return tuple(turn for lane in self.lanes for turn in lane)

    @property
    def seconds(self) -> float:
        """Of the entire step."""
        by_name = {phase.name: phase.seconds for phase in self.phases}
        lanes = [sum(max(by_name[name] for name in turn) for turn in lane) for lane in self.lanes]
        return max(lanes) if self.overlapped else sum(lanes)

    @property
    def bottleneck(self) -> Phase:
        """The longest phase."""
        return max(self.phases, key=lambda phase: phase.seconds)


def step_time(
    cfg: PPOConfig, sizes: Mapping[str, ModelSize], trained: Mapping[str, int], node: Nodes, moved: float = 0.0
) -> StepTime:
    """Of a job whose models are all known. `sizes` and `trained` as in role_memory(); `moved`: bytes that go to
    and from a device of roles that take turns on it."""
    work = _Work(cfg, node)
    policy = sizes["policy"]
    sampled = [work.generation(policy)]
    judged = [*work.scoring(sizes), *work.reference(sizes)]
    answered = [*work.before_the_update(sizes)]
    updated = [work.update("policy", policy, cfg.policy, cfg.learner, trained.get("policy"))]
    if "critic" in sizes:
        updated.append(work.update("critic", sizes["critic"], cfg.critic_model, cfg.critic, trained.get("critic")))
    pushed = [work.push(policy, trained.get("policy"))]
    if moved:
        pushed.append(Phase("moving", moved / (node.device.host_rate * ASSUMED.network), "host"))
    overlapped = cfg.stream.max_staleness > 0
    # What hangs on the learners' weights is asked with the judges where the learners wait for these anyway.
    together = [judged, [*answered]] if overlapped else [[*judged, *answered], []]
    judging = work.turns(together[0])
    learning = [turn for phases in (together[1], updated, pushed[:1], pushed[1:]) for turn in work.turns(phases)]
    lanes = [work.turns(sampled), judging, learning]
    if work.share({"scorer", "reference"}, {"policy", "critic"}):
        lanes[1:] = [[*judging, *learning]]
    return StepTime(
        phases=(*sampled, *judged, *answered, *updated, *pushed),
        lanes=tuple(tuple(lane) for lane in lanes),
        checkpoint=work.checkpoint(sizes, trained),
        overlapped=overlapped,
    )


_WHO = {
    "generation": "generator", "scoring": "scorer", "reference": "reference", "old logprobs": "policy",
    "values": "critic", "policy update": "policy", "critic update": "critic",
}  # fmt: skip
"""Phase → the role at work."""


@dataclass(frozen=True)
class _Work:
    """The work of a step, and who does it."""

    cfg: PPOConfig
    node: Nodes

    @property
    def device(self) -> Device:
        return self.node.device

    @property
    def responses(self) -> int:
        return self.cfg.algorithm.prompts_per_step * self.cfg.algorithm.n_samples_per_prompt

    @property
    def tokens(self) -> int:
        """Of all rows of a step, a prompt that responses share counted once."""
        prompts = self.cfg.algorithm.prompts_per_step if self.cfg.learner.engine.shared_prompt else self.responses
        return prompts * self.cfg.data.most_prompt_tokens + self.responses * self.cfg.sampling.max_response_tokens

    def share(self, some: set[str], others: set[str]) -> bool:
        """Whether one of `some` roles has its devices together with one of `others`."""
        groups = [set(group) for group in self.cfg.placement.colocate]
        return any(group & some and group & others for group in groups)

    def turns(self, phases: Sequence[Phase]) -> list[tuple[str, ...]]:
        """Of phases for which nobody has to wait but for a device: all at once, or one by one."""
        roles = [_WHO.get(phase.name, "") for phase in phases]
        if any(self.share({role}, {*roles} - {role}) for role in roles):
            return [(phase.name,) for phase in phases]
        return [tuple(phase.name for phase in phases)] if phases else []

    def forward_operations(self, size: ModelSize, budget: int, spread: int = 1) -> float:
        """Floating-point operations of a forward pass over a step's rows: two for each parameter and token, and for
        attention four for each number of a query and position of its line; masks hide positions, but spare no work.
        Towers run on each of the ranks that a line is spread over."""
        language = 2 * (size.active_parameters - size.tower_parameters)
        attention = 4 * size.num_layers * size.query_width * longest_line(self.cfg, budget * spread)
        return self.tokens * (language + attention) + self._tower_operations(size) * spread

    def _tower_operations(self, size: ModelSize) -> float:
        positions = max((tower.positions_per_token for tower in size.towers.values()), default=0)
        media = self.cfg.algorithm.prompts_per_step * self.cfg.data.most_prompt_tokens
        return media * positions * 2 * size.tower_parameters / max(1, len(size.towers))

    def rate(self, size: ModelSize, *, learns: bool) -> float:
        """Operations a second of one device."""
        share = ASSUMED.training if learns else ASSUMED.inference
        return self.device.flops * share * (ASSUMED.experts if size.experts else 1.0)

    def generation(self, size: ModelSize) -> Phase:
        """Prompts once each, then token by token in as many waves as the cache makes of the responses."""
        cfg, placed, b = self.cfg, self.cfg.placement.generator, DTYPE_BYTES[self.cfg.policy.compute_dtype]
        shards, most = cfg.generator.tensor_parallel_size, cfg.sampling.max_response_tokens
        rate = self.rate(size, learns=False) * shards * min(1.0, placed.num_gpus)
        prompts = ceil(cfg.algorithm.prompts_per_step / placed.actors)
        language = 2 * (size.active_parameters - size.tower_parameters)
        attention = 4 * size.num_layers * size.query_width * cfg.data.most_prompt_tokens / 2
        towers = self._tower_operations(size) / cfg.algorithm.prompts_per_step
        reading = prompts * (cfg.data.most_prompt_tokens * (language + attention) + towers) / rate
        longest = cfg.data.most_prompt_tokens + most
        cache = generator_bytes(size, cfg.policy.compute_dtype, cfg.generator, self.device.memory_gb * GIB)["kv_cache"]
        held = max(1, kv_sequences(size, cfg.policy.compute_dtype, cfg.generator, cache, cached_tokens(cfg)))
        each = ceil(self.responses / placed.actors)
        running = min(each, cfg.generator.max_num_seqs, held)
        keys = running * (longest - most / 2) * size.kv_bytes_per_token(b) / min(shards, size.num_kv_heads)
        bytes_read = size.parameters * b / shards + keys
        from_memory = bytes_read / (self.device.memory_rate * ASSUMED.memory * min(1.0, placed.num_gpus))
        computing = running * language / rate
        idle = ASSUMED.eager_step_s if cfg.generator.enforce_eager else ASSUMED.sampler_step_s
        writing = ceil(each / running) * most * (max(from_memory, computing) + idle)
        bound = "memory" if from_memory > computing else "computation"
        return Phase("generation", reading + writing, bound if writing > reading else "computation")

    def scoring(self, sizes: Mapping[str, ModelSize]) -> Iterator[Phase]:
        """Of all reward models, one after the other."""
        models = [size for key, size in sizes.items() if key.startswith("rewards.")]
        if models:
            yield Phase("scoring", sum(self._served(s, self.cfg.placement.scorer) for s in models), "computation")

    def reference(self, sizes: Mapping[str, ModelSize]) -> Iterator[Phase]:
        """Of all models that the reference servers hold, one after the other."""
        served = [sizes[key] for key in self.cfg.served if key in sizes]
        if served:
            seconds = sum(self._served(size, self.cfg.placement.reference) for size in served)
            yield Phase("reference", seconds, "computation")

    def _served(self, size: ModelSize, placed: RolePlacement) -> float:
        """Layers on several GPUs take turns: one of them works."""
        working = placed.replicas * min(1.0, placed.num_gpus)
        return self.forward_operations(size, self.cfg.score_micro_batch_tokens) / (
            working * self.rate(size, learns=False)
        )

    def before_the_update(self, sizes: Mapping[str, ModelSize]) -> Iterator[Phase]:
        """Passes of the learners that only answer."""
        cfg = self.cfg
        dropout = cfg.learner.lora.dropout if cfg.learner.lora else 0.0
        passes = int(cfg.algorithm.old_logprobs_from(cfg.steps, dropout) == "learner")
        passes += int(cfg.learner.keeps_start and cfg.needs_reference)
        if passes:
            yield Phase("old logprobs", passes * self._asked(sizes["policy"], "policy", cfg.learner), "computation")
        if "critic" in sizes:
            yield Phase("values", self._asked(sizes["critic"], "critic", cfg.critic), "computation")

    def _asked(self, size: ModelSize, role: str, config: LearnerConfig) -> float:
        placed: RolePlacement = getattr(self.cfg.placement, role)
        working = placed.replicas * min(1.0, placed.num_gpus)
        engine = config.engine
        operations = self.forward_operations(size, engine.micro_batch_tokens, engine.sequence_parallel)
        computing = operations / (working * self.rate(size, learns=False)) + self._exchanged(size, placed, config)
        if engine.zero_stage < 3:
            return computing
        gathered = self._passes(placed, config) * size.parameters * DTYPE_BYTES[self.cfg.policy.compute_dtype]
        return max(computing, gathered / self._between(placed))

    def _exchanged(self, size: ModelSize, placed: RolePlacement, config: LearnerConfig) -> float:
        """Seconds of a forward pass over a step's rows in which ranks that a line is spread over give each other what
        attention reads and gives: queries, keys, values and its output, but for a rank's own part."""
        spread = config.engine.sequence_parallel
        numbers = 2 * (size.query_width + size.key_width) * size.num_layers * self.tokens / placed.replicas
        if spread == 1:
            return 0.0
        neighbours = placed.model_copy(update={"replicas": spread})
        # _between() is higher by what of an even exchange is a rank's own part.
        return numbers * DTYPE_BYTES[self.cfg.policy.compute_dtype] / self._between(neighbours)

    def _passes(self, placed: RolePlacement, config: LearnerConfig) -> int:
        """Of a rank, over a step's rows."""
        return ceil(self.tokens / placed.replicas / config.engine.micro_batch_tokens)

    def _between(self, placed: RolePlacement) -> float:
        """Bytes a second that each of these ranks passes on."""
        rows = pack((Reservation("ranks", "", placed.replicas, placed.num_cpus, placed.num_gpus),), "PACK", self.node)
        rate = self.device.link_rate if len(rows) == 1 else self.device.network_rate
        return rate * ASSUMED.network * placed.replicas / max(1, placed.replicas - 1)

    def update(
        self, role: str, size: ModelSize, model: ModelConfig, config: LearnerConfig, trained: int | None
    ) -> Phase:
        """All optimizer steps: forward once, backward twice that (once where weights are frozen), and forward again
        with checkpoints; gradients reduced and weights gathered as the ZeRO stage has it."""
        cfg, engine, b = self.cfg, config.engine, DTYPE_BYTES[model.compute_dtype]
        placed: RolePlacement = getattr(cfg.placement, role)
        learned = trained_parameters(size, config) if trained is None else trained
        epochs = cfg.algorithm.ppo_epochs
        times = 1 + (1 if config.lora else 2) + int(engine.gradient_checkpointing)
        spread = engine.sequence_parallel
        operations = epochs * times * self.forward_operations(size, engine.micro_batch_tokens, spread)
        working = placed.replicas * min(1.0, placed.num_gpus)
        computing = operations / (working * self.rate(size, learns=True))
        # Backward once, and forward again with checkpoints.
        computing += epochs * (2 + int(engine.gradient_checkpointing)) * self._exchanged(size, placed, config)
        steps = epochs * (self.responses // cfg.algorithm.update_size)
        passes = epochs * max(self._passes(placed, config), steps // epochs)
        moved = 0.0
        if placed.replicas > 1:
            gradients = {0: 2 * steps, 1: 2 * steps, 2: passes, 3: passes}[engine.zero_stage] * learned * b
            weights = {0: 0, 1: steps * learned, 2: steps * learned}.get(
                engine.zero_stage, passes * (2 + int(engine.gradient_checkpointing)) * size.parameters
            )
            moved = (gradients + weights * b) / self._between(placed)
        stepping = steps * self._optimizer_seconds(learned, placed.replicas, config)
        # ZeRO-3 fetches the next layers while one is computed; below it gradients follow the pass.
        spent = max(computing, moved) if engine.zero_stage == 3 else computing + moved
        parts = {"computation": computing, "network": moved, "host": stepping if engine.offload_optimizer else 0.0}
        return Phase(f"{role} update", spent + stepping, max(parts, key=lambda name: parts[name]))

    def _optimizer_seconds(self, learned: int, ranks: int, config: LearnerConfig) -> float:
        """Weights, moments and gradient read and written once."""
        part = learned / (ranks if config.engine.zero_stage else 1)
        if config.engine.offload_optimizer:
            return part * (28 / ASSUMED.host_adam_rate + 6 / self.device.host_rate)
        return part * 28 / (self.device.memory_rate * ASSUMED.memory)

    def push(self, size: ModelSize, trained: int | None) -> Phase:
        """Weights, or the adapter, to the generators."""
        cfg, moved = self.cfg, size.parameters
        if cfg.learner.sent_adapter is not None:
            moved = trained_parameters(size, cfg.learner) if trained is None else trained
        nbytes = moved * DTYPE_BYTES[cfg.policy.compute_dtype]
        return Phase("push", *push_seconds(cfg, nbytes, self.node, ASSUMED.network))

    def checkpoint(self, sizes: Mapping[str, ModelSize], trained: Mapping[str, int]) -> Phase:
        """Weights and the optimizer's state of what is trained, written by all nodes that have ranks."""
        longest = 0.0
        for role, config in (("policy", self.cfg.learner), ("critic", self.cfg.critic)):
            if role in sizes:
                placed: RolePlacement = getattr(self.cfg.placement, role)
                learned = trained.get(role, trained_parameters(sizes[role], config))
                writers = ceil(placed.replicas * placed.num_gpus / self.node.gpus)
                longest = max(longest, learned * 14 / (writers * ASSUMED.disk_rate))
        return Phase("checkpoint", longest, "host")
