"""The configuration of online training, and what other jobs that sample and score responses share with it."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from mmrlhf_ray.config.algorithm import GROUPED, AlgorithmConfig
from mmrlhf_ray.config.base import (
    AllowedTokens,
    LearnerUse,
    Longest,
    ModelConfig,
    ModelUse,
    ProfiledConfig,
    RecordsUse,
    RecoveryConfig,
)
from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.config.distillation import DistillationConfig
from mmrlhf_ray.config.environment import EnvironmentConfig, check_episodes
from mmrlhf_ray.config.gate import ParityGate
from mmrlhf_ray.config.generator import GeneratorConfig
from mmrlhf_ray.config.learner import LearnerConfig
from mmrlhf_ray.config.placement import Placement, Resources
from mmrlhf_ray.config.rewarded import RewardedConfig
from mmrlhf_ray.config.rewards import FluencyReward, Reward
from mmrlhf_ray.config.selection import SelectionConfig
from mmrlhf_ray.config.stopping import EarlyStopConfig
from mmrlhf_ray.config.stream import StreamConfig
from mmrlhf_ray.config.weights import WeightsConfig, WeightTransport

LOWEST_TEMPERATURE = 0.01
"""The sampler takes every temperature below this, except 0, for this one."""


class SamplingConfig(AllowedTokens):
    """How responses are sampled."""

    temperature: NonNegativeFloat = 1.0
    """0 = greedy: the likeliest token each time; only where nothing is learned from the responses."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Sample from the likeliest tokens that together have this probability; 1 = from all."""
    max_response_tokens: PositiveInt = 64
    """Tokens after which a response is cut off."""

    @property
    def greedy(self) -> bool:
        """Whether nothing is left to chance."""
        return self.temperature == 0

    @property
    def full(self) -> bool:
        """Whether responses are drawn from all of the model's distribution, so that log-probabilities are its own."""
        return self.top_p == 1.0 and not self.greedy

    def refuse_greedy(self, why: str, section: str = "sampling") -> None:
        """Raise ValueError where the temperature is 0."""
        if self.greedy:
            raise ValueError(f"{section}.temperature=0 is greedy: {why}; set it to {LOWEST_TEMPERATURE} or more")

    @model_validator(mode="after")
    def _can_be_sampled(self) -> "SamplingConfig":
        if 0 < self.temperature < LOWEST_TEMPERATURE:
            raise ValueError(
                f"temperature={self.temperature:g}: the sampler raises what is below {LOWEST_TEMPERATURE} to it, and "
                f"log-probabilities would be of another distribution; set it to {LOWEST_TEMPERATURE} or more, or to 0 "
                "for greedy responses"
            )
        if self.greedy and self.top_p < 1:
            raise ValueError(f"top_p={self.top_p:g} has no effect with temperature=0; leave one of them out")
        return self


class CriticConfig(LearnerConfig):
    """How the critic is trained, where `algorithm` has one."""

    model: ModelConfig | None = None
    """Reward model that the critic starts from; `null` = the first of `rewards`, else the policy with a new head."""


def longest(data: DataConfig, sampling: SamplingConfig) -> Longest:
    tokens = data.most_prompt_tokens + sampling.max_response_tokens
    return Longest("data.max_prompt_tokens + sampling.max_response_tokens", tokens)


