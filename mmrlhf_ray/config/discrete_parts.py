"""Sections of a discrete-action job's configuration: its decisions, its inputs, its learning."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.config.paths import PathText
from mmrlhf_ray.config.section import Section

Share = Annotated[float, Field(ge=0, le=1)]


class TaskSection(Section):
    """Keys that every task has."""

    train: DataConfig
    """PROMPT records that are decided in training."""
    heldout: DataConfig
    """PROMPT records that measure it."""
    record_tasks: tuple[str, ...] | None = None
    """Only records whose column `task` is one of these; `null` = all."""
    weight: PositiveFloat = 1.0
    """How often the task is drawn, in proportion to the other tasks'."""


class DecideTask(TaskSection):
    """Choose one of several classes."""

    kind: Literal["decide"] = "decide"
    label: str = "answer"
    """Key in `extras` with the right class, as text or number."""
    classes: tuple[str, ...] = Field(min_length=2)
    """One action each, in this order."""
    score: Literal["accuracy", "f1"] = "accuracy"
    """`accuracy`: 1 for the right class. `f1`: classes and label are sets of words, as in "cat dog"; their F1."""
    demonstrations: DataConfig | None = None
    """DEMONSTRATION records whose response is one of the classes. Those with feedback 0 are imitated with the labels
    of `train`; those above or below 0 are people's votes for `human_loss`. `null` = votes are simulated."""

    @model_validator(mode="after")
    def _distinct(self) -> "DecideTask":
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes must differ, got {list(self.classes)}")
        return self


class Grid(Section):
    """Boxes to choose from: all of one size, evenly spaced, the outermost flush with the picture's edges."""

    columns: PositiveInt = 6
    """Boxes side by side."""
    rows: PositiveInt = 6
    """Boxes one above the other."""
    width: float = Field(0.25, gt=0, le=1)
    """Of a box, as a share of the picture's."""
    height: float = Field(0.25, gt=0, le=1)
    """Of a box, as a share of the picture's."""


class LocateTask(TaskSection):
    """Choose the box that fits a thing in the picture best; the score is the IoU with the true box."""

    kind: Literal["locate"] = "locate"
    box: str = "box"
    """Key in `extras` with the true box [x1, y1, x2, y2], in pixels of the stored picture."""
    modality: str = "image"
    """Which of the observed modalities the box is on; an image."""
    grid: Grid = Grid()


Task = Annotated[DecideTask | LocateTask, Field(discriminator="kind")]


class MlpEncoder(Section):
    """Hidden layers on the flattened input."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[PositiveInt, ...] = (128,)
    """Width of each layer."""


class CnnEncoder(Section):
    """Convolutions, each with ReLU and a pooling by 2; over time and frequency for sound."""

    kind: Literal["cnn"] = "cnn"
    channels: tuple[PositiveInt, ...] = Field((16, 32), min_length=1)
    """Channels of each layer."""
    kernel_size: PositiveInt = 3
    """Side of the convolutions."""


class RecurrentEncoder(Section):
    """The last state of a recurrent network over frames of sound or words."""

    kind: Literal["gru", "lstm"] = "gru"
    """The network's cell."""
    hidden: PositiveInt = 64
    """Width of the state."""
    layers: PositiveInt = 1
    """Networks on top of each other."""


class EmbeddingEncoder(Section):
    """Mean of the words' embeddings."""

    kind: Literal["embedding"] = "embedding"


class PretrainedEncoder(Section):
    """Pooled features of a CLIP or ViT checkpoint, whose weights stay as they are."""

    kind: Literal["pretrained"] = "pretrained"
    path: PathText
    """Directory in Hugging Face format."""


PictureEncoder = Annotated[MlpEncoder | CnnEncoder | PretrainedEncoder, Field(discriminator="kind")]
SoundEncoder = Annotated[MlpEncoder | CnnEncoder | RecurrentEncoder, Field(discriminator="kind")]
WordEncoder = Annotated[EmbeddingEncoder | RecurrentEncoder, Field(discriminator="kind")]


