"""Where records and media come from, and what is done to them on the way to the model."""

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from mmrlhf_ray.config.paths import FunctionText, PathText
from mmrlhf_ray.config.section import Section

_UNSETTLED_TOKENS = 1024
_ALL_CHECKED = 4096
_SAMPLE_CHECKED = 256
"""A processor takes 50 ms for an image of a megapixel and longer for a clip."""


class MediaLimits(Section):
    """Largest media that are decoded, judged by the header before anything is decoded."""

    bytes: PositiveInt = 64 * 2**20
    """Encoded size."""
    pixels: PositiveInt = 50_000_000
    """Width × height of an image or of one frame."""
    clip_pixels: PositiveInt = 500_000_000
    """Width × height × frames of a clip (3 bytes each once decoded)."""
    seconds: PositiveFloat = 600.0
    """Length of a sound or clip."""
    frames: PositiveInt = 1024
    """Frames of a clip that the model sees."""


class VideoSampling(Section):
    """Which frames of a clip the model sees."""

    fps: PositiveFloat | None = None
    """Frames per second of the clip's own time, also where its frame rate varies; `null` = every frame."""
    max_frames: PositiveInt | None = None
    """At most this many, evenly spaced over the clip."""
    sound: bool = False
    """The clip's sound track follows it as a separate audio part."""

    @property
    def all_frames(self) -> bool:
        return self.fps is None and self.max_frames is None


class RemoteMedia(Section):
    """Media at addresses; refused unless a host is allowed."""

    allow_hosts: tuple[str, ...] = ()
    """Hosts (`media.example.org`, or `.example.org` for all below it) that https addresses may name."""
    allow_http: bool = False
    """Without encryption, too."""
    deadline_s: PositiveFloat = 20.0
    """For one address, redirects included."""
    max_redirects: NonNegativeInt = 3
    """Redirects that are followed, each to an allowed host."""


class DecodeConfig(Section):
    """Media are decoded in separate processes, which may crash, swell or hang without harm."""

    workers: PositiveInt = 1
    """Processes for each actor that decodes."""
    memory_mb: PositiveInt = 4096
    """Address space that a process may add to what it starts with."""
    deadline_s: PositiveFloat = 30.0
    """For one clip; the process is killed when it takes longer."""
    recycle_after: PositiveInt = 2000
    """Clips after which a process is replaced."""


class ImageAugment(Section):
    """Changes of images."""

    crop: float = Field(0.0, ge=0, lt=1)
    """Largest share of each side that is cut off."""
    flip: float = Field(0.0, ge=0, le=1)
    """Probability of a mirror image; not where left and right matter."""
    colour: float = Field(0.0, ge=0, lt=1)
    """Largest relative change of brightness, contrast and saturation."""


class AudioAugment(Section):
    """Changes of sounds."""

    noise_db: NonNegativeFloat | None = None
    """White noise, this many decibels below the sound; `null` = no noise."""
    gain_db: NonNegativeFloat = 0.0
    """Largest change of loudness, up or down."""


class VideoAugment(Section):
    """Changes of clips."""

    jitter: float = Field(0.0, ge=0, le=1)
    """Share of frames that are replaced by a neighbour."""


class AugmentConfig(Section):
    """Seeded changes of training media, for what `tasks` names only."""

    tasks: tuple[str, ...] = Field(min_length=1)
    """Tasks whose answers stay right when media change in this way."""
    image: ImageAugment = ImageAugment()
    audio: AudioAugment = AudioAugment()
    video: VideoAugment = VideoAugment()


class TextHooks(Section):
    """Functions `path/to/file.py:function` from text to text, run on every text of a record in this order."""

    clean: tuple[FunctionText, ...] = ()
    """For markup, white space and the like."""
    redact: tuple[FunctionText, ...] = ()
    """For personal data: what they change is counted in the report. `builtin:pii` masks addresses and numbers."""


