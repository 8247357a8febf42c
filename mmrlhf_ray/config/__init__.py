"""Run configurations: one frozen pydantic model per job, YAML plus dotted overrides."""

from mmrlhf_ray.config.algorithm import AlgorithmConfig, DynamicSamplingConfig, MismatchConfig, OverlongConfig
from mmrlhf_ray.config.arena import ArenaConfig, ArenaModel
from mmrlhf_ray.config.base import CheckpointConfig, DeadlineConfig, ModelConfig, ModelShape, RunConfig, TrainJobConfig
from mmrlhf_ray.config.behaviour import BehaviourConfig
from mmrlhf_ray.config.data import (
    AudioAugment,
    AugmentConfig,
    DataConfig,
    DecodeConfig,
    ImageAugment,
    MediaLimits,
    RemoteMedia,
    SourceConfig,
    TextHooks,
    VideoAugment,
    VideoSampling,
)
from mmrlhf_ray.config.discrete import DiscreteConfig
from mmrlhf_ray.config.distillation import DistillationConfig, TeacherConfig
from mmrlhf_ray.config.environment import (
    EnvironmentConfig,
    GymnasiumEnvironment,
    HttpEnvironment,
    PythonEnvironment,
    ToolsEnvironment,
)
from mmrlhf_ray.config.feedback import Aspect, FeedbackConfig, Language, LoginLimits, Webhook
from mmrlhf_ray.config.generator import GeneratorConfig
from mmrlhf_ray.config.implicit import ImplicitConfig
from mmrlhf_ray.config.iterate import IterateConfig
from mmrlhf_ray.config.judging import EvaluateConfig, ProbeRewardConfig
from mmrlhf_ray.config.learner import EngineConfig, LearnerConfig, OptimizerConfig
from mmrlhf_ray.config.load import JobKind, load_config, read_job_kind, save_config
from mmrlhf_ray.config.oidc import OidcConfig, OidcRole
from mmrlhf_ray.config.online import CriticConfig, PPOConfig, SamplingConfig
from mmrlhf_ray.config.parts import LoRAConfig, PartConfig, PartsConfig
from mmrlhf_ray.config.placement import LearnerPlacement, Placement, Resources, RolePlacement
from mmrlhf_ray.config.problems import dotted_keys
from mmrlhf_ray.config.project import ProjectConfig, QuestionKind
from mmrlhf_ray.config.rewards import (
    CostConfig,
    FluencyReward,
    FunctionReward,
    JudgeReward,
    ModelReward,
    RemoteReward,
    Reward,
    RewardComponent,
)
from mmrlhf_ray.config.section import Section
from mmrlhf_ray.config.selection import SelectionConfig
from mmrlhf_ray.config.stream import StreamConfig
from mmrlhf_ray.config.supervised import PreferenceConfig, RewardModelConfig, SFTConfig

__all__ = [
    "AlgorithmConfig",
    "ArenaConfig",
    "ArenaModel",
    "Aspect",
    "AudioAugment",
    "AugmentConfig",
    "CheckpointConfig",
    "CostConfig",
    "CriticConfig",
    "DataConfig",
    "DeadlineConfig",
    "DecodeConfig",
    "BehaviourConfig",
    "DiscreteConfig",
    "DynamicSamplingConfig",
    "EngineConfig",
    "EnvironmentConfig",
    "EvaluateConfig",
    "FeedbackConfig",
    "FluencyReward",
    "FunctionReward",
    "GeneratorConfig",
    "GymnasiumEnvironment",
    "HttpEnvironment",
    "ImageAugment",
    "ImplicitConfig",
    "IterateConfig",
    "JobKind",
    "JudgeReward",
    "Language",
    "LearnerConfig",
    "LearnerPlacement",
    "LoRAConfig",
    "LoginLimits",
    "MediaLimits",
    "MismatchConfig",
    "ModelConfig",
    "ModelReward",
    "ModelShape",
    "OptimizerConfig",
    "OverlongConfig",
    "OidcConfig",
    "OidcRole",
    "PPOConfig",
    "PartConfig",
    "PartsConfig",
    "Placement",
    "PreferenceConfig",
    "ProbeRewardConfig",
    "ProjectConfig",
    "QuestionKind",
    "PythonEnvironment",
    "RemoteMedia",
    "RemoteReward",
    "Resources",
    "Reward",
    "RewardComponent",
    "RewardModelConfig",
    "RolePlacement",
    "RunConfig",
    "SFTConfig",
    "DistillationConfig",
    "TeacherConfig",
    "SamplingConfig",
    "SelectionConfig",
    "Section",
    "SourceConfig",
    "StreamConfig",
    "TextHooks",
    "ToolsEnvironment",
    "TrainJobConfig",
    "VideoAugment",
    "VideoSampling",
    "Webhook",
    "dotted_keys",
    "load_config",
    "read_job_kind",
    "save_config",
]