class FrontEnd(Section):
    """The form of sound before it is encoded."""

    kind: Literal["log_mel", "mfcc", "waveform"] = "log_mel"
    """What a frame of sound is described by."""
    bands: PositiveInt = 24
    """Mel bands; also the number of coefficients of `mfcc`, and of samples in a frame's place for `waveform`."""
    window_s: PositiveFloat = 0.032
    """Seconds of a frame."""
    hop_s: PositiveFloat = 0.016
    """Seconds from one frame to the next."""


class ModalitySection(Section):
    index: NonNegativeInt = 0
    """Which of the record's media of this kind, in the order in which they are shown."""


class ImageModality(ModalitySection):
    """float32 [channels, height, width] in 0…1."""

    kind: Literal["image"] = "image"
    height: PositiveInt = 16
    """Pixels that pictures are scaled to."""
    width: PositiveInt = 16
    """Pixels that pictures are scaled to."""
    channels: Literal[1, 3] = 1
    """1 = grey, 3 = colours."""
    encoder: PictureEncoder = CnnEncoder()
    """From the picture to features."""


class AudioModality(ModalitySection):
    """float32 [frames, bands] of `front_end`, from sound that is cut off or filled up with silence."""

    kind: Literal["audio"] = "audio"
    seconds: PositiveFloat
    """Sound that is heard."""
    sampling_rate: PositiveInt = 16_000
    """Samples per second."""
    front_end: FrontEnd = FrontEnd()
    encoder: SoundEncoder = CnnEncoder()
    """From the sound to features."""


class VideoModality(ModalitySection):
    """float32 [frames, channels, height, width] in 0…1, frames evenly over the clip."""

    kind: Literal["video"] = "video"
    frames: PositiveInt = 8
    """Frames that are seen."""
    height: PositiveInt = 16
    """Pixels that frames are scaled to."""
    width: PositiveInt = 16
    """Pixels that frames are scaled to."""
    channels: Literal[1, 3] = 1
    """1 = grey, 3 = colours."""
    pool: Literal["mean", "max", "gru"] = "mean"
    """How the frames' features become the clip's."""
    encoder: PictureEncoder = CnnEncoder()
    """From a frame to features."""


class TextModality(Section):
    """int64 [words]: buckets 1… of the lower-case words by hash, 0 = none; further words are cut off."""

    kind: Literal["text"] = "text"
    column: str | None = None
    """Key in `extras` with the text; `null` = the text of the messages."""
    words: PositiveInt = 16
    """Words that are read."""
    buckets: int = Field(1024, ge=2)
    """Different numbers that words are hashed to."""
    encoder: WordEncoder = EmbeddingEncoder()
    """From words to features."""


Modality = Annotated[ImageModality | AudioModality | VideoModality | TextModality, Field(discriminator="kind")]


class ObservationSection(Section):
    """What is seen, heard and read before a decision."""

    modalities: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")], Modality] = Field(min_length=1)
    """Name → what is observed. Where a record lacks it, the modality counts as missing."""
    drop: float = Field(0.0, ge=0, lt=1)
    """Probability that a modality is missing in training though it is there; one always stays."""


class SequentialSection(Section):
    """One modality is shown first; the others have to be asked for, at a cost, before the decision."""

    first: str
    """Modality that is shown from the start. A record that lacks it shows nothing until something is asked for."""
    cost: NonNegativeFloat = 0.1
    """Subtracted from the reward for each modality that is asked for."""


class FusionSection(Section):
    """How modalities become one."""

    kind: Literal["concat", "weighted", "attention"] = "concat"
    """`weighted`: a sum with learned weights; `attention`: each modality attends to the others."""
    stage: Literal["early", "late", "hybrid"] = "hybrid"
    """`early`: features, then one trunk; `late`: a decision by each modality, then their fusion; `hybrid`: both."""
    width: PositiveInt = 64
    """Features that each encoder hands over."""
    hidden: tuple[PositiveInt, ...] = Field((128,), min_length=1)
    """Layers of the trunk, which all tasks share."""
    heads: PositiveInt = 4
    """Of attention."""

    @model_validator(mode="after")
    def _divides(self) -> "FusionSection":
        if self.kind == "attention" and self.width % self.heads:
            raise ValueError(f"fusion.width={self.width} must be a multiple of fusion.heads={self.heads}")
        return self