class PPOConfig(RewardedConfig, ProfiledConfig):
    """Online training of a policy: PPO, GRPO and every other choice of `algorithm`."""

    policy: ModelConfig
    """Where the policy starts; also the reference, unless `reference` is given."""
    reference: ModelConfig | None = None
    """Another model to stay close to: a teacher, for on-policy distillation. With `algorithm.kl_coef: 0` the KL to it
    is only measured; where neither is given, there is no reference, unless `fluency` is among the rewards."""
    reference_engine: Literal["server", "zero3"] = "server"
    """`server`: each of `placement.reference.replicas` holds the model, its layers one after the other on the GPUs that
    it reserves. `zero3`: they are ranks that hold it together, one GPU each, and all compute at once."""
    rewards: tuple[Reward, ...] = ()
    """Components that score responses; may be empty for distillation, where the KL to the reference is all there is."""
    data: DataConfig
    """Prompts that responses are sampled to."""
    steps: PositiveInt = 100
    """Steps of the run: in each, responses are sampled, scored and learned from."""
    algorithm: AlgorithmConfig = AlgorithmConfig()
    stream: StreamConfig = StreamConfig()
    selection: SelectionConfig | None = None
    """Which prompts are drawn again, by their pass rates; `null` = all, in turn."""
    distillation: DistillationConfig | None = None
    """Teachers whose distributions the policy learns; `null` = none."""
    sampling: SamplingConfig = SamplingConfig()
    environment: EnvironmentConfig | None = None
    """Tools or another environment that answers the policy's turns; `null` = a response is one turn. With it
    `sampling.max_response_tokens` bounds all turns and observations of a response together."""
    generator: GeneratorConfig = GeneratorConfig()
    weights: WeightsConfig = WeightsConfig()
    learner: LearnerConfig = LearnerConfig()
    """How the policy is trained."""
    critic: CriticConfig = CriticConfig()
    score_micro_batch_tokens: PositiveInt = 8192
    """Most tokens in one forward pass of a scorer or reference server."""
    placement: Placement = Placement()
    recovery: RecoveryConfig = RecoveryConfig()
    eval_data: DataConfig | None = None
    """Prompts that the policy is evaluated on while it learns; nothing is learned from them."""
    eval_every_steps: PositiveInt | None = None
    """Evaluate on `eval_data` after every this many steps; `null` = at the end only."""
    eval_samples_per_prompt: PositiveInt = 1
    """Responses to each prompt of `eval_data`."""
    early_stop: EarlyStopConfig | None = None
    """End the run where two rewards no longer agree about held-out responses; `null` = it goes on."""
    rollouts_logged: int = Field(64, ge=0)
    """Most responses of each step that are kept in `<run>/rollouts`, all of a group or none: at least one group, unless
    it is 0. They are kept with prompt, ground truth, reward components and what is known of each token, and what they
    show in `<run>/media`."""
    media_kept_mb: int = Field(1024, ge=0)
    """Most MiB of media in `<run>/media`, each clip once; where it is full, kept responses name media without them."""
    track_samples: int = Field(8, ge=0)
    """Responses that trackers are given with prompt, media and score, whenever it is time for them."""
    track_samples_every_steps: PositiveInt = 10
    """Steps from one time to the next; the first step is one."""
    parity_gate: ParityGate = ParityGate()

    @property
    def needs_reference(self) -> bool:
        """Whether anything uses `ref_logprobs`."""
        fluent = any(isinstance(r, FluencyReward) for r in self.rewards)
        return fluent or self.algorithm.kl_coef > 0 or self.reference is not None

    @property
    def served(self) -> Mapping[str, ModelConfig]:
        """Configuration key → each model that the reference servers hold: the reference and the teachers. Where only an
        adapter learns, the policy itself answers for the reference: the adapter is switched off."""
        reference = self.needs_reference and not self.learner.keeps_start
        found = {"reference": self.reference or self.policy} if reference else {}
        teachers = self.distillation.teachers if self.distillation else ()
        return found | {f"distillation.teachers.{n}.model": teacher.model for n, teacher in enumerate(teachers)}

    @property
    def roles(self) -> Mapping[str, Resources]:
        has = {
            "encoder": True,
            "eval_encoder": self.eval_data is not None,
            "generator": True,
            "scorer": bool(self.model_rewards),
            "functions": bool(self.function_rewards),
            "reference": bool(self.served),
            "policy": True,
            "critic": self.algorithm.has_critic,
        }
        return self.placement.of(*(role for role, wanted in has.items() if wanted))

    @property
    def models(self) -> Mapping[str, ModelUse]:
        most = longest(self.data, self.sampling)
        found = {"policy": ModelUse(self.policy, reads=most)}
        found |= {"reference": ModelUse(self.reference, reads=most)} if self.reference else {}
        found |= {key: ModelUse(model, reads=most) for key, model in self.served.items() if key != "reference"}
        found |= self._scoring(most)
        if self.critic.model and "critic" in self.roles:
            found["critic.model"] = ModelUse(self.critic.model, any_head=True, reads=most)
        return found

    @property
    def trained(self) -> Mapping[str, LearnerUse]:
        policy = {"learner": LearnerUse(self.policy, self.learner, scalar=False)}
        if "critic" not in self.roles:
            return policy
        return policy | {"critic": LearnerUse(self.critic_model, self.critic, scalar=True)}

    @property
    def records(self) -> Mapping[str, RecordsUse]:
        batch = ("algorithm.prompts_per_step", self.algorithm.prompts_per_step)
        most = self.generator.most_media
        found = {"data": RecordsUse(self.data, "PROMPT", batch, most_media=most)}
        if self.eval_data is not None:
            found["eval_data"] = RecordsUse(self.eval_data, "PROMPT", None, "evaluation during training", most)
        return found

    @property
    def critic_model(self) -> ModelConfig:
        """Where the critic starts: a reward model, or the policy where there is none."""
        if self.critic.model is not None:
            return self.critic.model
        return self.model_rewards[0].model if self.model_rewards else self.policy

    def optimizer_steps(self, role: str) -> int:
        """Of a learner in all of the run; the policy's do not start before the critic's warm-up is over."""
        a = self.algorithm
        learning = self.steps - (a.critic_warmup_steps if role == "policy" else 0)
        return learning * a.ppo_epochs * (a.prompts_per_step * a.n_samples_per_prompt // a.update_size)

    def _check_reward_scales(self) -> None:
        a = self.algorithm
        for reward in (reward for reward in self.rewards if reward.normalise == "group"):
            if a.n_samples_per_prompt < 2:
                raise ValueError(
                    f"rewards.{reward.name}.normalise=group compares the responses to one prompt; set "
                    "algorithm.n_samples_per_prompt to 2 or more, got 1"
                )
        for judge in self.judge_rewards:
            judge.check_groups(a.n_samples_per_prompt, "algorithm.n_samples_per_prompt")
            if self.eval_data is not None:
                judge.check_groups(self.eval_samples_per_prompt, "eval_samples_per_prompt")
        for reward in (reward for reward in self.rewards if reward.per_turn):
            if a.advantage_estimator in GROUPED and reward.normalise != "group":
                raise ValueError(
                    f"rewards.{reward.name}.per_turn: algorithm.advantage_estimator={a.advantage_estimator} compares "
                    "the responses to one prompt, and so their turns; set normalise to group"
                )
            if a.score_normalisation != "none" or a.score_clip is not None:
                raise ValueError(
                    f"rewards.{reward.name}.per_turn: algorithm.score_normalisation and score_clip change the score of "
                    "a response, which its turns' rewards must add up to; leave them out"
                )

    def _check_reference(self) -> None:
        if self.reference is not None and self.learner.keeps_start:
            raise ValueError("learner.lora makes the adapter-less policy the reference; leave `reference` out")
        if self.distillation is not None and self.reference_engine != "server":
            raise ValueError(f"reference_engine={self.reference_engine}: teachers are held by servers; leave it out")
        if self.reference_engine != "server" and "reference" not in self.roles:
            why = "the policy without its adapter is the reference" if self.needs_reference else "there is no reference"
            raise ValueError(f"reference_engine={self.reference_engine} has no effect: {why}; leave it out")

    def _check_turns(self) -> None:
        """Raise ValueError for roles that share devices and could not take turns."""
        if not self.placement.colocate:
            return
        shared = self.placement.sharing_roles
        if "generator" in shared and not self.stream.in_turns:
            raise ValueError(
                "placement.colocate: a generator that shares its device cannot sample while others learn; set "
                "stream.max_staleness to 0 and leave stream.deterministic out, or take it out of placement.colocate"
            )
        if "generator" in shared and self.algorithm.old_logprobs == "sampler":
            raise ValueError(
                "algorithm.old_logprobs=sampler: a generator that shares its device proves with the learner's that it "
                "woke up as what it was; set it to auto or learner"
            )
        if missing := sorted(shared - set(self.roles)):
            raise ValueError(f"placement.colocate names {missing[0]}, which this job has not; take it out")
        self.placement.refuse_changing("generators that share their devices have a fixed number")

    @property
    def transport(self) -> WeightTransport:
        """Of the policy's weights. Raises ValueError for one that the run cannot have."""
        return self.weights.chosen(self.placement, self.device, adapter=self.learner.sent_adapter is not None)

    def _check_schedules(self) -> None:
        warmup = self.algorithm.critic_warmup_steps
        if warmup >= self.steps:
            raise ValueError(
                f"algorithm.critic_warmup_steps={warmup} is not below steps={self.steps}: the policy would never be "
                "trained; lower it"
            )
        for role, section, optimizer in (
            ("policy", "learner.optimizer", self.learner.optimizer),
            ("critic", "critic.optimizer", self.critic.optimizer),
        ):
            if optimizer.warmup_steps and role in self.roles:
                optimizer.refuse_long_warmup(
                    self.optimizer_steps(role), section, f"the {role}, with steps={self.steps}"
                )

    @property
    def evaluates(self) -> bool:
        return self.eval_data is not None

    def evaluates_after(self, done: int) -> bool:
        """Whether an evaluation follows the step that is number `done`, counted from 1."""
        if self.eval_data is None:
            return False
        return done == self.steps or (self.eval_every_steps is not None and done % self.eval_every_steps == 0)

    @model_validator(mode="after")
    def _can_evaluate(self) -> "PPOConfig":
        own, other = self.data, self.eval_data
        if self.early_stop is not None:
            self.early_stop.check([r.name for r in self.rewards], self.eval_samples_per_prompt, other is not None)
        if other is None:
            for key in ("eval_every_steps", "eval_samples_per_prompt"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} has no effect without eval_data; give it, or leave both out")
            return self
        if other.max_prompt_tokens is not None and other.max_prompt_tokens > own.most_prompt_tokens:
            raise ValueError(
                f"eval_data.max_prompt_tokens={other.max_prompt_tokens} is above data.max_prompt_tokens="
                f"{own.most_prompt_tokens}, which the generators make room for; lower it or raise that"
            )
        for key in ("limits", "video", "decode"):
            if getattr(other, key) != getattr(own, key):
                raise ValueError(
                    f"eval_data.{key} differs from data.{key}, by which the generators decode media; make them the same"
                )
        return self

    @model_validator(mode="after")
    def _agrees(self) -> "PPOConfig":
        a = self.algorithm
        self._check_schedules()
        self._check_reference()
        self._check_turns()
        self.sampling.refuse_greedy("a policy learns from responses that differ")
        self._check_reward_scales()
        check_episodes(self.environment, self.rewards, self.sampling.max_response_tokens, self.generator.most_media)
        samples = a.prompts_per_step * a.n_samples_per_prompt
        if samples % a.update_size:
            raise ValueError(
                f"algorithm.prompts_per_step × n_samples_per_prompt = {samples} must be a multiple of "
                f"algorithm.mini_batch_size={a.update_size}"
            )
        for role in set(self.roles) & {"policy", "critic"}:
            ranks = getattr(self.placement, role).replicas
            if a.update_size < ranks:
                raise ValueError(
                    f"algorithm.mini_batch_size={a.update_size} gives some of the "
                    f"placement.{role}.replicas={ranks} ranks no response"
                )
        if not self.rewards and self.distillation is None and (self.reference is None or not a.kl_coef):
            raise ValueError(
                "rewards is empty: give a reward, `distillation`, or a `reference` to distil from and a kl_coef above 0"
            )
        if self.selection is not None:
            self.selection.check(self.rewards)
        if a.dynamic_sampling and all(isinstance(r, FluencyReward) for r in self.rewards):
            raise ValueError("algorithm.dynamic_sampling needs a reward other than fluency, which always differs")
        _ = self.transport  # it can be had
        self.stream.check_algorithm(a, adapter=self.learner.sent_adapter is not None)
        if self.stream.in_turns:
            self.placement.refuse_changing(
                "a step's groups are sampled together, so that responses hang on how many generators there are; set "
                "stream.max_staleness above 0 or stream.deterministic to false"
            )
        if a.overlong and a.overlong.buffer_tokens >= self.sampling.max_response_tokens:
            raise ValueError(
                f"algorithm.overlong.buffer_tokens={a.overlong.buffer_tokens} must be below "
                f"sampling.max_response_tokens={self.sampling.max_response_tokens}"
            )
        if self.sampling.top_p != 1.0:
            raise ValueError(f"sampling.top_p={self.sampling.top_p}: the learner models top_p=1 only; set it to 1")
        return self
