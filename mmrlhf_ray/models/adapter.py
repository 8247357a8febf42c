"""The differences between model families, behind one Protocol. `families/` implements it: a value for each family,
and a generic adapter for any other."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers.utils
from torch import Tensor

# transformers imports scikit-learn and SciPy where they are installed, for assisted generation and for the losses of
# object detection: nothing of ours, and a sixth of the time that a role takes to start. It must be told before that.
transformers.utils.is_sklearn_available = transformers.utils.is_scipy_available = lambda: False

from transformers import AutoProcessor, PreTrainedModel, ProcessorMixin  # noqa: E402

from mmrlhf_ray.errors import ModelError  # noqa: E402
from mmrlhf_ray.models.families.clips import Tower  # noqa: E402
from mmrlhf_ray.models.families.shared import SharedRows  # noqa: E402


class ModelAdapter(Protocol):
    """One model family: how to load it, what its processor returns, what its weights are called."""

    @property
    def family(self) -> str:
        """`model_type` of the directory's config.json."""

    @property
    def placeholders(self) -> Mapping[str, str]:
        """Media kind → the processor attribute that holds its placeholder token."""

    @property
    def feature_keys(self) -> Mapping[str, tuple[str, ...]]:
        """Media kind → the processor's outputs that belong to it."""

    @property
    def sampled_as(self) -> Mapping[str, str]:
        """Processor attribute of a placeholder that the sampler leaves in an expanded prompt → of the one that the
        processor writes there. What is embedded is the same."""

    @property
    def video_metadata(self) -> bool:
        """Whether the processor wants each clip's frame rate and frame numbers."""

    @property
    def least_sound_s(self) -> float:
        """Seconds that shorter sounds are filled up to with silence; if above 0, all are filled up to a multiple of the
        extractor's hop. For towers that read what is padded too, and so give another answer in other company."""

    @property
    def towers(self) -> Mapping[str, Tower]:
        """Feature key that a media tower reads → the tower, where each clip may go through it once per pass."""

    @property
    def shared_rows(self) -> SharedRows | None:
        """How responses can stand behind one prompt; None = only in rows of their own."""

    @property
    def language_model(self) -> str:
        """Regular expression of the language model's module name, in transformers' classes that read the directory."""

    @property
    def parts(self) -> Mapping[str, str]:
        """Key of PartsConfig → regular expression of its parameters' names in the class that load() returns. Every
        parameter belongs to exactly one part."""

    def load(self, path: Path, dtype: torch.dtype, device_map: str | None = None) -> PreTrainedModel:
        """The causal language model with its media towers, in evaluation mode; on the CPU, or spread over the
        process's GPUs by `device_map="auto"`. Raises ModelError where the directory lacks weights that the class
        needs, other than a reward model's vocabulary head: headed.py refuses that where the head is used."""

    def architecture(self, path: Path) -> PreTrainedModel:
        """The model that load() returns, without its weights: on the meta device, from config.json alone."""

    def processor_kwargs(self, processor: ProcessorMixin) -> dict[str, Any]:
        """Keyword arguments that learner and sampler both pass to the processor."""

    def item_rows(
        self, processor: ProcessorMixin, key: str, outputs: Mapping[str, Any], kinds: Sequence[str]
    ) -> list[int]:
        """How the rows (dim 0) of the processor's output `key` divide among the clips that it belongs to. `kinds`: of
        those clips, in prompt order."""

    def checkpoint_name(self, name: str) -> str:
        """Name of a learner's parameter in the directory's safetensors, which is the sampler's name too."""

    def checkpoint_tensors(self, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """A learner's parameter as the directory's safetensors have it: under checkpoint_name(), or in pieces."""


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a model directory. Raises ModelError where there is none."""
    file = Path(path) / "config.json"
    if not file.is_file():
        raise ModelError(f"{path}: expected a model directory in Hugging Face format, found no config.json; check path")
    return json.loads(file.read_text())


def load_processor(path: Path) -> ProcessorMixin:
    """The directory's own processor (tokenizer, image, audio and video parts, chat template). Raises ModelError, which
    names the file, where one of them is not there or cannot be read."""
    check_processor_files(path)
    try:
        processor = AutoProcessor.from_pretrained(str(path), trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:  # what transformers raises for bad files
        raise ModelError(
            f"{path}: transformers cannot load its processor: {str(error).strip().splitlines()[0][:200]}; copy the "
            "processor and tokenizer files of the released model there"
        ) from error
    if not isinstance(processor, ProcessorMixin):
        raise ModelError(
            f"{path}: expected a processor of text and media, found a {type(processor).__name__} alone; copy "
            f"{' or '.join(_PROCESSOR_FILES)} of the released model there"
        )
    if not processor.chat_template:
        raise ModelError(
            f"{path}: expected a chat template, found none; copy chat_template.jinja of the released model there"
        )
    return processor


_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json")


def check_processor_files(path: str | Path) -> None:
    """Raise ModelError, which names the file, where a model directory has no processor or no tokenizer."""
    for what, names in (("processor", _PROCESSOR_FILES), ("tokenizer", _TOKENIZER_FILES)):
        if not any((Path(path) / name).is_file() for name in names):
            raise ModelError(
                f"{path}: expected the model's {what}, found no {names[0]} (nor {', '.join(names[1:])}); copy it from "
                "the released model"
            )


def eos_token_ids(path: Path, vocabulary: int | None = None) -> list[int]:
    """Token ids that end a response, from generation_config.json, in its order. `vocabulary`: how many ids there are.

    Raises ModelError where it names none, or something else than ids.
    """
    file = Path(path) / "generation_config.json"
    try:
        said = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise ModelError(f"{file}: expected JSON, got {error}; copy it from the released model") from error
    ids = said.get("eos_token_id") if isinstance(said, dict) else None
    if ids is None or ids == []:
        raise ModelError(f"{file}: expected eos_token_id (the token that ends a response), found none; add it")
    listed = ids if isinstance(ids, list) else [ids]
    for number in listed:
        if type(number) is not int or number < 0 or (vocabulary is not None and number >= vocabulary):
            most = "" if vocabulary is None else f" below {vocabulary}"
            raise ModelError(
                f"{file}: expected eos_token_id to be a token id or a list of them{most}, got {ids!r}; write the "
                "token's number in tokenizer.json"
            )
    return list(listed)