class _Names(dict[str, str | None]):
    """Hashable, as all of a configuration is: workers keep what they made for one."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


ColumnNames = Annotated[dict[str, str | None], AfterValidator(_Names)]


class SourceConfig(Section):
    """One data set of a mixture."""

    path: PathText
    """File, directory, fsspec URL or `hf:NAME` of a data set."""
    format: str | None = None
    """Of docs/data.md; `null` = detected from the rows, and an error where two formats fit."""
    weight: PositiveFloat = 1.0
    """Share of the rows drawn, in proportion to the other sources'."""
    task: str | None = None
    """Task of rows that name none."""
    split: str | None = None
    """Of a Hugging Face data set."""
    columns: ColumnNames = Field(default_factory=_Names)
    """Other names for keys of the rows, before their format is told: `{question: prompt, answer: response}`. `null`
    leaves a key out; texts of several keys with one name are joined by a line break."""


class DataConfig(Section):
    """Records, their media, and how they are read."""

    path: PathText | None = None
    """A .jsonl, .json, .csv, .tsv, .parquet, .arrow or .tar file or URL, a directory of records or of a saved Hugging
    Face data set, or `hf:NAME`."""
    format: str | None = None
    """As in `sources`."""
    split: str | None = None
    """As in `sources`."""
    columns: ColumnNames = Field(default_factory=_Names)
    """As in `sources`."""
    sources: tuple[SourceConfig, ...] = ()
    """A mixture, instead of `path`."""
    media_root: PathText | None = None
    """Directory that media paths are relative to and may not leave; `null` = that of the file."""
    on_bad_row: Literal["fail", "quarantine"] = "fail"
    """`quarantine` writes bad rows with their reasons to the run's directory and continues without them."""
    facts_column: str | None = None
    """Key in `extras` whose text the reward model reads before the prompt; the policy never sees it."""
    max_prompt_tokens: PositiveInt | None = None
    """Most tokens of a prompt, media tokens counted; `null` = what the model's context and one forward pass
    (`micro_batch_tokens`) have room for next to the longest response."""
    over_long: Literal["reject", "truncate_text"] = "reject"
    """Treatment of longer prompts: bad rows, or the start of their last text goes, never a part of their media."""
    check_rows: PositiveInt | None = None
    """Rows, drawn by the seed, that the processor is run on before anything starts, the rest when their turn comes;
    `null` = all of up to 4,096, and of more of them 256."""
    streaming: bool = False
    """Rows are read, decoded and encoded while training goes on, in bounded memory; none of them is held for long."""
    stream_workers: PositiveInt = 1
    """Processes that do so, for each training worker."""
    encoder_cache_mb: PositiveInt = 512
    """Processor features kept in memory; the least recently used go first."""
    spill_dir: PathText | None = None
    """Directory for features that no longer fit; `null` = they are computed anew."""
    spill_mb: PositiveInt = 8192
    """Most that is kept there."""
    limits: MediaLimits = MediaLimits()
    video: VideoSampling = VideoSampling()
    remote: RemoteMedia = RemoteMedia()
    decode: DecodeConfig = DecodeConfig()
    augment: AugmentConfig | None = None
    """Training only."""
    text: TextHooks = TextHooks()

    @model_validator(mode="after")
    def _one_origin(self) -> "DataConfig":
        if (self.path is None) == (not self.sources):
            raise ValueError(f"give exactly one of path and sources; got path={self.path}, {len(self.sources)} sources")
        if self.sources and (self.format or self.split or self.columns):
            raise ValueError("format, split and columns of a mixture stand in each of its sources")
        return self

    @property
    def most_prompt_tokens(self) -> int:
        """`max_prompt_tokens`; 1024 where nothing has settled it (planning/settle.py)."""
        return self.max_prompt_tokens or _UNSETTLED_TOKENS

    def rows_to_check(self, rows: int) -> int:
        """How many of `rows` the processor is run on before anything starts, as `check_rows` says."""
        if self.check_rows is None:
            return rows if rows <= _ALL_CHECKED else _SAMPLE_CHECKED
        return min(self.check_rows, rows)

    @property
    def mixture(self) -> tuple[SourceConfig, ...]:
        """`sources`, or the one that `path` names."""
        if self.path is None:
            return self.sources
        return (SourceConfig(path=self.path, format=self.format, split=self.split, columns=self.columns),)