class AlgorithmKeys(Section):
    """Keys that every algorithm has."""

    lr: PositiveFloat = 1e-3
    """Learning rate."""
    lr_end: PositiveFloat | None = None
    """`lr` falls to it in a straight line over `steps` × `decisions_per_step` decisions; `null` = it stays."""
    gamma: Share = 0.99
    """Discount per decision; without effect where each case is one decision."""
    max_grad_norm: PositiveFloat = 10.0
    """Gradients with a larger norm are scaled down to it."""

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.lr_end is not None and self.lr_end > self.lr:
            raise ValueError(f"algorithm.lr_end={self.lr_end:g} must not be above algorithm.lr={self.lr:g}")
        return self


class EpsilonSchedule(Section):
    """Share of decisions made at random, falling in a straight line."""

    start: Share = 1.0
    """At first."""
    end: Share = 0.05
    """In the end."""
    decisions: PositiveInt = 10_000
    """Over which it falls from start to end."""


class DQN(AlgorithmKeys):
    """Deep Q-learning (Mnih et al. 2015)."""

    kind: Literal["dqn"] = "dqn"
    double: bool = True
    """van Hasselt et al. 2016."""
    dueling: bool = True
    """Wang et al. 2016."""
    prioritized: bool = True
    """Prioritised replay (Schaul et al. 2016)."""
    epsilon: EpsilonSchedule = EpsilonSchedule()
    buffer: PositiveInt = 20_000
    """Decisions kept for replay."""
    batch_size: PositiveInt = 64
    """Decisions of an update, drawn from the replay."""
    updates_per_decision: PositiveFloat = 0.25
    """Updates for each decision made."""
    learning_starts: NonNegativeInt = 500
    """Decisions before the first update."""
    target_every: PositiveInt = 500
    """Decisions after which the target network becomes the learner's."""


class ActorCritic(AlgorithmKeys):
    entropy_coef: NonNegativeFloat = 0.01
    """Weight of the entropy, which keeps decisions diverse."""
    vf_coef: NonNegativeFloat = 0.5
    """Weight of the critic's loss."""
    gae_lambda: Share = 0.95
    """λ of GAE."""


class PPO(ActorCritic):
    """Schulman et al. 2017."""

    kind: Literal["ppo"] = "ppo"
    clip_range: PositiveFloat = 0.2
    """Ratios further from 1 than this are clipped."""
    value_clip_range: PositiveFloat = 10.0
    """Bound on the critic's squared error."""
    ppo_epochs: PositiveInt = 4
    """Passes over the decisions of a step."""
    mini_batch_size: PositiveInt = 128
    """Decisions of an update."""


class A2C(ActorCritic):
    """One epoch, the entire batch at once, no clipping (Mnih et al. 2016)."""

    kind: Literal["a2c"] = "a2c"
    gae_lambda: Share = 1.0


class Reinforce(AlgorithmKeys):
    """Policy gradient with returns (Williams 1992); no critic."""

    kind: Literal["reinforce"] = "reinforce"
    entropy_coef: NonNegativeFloat = 0.01
    """Weight of the entropy, which keeps decisions diverse."""


class Clone(AlgorithmKeys):
    """Behaviour cloning: supervised learning of labels and demonstrations."""

    kind: Literal["clone"] = "clone"
    batch_size: PositiveInt = 64
    """Rows of an update."""
    labelled_share: float = Field(1.0, gt=0, le=1)
    """Of the training rows, drawn by the seed; the others' labels are not used."""


DiscreteAlgorithm = Annotated[DQN | PPO | A2C | Reinforce | Clone, Field(discriminator="kind")]
